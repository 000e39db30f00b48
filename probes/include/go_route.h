/* SPDX-License-Identifier: (Apache-2.0 OR GPL-2.0-only) */
/*
 * The pattern under which a Go program found a request's handler. Of a connection that net/http serves, the struct that
 * serves it is known from its beginning (on_go_serve in go.h), and when the response's head is written, that leads to the
 * request that is being answered, which has the pattern of http.ServeMux since 1.22: no probe for each request. A router
 * that is no part of Go has one (go_router.h); what it says goes before the other, which led to it.
 */
#ifndef STINGLESS_GO_ROUTE_H
#define STINGLESS_GO_ROUTE_H

#include "process.h"
#include "swar.h"

/* Where the fields are in every release that instrumenter/binaries/go_routes.py lets through. */
enum {
	GO_CONN_RWC = 16,     /* net/http.conn.rwc, a net.Conn */
	GO_CONN_REQ = 112,    /* .curReq: the *response in work */
	GO_RESPONSE_REQ = 8,  /* net/http.response.req */
	GO_REQUEST_PATTERN = 232, /* net/http.Request.Pattern, a string */
	GO_REQUEST_PAT = 248, /* .pat in 1.22, which has no Pattern: of its pattern the first field is that string */
};
#define GO_SERVE_BITS 7ULL /* of conn.go_http */
#define PATTERN_MAX 120 /* bytes; whole words, and less than event.filename */
#define TOO_LONG (PATTERN_MAX + 1)
#define SIZE_MASK 127

struct go_string {
	u64 data;
	u64 size;
};

/* Puts a string of the program's behind the first n bytes of s->text, of which the rest is zero. Returns how many bytes
 * there are then; TOO_LONG: it does not fit, or cannot be read. */
__noinline u32 add_string(struct scratch *s, u64 at, u32 n)
{
	struct go_string p;
	u64 size;

	if (!s || n > PATTERN_MAX || bpf_probe_read_user(&p, sizeof(p), (void *)at) || p.size > PATTERN_MAX - n)
		return TOO_LONG;
	size = p.size;
	barrier_var(size);
	size &= SIZE_MASK; /* a bound that older verifiers see */
	if (size && bpf_probe_read_user(s->text + n, size, (void *)p.data))
		return TOO_LONG;
	return n + size;
}

/* Tells Python what the hash of the pattern in s->text stands for, once. */
static __always_inline void tell_route(struct scratch *s, u64 route)
{
	u32 one = 1;

	if (s->told == route || bpf_map_lookup_elem(&routes_told, &route))
		return;
	s->told = route;
	describe(&s->event, EVENT_ROUTE, s->op.tgid, s->op.svc);
	s->event.route = route;
	bpf_probe_read_kernel(s->event.filename, PATTERN_MAX, s->text);
	if (emit_event(&s->event))
		bpf_map_update_elem(&routes_told, &route, &one, BPF_ANY);
}

/* The hash of the pattern in s->text, n bytes and then zeros, or 0: there is none, or it says nothing ("/" takes whatever
 * has no other one). Never that of a path, which begins with another number (route.h). */
__noinline u64 pattern_hash(struct scratch *s, u32 n)
{
	u64 hash = MIX + 1, w, slash;
	u32 first = PATTERN_MAX;

	if (!s || n > PATTERN_MAX)
		return 0;
#pragma clang loop unroll(disable)
	for (u32 i = 0; i < PATTERN_MAX && i < n; i += 8) {
		w = word_at(s->text + i);
		slash = first_equal(w, '/');
		if (slash && first == PATTERN_MAX)
			first = i + first_byte(slash);
		hash = w ? mix(hash, w) : hash;
	}
	if (first + 1 >= n)
		return 0;
	hash |= 1;
	tell_route(s, hash);
	return hash;
}

/* Where http.ServeMux put the pattern, as a string; 0: nowhere. */
static __always_inline u64 mux_pattern(u64 http)
{
	u64 at;

	if (bpf_probe_read_user(&at, sizeof(at), (void *)(http & ~GO_SERVE_BITS) + GO_CONN_REQ) ||
	    bpf_probe_read_user(&at, sizeof(at), (void *)at + GO_RESPONSE_REQ))
		return 0;
	if (!(http & GO_RELEASE_1_22))
		return at + GO_REQUEST_PATTERN;
	return bpf_probe_read_user(&at, sizeof(at), (void *)at + GO_REQUEST_PAT) ? 0 : at;
}

/* That pattern into s->text. Returns its length. */
__noinline u32 mux_text(struct scratch *s, u64 http)
{
	u64 at = http & GO_NO_PATTERN ? 0 : mux_pattern(http);

	if (!s || !at)
		return 0;
	__builtin_memset(s->text, 0, PATTERN_MAX);
	return add_string(s, at, 0);
}

#endif
