// SPDX-License-Identifier: Apache-2.0

// A gRPC service of bytes and a client of it (grpc-go), and HTTP/2 without TLS (net/http).
// Usage: gopeer server PORT | client PORT ROUNDS | h2c PORT | h2c-client URL COUNT
package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/status"
)

type raw struct{}

func (raw) Marshal(v any) ([]byte, error) { return *v.(*[]byte), nil }
func (raw) Unmarshal(data []byte, v any) error {
	*v.(*[]byte) = append([]byte(nil), data...)
	return nil
}
func (raw) Name() string { return "raw" }

func must(err error) {
	if err != nil {
		panic(err)
	}
}

func one(_ any, _ context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
	var in []byte
	if err := decode(&in); err != nil {
		return nil, err
	}
	if string(in) == "bad" {
		return nil, status.Error(codes.NotFound, "no such thing")
	}
	return &in, nil
}

func down(_ any, stream grpc.ServerStream) error {
	var in []byte
	if err := stream.RecvMsg(&in); err != nil {
		return err
	}
	for i := 0; i < 5; i++ {
		if err := stream.SendMsg(&in); err != nil {
			return err
		}
	}
	return nil
}

func up(_ any, stream grpc.ServerStream) error {
	count := 0
	for {
		var in []byte
		err := stream.RecvMsg(&in)
		if err == io.EOF {
			out := []byte(strconv.Itoa(count))
			return stream.SendMsg(&out)
		}
		if err != nil {
			return err
		}
		count++
	}
}

func both(_ any, stream grpc.ServerStream) error {
	for {
		var in []byte
		err := stream.RecvMsg(&in)
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		if err := stream.SendMsg(&in); err != nil {
			return err
		}
	}
}

var streams = []grpc.StreamDesc{
	{StreamName: "Down", Handler: down, ServerStreams: true},
	{StreamName: "Up", Handler: up, ClientStreams: true},
	{StreamName: "Both", Handler: both, ServerStreams: true, ClientStreams: true},
}

func serve(port string) {
	encoding.RegisterCodec(raw{})
	server := grpc.NewServer(grpc.ForceServerCodec(raw{}))
	methods := []grpc.MethodDesc{{MethodName: "One", Handler: one}}
	server.RegisterService(&grpc.ServiceDesc{
		ServiceName: "shop.v1.Basket", HandlerType: (*any)(nil), Methods: methods, Streams: streams,
	}, 1)
	must(server.Serve(listen(port)))
}

func call(conn *grpc.ClientConn, name, text string) error {
	in, out := []byte(text), []byte{}
	return conn.Invoke(context.Background(), "/shop.v1.Basket/"+name, &in, &out)
}

func stream(conn *grpc.ClientConn, desc *grpc.StreamDesc, messages ...string) {
	s, err := conn.NewStream(context.Background(), desc, "/shop.v1.Basket/"+desc.StreamName)
	must(err)
	for _, text := range messages {
		in := []byte(text)
		must(s.SendMsg(&in))
	}
	must(s.CloseSend())
	for {
		var out []byte
		if err := s.RecvMsg(&out); err == io.EOF {
			return
		} else {
			must(err)
		}
	}
}

func ask(port string, rounds int) {
	conn, err := grpc.NewClient("127.0.0.1:"+port, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.ForceCodec(raw{})))
	must(err)
	for i := 0; i < rounds; i++ {
		must(call(conn, "One", "a"))
		stream(conn, &streams[0], "b")
		stream(conn, &streams[1], "1", fmt.Sprintf("%0100000d", 2), "3")
		stream(conn, &streams[2], "c", "c", "c", "c")
		if call(conn, "One", "bad") == nil || call(conn, "Nothing", "") == nil {
			panic("no error")
		}
	}
	var group sync.WaitGroup
	for i := 0; i < 100; i++ {
		group.Add(1)
		go func() { defer group.Done(); must(call(conn, "One", "many")) }()
	}
	group.Wait()
	must(conn.Close())
}

func protocols() *http.Protocols {
	var p http.Protocols
	p.SetHTTP1(true)
	p.SetUnencryptedHTTP2(true)
	return &p
}

func h2c(port string) {
	http.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/missing" {
			w.WriteHeader(404)
		}
		io.Copy(w, r.Body)
		fmt.Fprintln(w, r.URL.Path)
	})
	server := http.Server{Protocols: protocols()}
	must(server.Serve(listen(port)))
}

// All at once, on one connection.
func h2cClient(url string, count int) {
	var p http.Protocols
	p.SetUnencryptedHTTP2(true)
	client := http.Client{Transport: &http.Transport{Protocols: &p}}
	var group sync.WaitGroup
	for i := 1; i <= count; i++ {
		group.Add(1)
		go func() {
			defer group.Done()
			answer, err := client.Get(fmt.Sprintf("%s/items/%d", url, i))
			must(err)
			io.Copy(io.Discard, answer.Body)
			answer.Body.Close()
		}()
	}
	group.Wait()
	client.CloseIdleConnections()
}

func main() {
	switch os.Args[1] {
	case "server":
		serve(os.Args[2])
	case "client":
		rounds, _ := strconv.Atoi(os.Args[3])
		ask(os.Args[2], rounds)
	case "h2c":
		h2c(os.Args[2])
	case "h2c-client":
		count, _ := strconv.Atoi(os.Args[3])
		h2cClient(os.Args[2], count)
	}
}
