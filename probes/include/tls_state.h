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
	u32 tries; /* calls in which it was looked for by the client's random */
};

struct random_key { /* a client's random, as a process sent or received it */
	u64 words[2]; /* of its four the middle ones */
	u32 tgid;
	u32 way;
};

struct tls_thread { /* where a thread is among calls of a TLS library and of sockets */
	u64 ssl;      /* the call it is in works on this; 0: it is in none */
	u64 received; /* the socket that TLS records were read from since the last call */
	u64 worked;   /* what the last call worked on, while nothing was sent since */
	u64 buf;      /* arguments of the call */
	u64 len;
	u64 out;
	u64 begin_ns;
	u64 peer; /* nginx's, that the call is for (upstream.h) */
	u32 kind; /* enum tls_call */
	u8 late;  /* the object was not tied yet when the call began */
	u8 maybe; /* TLS_MAYBE */
	u8 pad[2];
};

struct tls_told { /* when Python was last told of a process's TLS, and how long to wait until the next time */
	u64 last_ns;
	u64 wait_ns;
};

/* Keyed by a TLS library's object. Inserted when its socket becomes known or is looked for, or its plaintext is lost;
 * deleted with the object. What a process leaves behind the LRU replaces. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 1);
	__type(key, struct tls_key);
	__type(value, struct tls_link);
} tls_links SEC(".maps");

/* The connections' sockets by their clients' randoms. Inserted when a client's hello passes; the LRU replaces. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 4096);
	__type(key, struct random_key);
	__type(value, u64);
} randoms SEC(".maps");

/* Keyed by thread. Inserted at its first call of a TLS library or read of TLS records; the LRU replaces. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 16384);
	__type(key, u64);
	__type(value, struct tls_thread);
} tls_threads SEC(".maps");

/* Keyed by process. Inserted when Python is told that TLS records were seen there; the LRU replaces. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 4096);
	__type(key, u32);
	__type(value, struct tls_told);
} tls_told SEC(".maps");

#endif
