// SPDX-License-Identifier: Apache-2.0

// Go's net/http, as it comes. Usage: goshop PORT [CERTIFICATE KEY | h2c]
package main

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"time"
)

// Of toolchains that have it.
var h2c = func(string, http.Handler) error { return errors.New("Go 1.24 and newer") }

func logged(w http.ResponseWriter, r *http.Request) {
	fmt.Printf("\"%s %s %s\"\n", r.Method, r.RequestURI, r.Proto)
	http.DefaultServeMux.ServeHTTP(w, r)
}

func main() {
	http.HandleFunc("/hello", func(w http.ResponseWriter, r *http.Request) { fmt.Fprintln(w, "hello") })
	http.HandleFunc("/users/", func(w http.ResponseWriter, r *http.Request) { fmt.Fprintln(w, r.URL.Path) })
	http.HandleFunc("/echo", func(w http.ResponseWriter, r *http.Request) { io.Copy(w, r.Body) })
	http.HandleFunc("/boom", func(w http.ResponseWriter, r *http.Request) { http.Error(w, "boom", 500) })
	http.HandleFunc("/slow", func(w http.ResponseWriter, r *http.Request) {
		time.Sleep(30 * time.Millisecond)
		fmt.Fprintln(w, "at last")
	})
	http.HandleFunc("/stream", func(w http.ResponseWriter, r *http.Request) {
		for i := 0; i < 16; i++ {
			io.WriteString(w, strings.Repeat("x", 4096))
		}
	})
	address := "127.0.0.1:" + os.Args[1]
	switch len(os.Args) {
	case 2:
		panic(http.ListenAndServe(address, http.HandlerFunc(logged)))
	case 3:
		panic(h2c(address, http.HandlerFunc(logged)))
	default:
		panic(http.ListenAndServeTLS(address, os.Args[2], os.Args[3], http.HandlerFunc(logged)))
	}
}
