// SPDX-License-Identifier: Apache-2.0

// A program that asks with Go's net/http, eight at once. Usage: goclient PLAN (h1|h2)
// PLAN and what is printed are as requests_client.py has them. h2: what ALPN gives; h1: HTTP/1.1 only.
package main

import (
	"bufio"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"
)

type plan []json.RawMessage

func (p plan) read(values ...any) {
	for i, value := range values {
		if err := json.Unmarshal(p[i], value); err != nil {
			panic(err)
		}
	}
}

func ask(client *http.Client, line plan) {
	var number, size int
	var method, url string
	var headers map[string]string
	line.read(&number, &method, &url, &size, &headers)
	var body io.Reader
	if size > 0 {
		body = strings.NewReader(strings.Repeat("b", size))
	}
	request, err := http.NewRequest(method, url, body)
	if err != nil {
		panic(err)
	}
	for name, value := range headers {
		request.Header.Set(name, value)
	}
	start := time.Now()
	response, err := client.Do(request)
	if err != nil {
		panic(err)
	}
	if _, err := io.Copy(io.Discard, response.Body); err != nil {
		panic(err)
	}
	response.Body.Close()
	fmt.Printf("[%d, %d, %d, %d]\n", number, response.StatusCode, start.UnixNano(), time.Since(start))
}

func main() {
	transport := &http.Transport{ForceAttemptHTTP2: true}
	if os.Args[2] == "h1" {
		transport = &http.Transport{TLSNextProto: map[string]func(string, *tls.Conn) http.RoundTripper{}}
	}
	client := &http.Client{Transport: transport}
	file, err := os.Open(os.Args[1])
	if err != nil {
		panic(err)
	}
	lines := make(chan plan)
	var workers sync.WaitGroup
	for i := 0; i < 8; i++ {
		workers.Add(1)
		go func() {
			defer workers.Done()
			for line := range lines {
				ask(client, line)
			}
		}()
	}
	scanner := bufio.NewScanner(file)
	for scanner.Scan() {
		var line plan
		if err := json.Unmarshal(scanner.Bytes(), &line); err != nil {
			panic(err)
		}
		lines <- line
	}
	close(lines)
	workers.Wait()
}
