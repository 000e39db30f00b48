/* SPDX-License-Identifier: (Apache-2.0 OR GPL-2.0-only) */
/* What probes on functions of files are told; a part of abi.h. */
#ifndef STINGLESS_ABI_TLS_H
#define STINGLESS_ABI_TLS_H

/* What a probe on a TLS library's function is told by its cookie's lower half: the arguments' meaning, and the result's. The first
 * argument is the library's object for the connection. */
enum tls_call {
	TLS_READ = 1,      /* (buffer, size): bytes */
	TLS_READ_EX = 2,   /* (buffer, size, *bytes): 1 */
	TLS_WRITE = 3,     /* (buffer, size): bytes */
	TLS_WRITE_EX = 4,  /* (buffer, size, *bytes): 1 */
	TLS_WRITE_EX2 = 5, /* (buffer, size, flags, *bytes): 1 */
	TLS_SENDFILE = 6,  /* bytes; no memory to read */
	TLS_OTHER = 7,     /* works on the connection, moves no plaintext: handshake, peek */
	TLS_FREE = 8,      /* the object goes */
	TLS_GO_READ = 9,   /* crypto/tls.(*Conn).Read at a RET: bytes in the first register, arguments on the stack */
	TLS_GO_WRITE = 10, /* crypto/tls.(*Conn).Write at its entry: (buffer, size) in Go's registers */
	TLS_GO_SERVE = 11, /* net/http.(*conn).serve at its entry: no TLS, but the struct that serves a connection; go_serve */
	TLS_GO_ROUTER = 12, /* a router's struct for the request at hand is in Go's second register; go_router */
	TLS_PEER = 13,     /* nginx's ngx_event_connect_peer: (ngx_peer_connection_t *); upstream.h */
	TLS_GO_ASK = 14,   /* net/http.(*persistConn).roundTrip at its entry: this goroutine's request goes out there; abi_go.h */
	TLS_GO_BORN = 15,  /* runtime.newproc, before it calls runqput: the new goroutine in the second register; abi_go.h */
	TLS_RETURN = 64,   /* flag: at the call's return */
	TLS_MAYBE = 128,   /* flag: the object may be no TLS connection at all (NSPR) */
};

#endif
