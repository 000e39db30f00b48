// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"strconv"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// One call: messages are sent, all answers are read.
func once(conn *grpc.ClientConn, number int, method string, messages int) error {
	c := metadata.AppendToOutgoingContext(context.Background(), "x-number", strconv.Itoa(number))
	message, path := []byte("some message"), "/shop.Shop/"+method
	if method != "Echo" && method != "Many" && method != "Gather" {
		var answer []byte
		return conn.Invoke(c, path, &message, &answer)
	}
	kind := &grpc.StreamDesc{ClientStreams: method != "Many", ServerStreams: method != "Gather"}
	s, err := conn.NewStream(c, kind, path)
	must(err)
	for i := 0; i < messages; i++ {
		must(s.SendMsg(&message))
	}
	must(s.CloseSend())
	for err == nil {
		err = s.RecvMsg(&message)
		if err == nil && method == "Gather" {
			return nil
		}
	}
	if err.Error() == "EOF" {
		return nil
	}
	return err
}

// PLAN: JSON lines [number, target, method, messages]; printed: JSON lines [number, code]. Eight at once.
func call(plan string, secure bool) {
	secret := insecure.NewCredentials()
	if secure {
		var err error
		secret, err = credentials.NewClientTLSFromFile(os.Getenv("SSL_CERT_FILE"), "")
		must(err)
	}
	options := []grpc.DialOption{
		grpc.WithTransportCredentials(secret), grpc.WithDefaultCallOptions(grpc.ForceCodec(raw{})),
	}
	file, err := os.Open(plan)
	must(err)
	conns := map[string]*grpc.ClientConn{}
	gate, calls := make(chan bool, 8), sync.WaitGroup{}
	for scanner := bufio.NewScanner(file); scanner.Scan(); {
		var fields [4]any
		must(json.Unmarshal(scanner.Bytes(), &fields))
		number, target, messages := int(fields[0].(float64)), fields[1].(string), int(fields[3].(float64))
		if conns[target] == nil {
			conns[target], err = grpc.NewClient(target, options...)
			must(err)
		}
		gate <- true
		calls.Add(1)
		go func(conn *grpc.ClientConn) {
			defer calls.Done()
			err := once(conn, number, fields[2].(string), messages)
			fmt.Printf("[%d, %d]\n", number, status.Code(err))
			<-gate
		}(conns[target])
	}
	calls.Wait()
	for _, conn := range conns {
		conn.Close()
	}
}
