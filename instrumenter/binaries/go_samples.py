# SPDX-License-Identifier: Apache-2.0
"""Programs that go_offsets.py builds and measures, by module: each uses what the probes read, so that it is linked."""

from __future__ import annotations

from typing import Final

from instrumenter.binaries.go_wanted import CHI, ECHO, GIN, GORILLA, GRPC, NET, STD

SAMPLES: Final = {
    STD: """package main

import (
	"crypto/tls"
	"fmt"
	"net/http"
)

func main() {
	http.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, r.URL.Path) })
	fmt.Println(tls.Dial("tcp", ":1", nil))
	fmt.Println(http.Get("https://localhost:1/"))
	fmt.Println(http.ListenAndServeTLS(":0", "", "", nil))
}
""",
    NET: """package main

import (
	"fmt"
	"net/http"

	"golang.org/x/net/http2"
)

func main() {
	server := &http.Server{}
	fmt.Println(http2.ConfigureServer(server, nil))
	fmt.Println((&http.Client{Transport: &http2.Transport{}}).Get("https://localhost:1/"))
	fmt.Println(server.ListenAndServeTLS("", ""))
}
""",
    GRPC: """package main

import (
	"context"
	"fmt"
	"net"

	"google.golang.org/grpc"
	"google.golang.org/grpc/status"
)

func unary(any, context.Context, func(any) error, grpc.UnaryServerInterceptor) (any, error) {
	return nil, status.Error(5, "none")
}

func main() {
	server := grpc.NewServer()
	methods := []grpc.MethodDesc{{MethodName: "Call", Handler: unary}}
	server.RegisterService(&grpc.ServiceDesc{ServiceName: "sample", HandlerType: (*any)(nil), Methods: methods}, 1)
	listener, _ := net.Listen("tcp", "localhost:0")
	go server.Serve(listener)
	conn, _ := grpc.Dial(listener.Addr().String(), grpc.WithInsecure())
	fmt.Println(conn.Invoke(context.Background(), "/sample/Call", nil, nil))
	fmt.Println(conn.NewStream(context.Background(), &grpc.StreamDesc{}, "/sample/Stream"))
}
""",
    GORILLA: """package main

import (
	"fmt"
	"net/http"

	"github.com/gorilla/mux"
)

func main() {
	router := mux.NewRouter()
	router.HandleFunc("/a/{b}", func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, mux.CurrentRoute(r)) })
	fmt.Println(http.ListenAndServe(":0", router))
}
""",
    CHI: """package main

import (
	"fmt"
	"net/http"

	"github.com/go-chi/chi/v5"
)

func main() {
	router := chi.NewRouter()
	router.Get("/a/{b}", func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, chi.URLParam(r, "b")) })
	fmt.Println(http.ListenAndServe(":0", router))
}
""",
    GIN: """package main

import (
	"fmt"
	"net/http"

	"github.com/gin-gonic/gin"
)

func main() {
	router := gin.New()
	router.GET("/a/:b", func(c *gin.Context) { c.String(200, c.FullPath()) })
	fmt.Println(http.ListenAndServe(":0", router))
}
""",
    ECHO: """package main

import (
	"fmt"
	"net/http"

	"github.com/labstack/echo/v4"
)

func main() {
	router := echo.New()
	router.GET("/a/:b", func(c echo.Context) error { return c.String(200, c.Path()) })
	fmt.Println(http.ListenAndServe(":0", router))
}
""",
}
