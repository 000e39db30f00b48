/* SPDX-License-Identifier: (Apache-2.0 OR GPL-2.0-only) */
/*
 * The pattern under which Go's http.ServeMux found a request's handler. No probe for each request: of a connection that
 * net/http serves, the struct that serves it is known from its beginning (on_go_serve in go.h), and when the response's
 * head is written, that leads to the request that is being answered, which has its pattern since 1.22.
 */
#ifndef STINGLESS_GO_ROUTE_H
#define STINGLESS_GO_ROUTE_H

#include "process.h"
#include "swar.h"

/* Where the fields are in every release that instrumenter/binaries/go_tls.py lets through. */
enum {
	GO_CONN_RWC = 16,     /* net/http.conn.rwc, a net.Conn */
	GO_CONN_REQ = 112,    /* .curReq: the *response in work */
	GO_RESPONSE_REQ = 8,  /* net/http.response.req */
	GO_REQUEST_PATTERN = 232, /* net/http.Request.Pattern, a string */
	GO_REQUEST_PAT = 248, /* .pat in 1.22, which has no Pattern: of its pattern the first field is that string */
};
#define GO_1_22 1 /* bit of conn.go_http */
#define PATTERN_MAX 120 /* bytes; whole words, and less than event.filename */

struct go_string {
	u64 data;
	u64 size;
};

static __always_inline long go_pattern(struct go_string *p, u64 http)
{
	u64 at;

	if (bpf_probe_read_user(&at, sizeof(at), (void *)(http & ~(u64)GO_1_22) + GO_CONN_REQ) ||
	    bpf_probe_read_user(&at, sizeof(at), (void *)at + GO_RESPONSE_REQ))
		return -1;
	if (!(http & GO_1_22))
		return bpf_probe_read_user(p, sizeof(*p), (void *)at + GO_REQUEST_PATTERN);
	if (bpf_probe_read_user(&at, sizeof(at), (void *)at + GO_REQUEST_PAT))
		return -1;
	return bpf_probe_read_user(p, sizeof(*p), (void *)at);
}

/* Tells Python what the hash of the pattern in s->text stands for, once. */
static __always_inline void tell_route(struct scratch *s, u64 route)
{
	u32 one = 1;

	if (bpf_map_lookup_elem(&routes_told, &route))
		return;
	describe(&s->event, EVENT_ROUTE, s->op.tgid, s->op.svc);
	s->event.route = route;
	bpf_probe_read_kernel(s->event.filename, PATTERN_MAX, s->text);
	if (emit_event(&s->event))
		bpf_map_update_elem(&routes_told, &route, &one, BPF_ANY);
}

/* The hash of the pattern, or 0: there is none, or it says nothing ("/" takes whatever has no other one). Never that of
 * a path, which begins with another number (route.h). */
__noinline u64 registered_route(struct scratch *s, u64 http)
{
	struct go_string p;
	u64 hash = MIX + 1, w, slash;
	u32 first = PATTERN_MAX;

	if (!s || go_pattern(&p, http) || !p.size || p.size > PATTERN_MAX)
		return 0;
	__builtin_memset(s->text, 0, PATTERN_MAX);
	if (bpf_probe_read_user(s->text, p.size, (void *)p.data))
		return 0;
#pragma clang loop unroll(full)
	for (u32 i = 0; i < PATTERN_MAX; i += 8) {
		w = word_at(s->text + i);
		slash = first_equal(w, '/');
		if (slash && first == PATTERN_MAX)
			first = i + first_byte(slash);
		hash = w ? mix(hash, w) : hash;
	}
	if (first + 1 >= p.size)
		return 0;
	hash |= 1;
	tell_route(s, hash);
	return hash;
}

#endif
