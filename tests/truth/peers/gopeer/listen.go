// SPDX-License-Identifier: Apache-2.0

package main

import "net"

func listen(port string) net.Listener {
	listener, err := net.Listen("tcp", "127.0.0.1:"+port)
	must(err)
	return listener
}
