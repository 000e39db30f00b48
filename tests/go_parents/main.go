// SPDX-License-Identifier: Apache-2.0

// A front and the leaf that it calls, in one process, for tests of parents inside of Go programs. The port of the front
// goes to standard output; then every line of standard input is a job, answered by a line once it is done: `Connections`
// clients make `Requests` requests each for /WAY/NUMBER, one of `Ways` after the other, for which the front gets /leaf/NUMBER
// from the leaf. Stay: the job is done when the last way, "opens", is at work; "go on" lets it end, "late" what is "after".
package main

import (
	"bufio"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

type job struct {
	Ways                  []string
	Connections, Requests int
	Stay                  bool
}

type task struct {
	number string
	done   chan bool
}

var (
	leaf    string
	client  *http.Client
	count   int64
	lazy    sync.Once
	tasks   = make(chan task)
	idle    = make(chan chan task, 64)
	opened  = make(chan bool)
	goOn    = make(chan bool)
	late    = make(chan bool)
	staying *sync.WaitGroup
)

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

func get(number string) {
	response, err := client.Get(leaf + "/leaf/" + number)
	check(err)
	_, err = io.Copy(io.Discard, response.Body)
	check(err)
	response.Body.Close()
}

func deep(number string, levels int, done chan<- bool) {
	if levels == 0 {
		get(number)
		done <- true
		return
	}
	go deep(number, levels-1, done)
}

// A worker that is begun by the first who has something to do, and goes on with what others have.
func work() {
	for t := range tasks {
		get(t.number)
		t.done <- true
	}
}

// Likewise, but each begins one if none is idle, and the worker ends when nobody has anything to do.
func pooled(t task) {
	queue := make(chan task, 1)
	select {
	case queue = <-idle:
		queue <- t
	default:
		queue <- t
		go func() {
			for t := range queue {
				get(t.number)
				select {
				case idle <- queue:
				default:
				}
				t.done <- true
			}
		}()
	}
}

// Calls again until one is good, in a goroutine of its own.
func again(number string, done chan<- bool) {
	for i := 0; i < 2; i++ {
		get(number)
	}
	done <- true
}

func front(w http.ResponseWriter, r *http.Request) {
	parts := strings.Split(r.URL.Path, "/")
	way, number := parts[1], parts[2]
	done := make(chan bool, 2)
	switch way {
	case "own":
		get(number)
		done <- true
	case "deep":
		go deep(number, 3, done)
	case "both":
		go deep(number, 1, done)
		get(number)
	case "lazy":
		lazy.Do(func() { go work() })
		tasks <- task{number, done}
	case "pool":
		pooled(task{number, done})
	case "again":
		go again(number, done)
	case "opens": // waits while others, for whom it began what they need, are served
		lazy.Do(func() { go work() })
		opened <- true
		<-goOn
		done <- true
	case "after": // is answered before it calls
		go func() {
			<-late
			get(number)
			late <- true
		}()
		done <- true
	}
	<-done
	fmt.Fprintln(w, number)
}

func certificate() tls.Certificate {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	check(err)
	template := x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(24 * time.Hour)}
	raw, err := x509.CreateCertificate(rand.Reader, &template, &template, &key.PublicKey, key)
	check(err)
	return tls.Certificate{Certificate: [][]byte{raw}, PrivateKey: key}
}

func serve(secure bool, handler http.HandlerFunc) string {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	check(err)
	server := &http.Server{Handler: handler}
	if !secure {
		go server.Serve(listener)
		return "http://" + listener.Addr().String()
	}
	server.TLSConfig = &tls.Config{Certificates: []tls.Certificate{certificate()}}
	server.TLSNextProto = map[string]func(*http.Server, *tls.Conn, http.Handler){}
	go server.ServeTLS(listener, "", "")
	return "https://" + listener.Addr().String()
}

func transport(close bool) *http.Transport {
	config := &tls.Config{InsecureSkipVerify: true}
	return &http.Transport{TLSClientConfig: config, MaxIdleConnsPerHost: 100, DisableKeepAlives: close}
}

func ask(url string, j job, asking *sync.WaitGroup) {
	defer asking.Done()
	own := &http.Client{Transport: transport(false)}
	defer own.CloseIdleConnections()
	for i := 0; i < j.Requests; i++ {
		way := j.Ways[i%len(j.Ways)]
		response, err := own.Get(fmt.Sprintf("%s/%s/%d", url, way, atomic.AddInt64(&count, 1)))
		check(err)
		_, err = io.Copy(io.Discard, response.Body)
		check(err)
		response.Body.Close()
	}
}

func main() {
	secure := flag.Bool("tls", false, "")
	close := flag.Bool("close", false, "of the front: a connection for each call")
	flag.Parse()
	client = &http.Client{Transport: transport(*close)}
	leaf = serve(*secure, func(w http.ResponseWriter, r *http.Request) { fmt.Fprintln(w, "leaf") })
	url := serve(*secure, front)
	fmt.Println(url[strings.LastIndex(url, ":")+1:])
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		var j job
		check(json.Unmarshal(lines.Bytes(), &j))
		asking := &sync.WaitGroup{}
		for i := 0; i < j.Connections; i++ {
			asking.Add(1)
			go ask(url, j, asking)
		}
		switch {
		case j.Stay:
			<-opened
			staying = asking
		case j.Ways[0] == "late":
			late <- true
			<-late
		case j.Ways[0] == "go on":
			goOn <- true
			staying.Wait()
		default:
			asking.Wait()
		}
		fmt.Println(j.Connections * j.Requests)
	}
}
