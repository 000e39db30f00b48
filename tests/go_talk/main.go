// SPDX-License-Identifier: Apache-2.0

// A server and its clients in one process, for tests of what the probes see of Go. The port goes to standard output;
// then every line of standard input is a job, answered by a line with what was done, once all of it is over.
package main

import (
	"bufio"
	"bytes"
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
	"strconv"
	"sync"
	"time"
)

// A job: each of `Connections` clients, on a connection of its own, makes `Requests` requests with bodies of `Up` bytes for
// answers of `Down` bytes, chunked if it says so. Wrap: the client's net.Conn is within another. Keep: jobs share a
// connection. Late: the one request is on a connection that is written to again when it is closed.
type job struct {
	Connections, Requests, Up, Down  int
	Chunked, Wrap, Keep, HTTP2, Late bool
	Path                             string
	Port                             int
}

type wrapped struct{ net.Conn }

func certificate() tls.Certificate {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	check(err)
	template := x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(24 * time.Hour)}
	template.DNSNames = []string{"localhost"}
	raw, err := x509.CreateCertificate(rand.Reader, &template, &template, &key.PublicKey, key)
	check(err)
	return tls.Certificate{Certificate: [][]byte{raw}, PrivateKey: key}
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

func answer(w http.ResponseWriter, r *http.Request) {
	up, err := io.Copy(io.Discard, r.Body)
	check(err)
	down, err := strconv.Atoi(r.URL.Query().Get("down"))
	check(err)
	if r.ContentLength != up && r.ContentLength >= 0 {
		log.Fatal("cut")
	}
	body := bytes.Repeat([]byte("d"), down)
	if r.URL.Query().Get("chunked") == "" {
		w.Header().Set("Content-Length", strconv.Itoa(down))
		_, err = w.Write(body)
	} else {
		w.WriteHeader(201)
		for len(body) > 0 && err == nil {
			n := min(len(body), 1000)
			_, err = w.Write(body[:n])
			w.(http.Flusher).Flush()
			body = body[n:]
		}
	}
	_ = err // of a client that has gone: one that has not finds out
}

func min(a, b int) int {
	if a < b {
		return a
	}
	return b
}

func dial(network, address string) (net.Conn, error) {
	conn, err := net.Dial(network, address)
	return wrapped{conn}, err
}

var kept = &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}

func client(scheme string, j job, config *tls.Config, done *sync.WaitGroup) {
	defer done.Done()
	transport := &http.Transport{TLSClientConfig: config, ForceAttemptHTTP2: j.HTTP2}
	if j.Wrap {
		transport.Dial = dial
	}
	if j.Keep {
		transport = kept
	} else {
		defer transport.CloseIdleConnections()
	}
	address := fmt.Sprintf("%s://127.0.0.1:%d%s?down=%d", scheme, j.Port, j.Path, j.Down)
	if j.Chunked {
		address += "&chunked=1"
	}
	for i := 0; i < j.Requests; i++ {
		var body io.Reader
		method := "GET"
		if j.Up > 0 {
			body, method = bytes.NewReader(make([]byte, j.Up)), "POST"
		}
		request, err := http.NewRequest(method, address, body)
		check(err)
		response, err := transport.RoundTrip(request)
		check(err)
		n, err := io.Copy(io.Discard, response.Body)
		check(err)
		if int(n) != j.Down {
			log.Fatal("short")
		}
		response.Body.Close()
	}
}

func late(j job) {
	conn, err := tls.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", j.Port), &tls.Config{InsecureSkipVerify: true})
	check(err)
	fmt.Fprintf(conn, "GET %s?down=%d HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n", j.Path, j.Down)
	_, err = io.Copy(io.Discard, conn)
	check(err)
	conn.Close()
	if _, err = fmt.Fprint(conn, "more"); err == nil {
		log.Fatal("written")
	}
}

func main() {
	secure := flag.Bool("tls", true, "")
	http2 := flag.Bool("http2", false, "with TLS: HTTP/2")
	patterns := flag.Bool("patterns", false, "register some, which Go knows since 1.22")
	flag.Parse()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	check(err)
	port, scheme := listener.Addr().(*net.TCPAddr).Port, "http"
	mux := http.NewServeMux()
	mux.HandleFunc("/", answer)
	if *patterns {
		mux.HandleFunc("GET /items/{id}/parts/{part...}", answer)
		mux.HandleFunc("127.0.0.1/files/", answer)
	}
	server := &http.Server{Handler: mux}
	if *secure {
		scheme = "https"
		server.TLSConfig = &tls.Config{Certificates: []tls.Certificate{certificate()}}
		if !*http2 {
			server.TLSNextProto = map[string]func(*http.Server, *tls.Conn, http.Handler){}
		}
		go server.ServeTLS(listener, "", "")
	} else {
		go server.Serve(listener)
	}
	fmt.Println(port)
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		j := job{Path: "/", Port: port}
		check(json.Unmarshal(lines.Bytes(), &j))
		var done sync.WaitGroup
		for i := 0; i < j.Connections; i++ {
			if j.Late {
				late(j)
				continue
			}
			done.Add(1)
			go client(scheme, j, &tls.Config{InsecureSkipVerify: true}, &done)
		}
		done.Wait()
		fmt.Println(j.Connections * j.Requests)
	}
}
