// SPDX-License-Identifier: Apache-2.0

// What the Go seats of overhead.py measure: net/http as it comes, plain on the first port and TLS on the second, a small
// fixed body under a pattern, and at /status how many requests were handled, in the form of nginx's stub_status.
package main

import (
	"fmt"
	"log"
	"net/http"
	"os"
	"strings"
	"sync/atomic"
)

var handled int64

func counted(handle http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		atomic.AddInt64(&handled, 1)
		handle(w, r)
	}
}

func main() {
	body := []byte(strings.Repeat("x", 127) + "\n")
	http.HandleFunc("/index.html", counted(func(w http.ResponseWriter, r *http.Request) { w.Write(body) }))
	http.HandleFunc("/status", counted(func(w http.ResponseWriter, r *http.Request) {
		n := atomic.LoadInt64(&handled)
		fmt.Fprintf(w, "Active connections: 1\nserver accepts handled requests\n %d %d %d\n", n, n, n)
	}))
	go func() { log.Fatal(http.ListenAndServeTLS("127.0.0.1:"+os.Args[2], os.Args[3], os.Args[3], nil)) }()
	log.Fatal(http.ListenAndServe("127.0.0.1:"+os.Args[1], nil))
}
