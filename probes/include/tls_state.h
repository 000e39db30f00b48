/* SPDX-License-Identifier: (Apache-2.0 OR GPL-2.0-only) */
/* What is remembered of TLS libraries' objects and of threads that call them. None of it is read by Python. */
#ifndef STINGLESS_TLS_STATE_H
#define STINGLESS_TLS_STATE_H

#include "kernel.h"
#include <bpf/bpf_helpers.h>

/* What the key of a connection is made of. */
static __always_inline u64 sock_of(u64 key)
{
	return key & ~1ULL;
}

static __always_inline bool is_plaintext(u64 key)
{
	return key & 1;
}

struct tls_key { /* a TLS library's object for one connection */
	u64 ssl;
	u32 tgid;
	u32 pad;
};

struct tls_link {
	u64 sk;   /* 0: not known; else valid while that connection names this object */
	u64 sign; /* while it is not known: the socket of the first sign, likewise */
	u32 sent; /* bytes of plaintext so far, in place of TCP sequence numbers */
	u32 received;
	u32 lost; /* said to be lost */
	u32 pad;
};

struct tls_thread { /* where a thread is among calls of a TLS library and of sockets */
	u64 ssl;      /* the call it is in works on this; 0: it is in none */
	u64 received; /* the socket that TLS records were read from since the last call */
	u64 worked;   /* what the last call worked on, while nothing was sent since */
	u64 buf;      /* arguments of the call */
	u64 len;
	u64 out;
	u64 begin_ns;
	u32 kind; /* enum tls_call */
	u8 late;  /* the object was not tied yet when the call began */
	u8 maybe; /* TLS_MAYBE */
	u8 pad[2];
};

struct tls_told { /* when Python was last told of a process's TLS, and how long to wait until the next time */
	u64 last_ns;
	u64 wait_ns;
};

#endif
