/* SPDX-License-Identifier: (Apache-2.0 OR GPL-2.0-only) */
/* What is remembered of Go's goroutines that serve connections; see go_router.h. */
#ifndef STINGLESS_GO_MAPS_H
#define STINGLESS_GO_MAPS_H

#include "maps.h"

struct go_serving { /* a goroutine in which net/http serves a connection, and the request at hand */
	u64 http;   /* as conn.go_http */
	u64 router; /* the struct in which a router notes which handler it found; 0: none, or another request has it */
	u64 route;  /* that said so, before it went to another request */
	u64 since;  /* when the router got the request */
	u32 told;   /* enum go_router */
	u32 pad;
};

/* Keyed by goroutine. Inserted when net/http begins to serve a connection in it, of a program with a router that has a
 * probe; deleted with the connection. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct tls_key);
	__type(value, struct go_serving);
} go_servings SEC(".maps");

/* Keyed by a router's pooled struct: the goroutine that it went to last. The LRU replaces. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 4096);
	__type(key, struct tls_key);
	__type(value, u64);
} go_owners SEC(".maps");

/* Keyed by the hash of a stack in a process. Inserted when a goroutine that others began sends a request or begins one
 * itself there for the first time; Python writes the verdict; the LRU replaces. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 1024);
	__type(key, u64);
	__type(value, struct go_stack);
} go_stacks SEC(".maps");

#endif
