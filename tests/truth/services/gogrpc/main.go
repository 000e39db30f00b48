// SPDX-License-Identifier: Apache-2.0

// A server and a client of grpc-go, whose messages are bytes.
// Usage: gogrpc serve PORT [CERTIFICATE KEY] | gogrpc call PLAN (plain|tls)
package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

type raw struct{}

func (raw) Marshal(v any) ([]byte, error)      { return *v.(*[]byte), nil }
func (raw) Unmarshal(data []byte, v any) error { *v.(*[]byte) = append([]byte(nil), data...); return nil }
func (raw) Name() string                       { return "raw" }

func must(err error) {
	if err != nil {
		panic(err)
	}
}

func said(c context.Context, name string) {
	fields, _ := metadata.FromIncomingContext(c)
	fmt.Printf("\"POST /shop.Shop/%s?n=%s HTTP/2\"\n", name, fields.Get("x-number")[0])
}

func unary(name string, fail codes.Code) grpc.MethodDesc {
	answer := func(_ any, c context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
		said(c, name)
		var message []byte
		if err := decode(&message); err != nil || fail != codes.OK {
			return nil, status.Error(fail, "as asked")
		}
		return &message, nil
	}
	return grpc.MethodDesc{MethodName: name, Handler: answer}
}

// Echo answers each message, Gather all with one, Many one with five.
func stream(name string, many, gather bool) grpc.StreamDesc {
	answer := func(_ any, s grpc.ServerStream) error {
		said(s.Context(), name)
		var message []byte
		for {
			if err := s.RecvMsg(&message); err == io.EOF {
				break
			} else if err != nil {
				return err
			}
			for i := 0; i < 5 && !gather; i++ {
				must(s.SendMsg(&message))
				if !many {
					break
				}
			}
		}
		if gather {
			return s.SendMsg(&message)
		}
		return nil
	}
	return grpc.StreamDesc{StreamName: name, Handler: answer, ServerStreams: !gather, ClientStreams: !many}
}

func serve(port string, files ...string) {
	options := []grpc.ServerOption{grpc.ForceServerCodec(raw{})}
	if len(files) > 0 {
		secret, err := credentials.NewServerTLSFromFile(files[0], files[1])
		must(err)
		options = append(options, grpc.Creds(secret))
	}
	server := grpc.NewServer(options...)
	server.RegisterService(&grpc.ServiceDesc{
		ServiceName: "shop.Shop", HandlerType: (*any)(nil),
		Methods: []grpc.MethodDesc{
			unary("Unary", codes.OK), unary("Missing", codes.NotFound), unary("Boom", codes.Internal),
		},
		Streams: []grpc.StreamDesc{stream("Echo", false, false), stream("Many", true, false), stream("Gather", false, true)},
	}, nil)
	listener, err := net.Listen("tcp", "127.0.0.1:"+port)
	must(err)
	must(server.Serve(listener))
}

func main() {
	if os.Args[1] == "serve" {
		serve(os.Args[2], os.Args[3:]...)
	}
	call(os.Args[2], os.Args[3] == "tls")
}
