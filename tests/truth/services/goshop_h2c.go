// SPDX-License-Identifier: Apache-2.0

package main

import "net/http"

// Of Go 1.24 and newer. Usage: goshop PORT h2c
func init() {
	h2c = func(address string, handler http.Handler) error {
		server := &http.Server{Addr: address, Handler: handler, Protocols: new(http.Protocols)}
		server.Protocols.SetHTTP1(true)
		server.Protocols.SetUnencryptedHTTP2(true)
		return server.ListenAndServe()
	}
}
