// SPDX-License-Identifier: Apache-2.0

// A server whose requests are routed by http.ServeMux to gorilla/mux, chi, gin and echo, each under its own name. The
// port goes to standard output; the end of standard input is the end. Usage: goroutes (plain|tls)
package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"strconv"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/go-chi/chi/v5"
	"github.com/gorilla/mux"
	"github.com/labstack/echo/v4"
)

type key struct{}

// As many bytes as the query's `down` says: with more than net/http keeps back, the head goes out before the handler ends.
func answer(w http.ResponseWriter, r *http.Request) {
	down, err := strconv.Atoi(r.URL.Query().Get("down"))
	must(err)
	_, err = w.Write(bytes.Repeat([]byte("d"), down))
	must(err)
}

// Middleware that goes on with another request, as many do.
func another(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), key{}, 1)))
	})
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}

func gorillas() http.Handler {
	router := mux.NewRouter()
	router.HandleFunc("/mux/items/{id:[0-9]+}", answer).Methods("GET")
	inner := router.PathPrefix("/mux/api").Subrouter()
	inner.Use(another)
	inner.HandleFunc("/users/{name}", answer)
	return another(router)
}

func chis() http.Handler {
	router := chi.NewRouter()
	router.Use(another)
	router.Get("/chi/items/{id}", answer)
	router.Route("/chi/api", func(r chi.Router) {
		r.Route("/v1", func(r chi.Router) {
			r.With(another).Get("/users/{name}", answer)
			r.Get("/", answer)
		})
		r.Handle("/files/*", http.HandlerFunc(answer))
	})
	return router
}

func gins() http.Handler {
	gin.SetMode(gin.ReleaseMode)
	router := gin.New()
	router.Use(func(c *gin.Context) { c.Next() })
	router.GET("/gin/items/:id", gin.WrapF(answer))
	router.Group("/gin/api").GET("/files/*path", gin.WrapF(answer))
	return router
}

func echos() http.Handler {
	router := echo.New()
	router.Use(echo.WrapMiddleware(another))
	router.GET("/echo/items/:id", echo.WrapHandler(http.HandlerFunc(answer)))
	router.Group("/echo/api").GET("/files/*", echo.WrapHandler(http.HandlerFunc(answer)))
	return router
}

func certificate() tls.Certificate {
	secret, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(err)
	template := x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(24 * time.Hour)}
	raw, err := x509.CreateCertificate(rand.Reader, &template, &template, &secret.PublicKey, secret)
	must(err)
	return tls.Certificate{Certificate: [][]byte{raw}, PrivateKey: secret}
}

func main() {
	routes := http.NewServeMux()
	routes.Handle("/mux/", gorillas())
	routes.Handle("/chi/", chis())
	routes.Handle("/gin/", gins())
	routes.Handle("/echo/", echos())
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	must(err)
	server := &http.Server{Handler: routes, TLSNextProto: map[string]func(*http.Server, *tls.Conn, http.Handler){}}
	fmt.Println(listener.Addr().(*net.TCPAddr).Port)
	if os.Args[1] == "tls" {
		server.TLSConfig = &tls.Config{Certificates: []tls.Certificate{certificate()}}
		go server.ServeTLS(listener, "", "")
	} else {
		go server.Serve(listener)
	}
	_, err = io.Copy(io.Discard, os.Stdin)
	must(err)
}
