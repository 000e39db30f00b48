/* SPDX-License-Identifier: (Apache-2.0 OR GPL-2.0-only) */
/*
 * Routes of routers that are no part of Go (gorilla/mux, chi, gin, echo). A request costs one hit: where the router gets
 * a struct for it. Which request that is tells the goroutine, as net/http serves a connection in one; the struct is
 * read when the response's head is written, by when all routers within one another have said what they found.
 *
 * A struct from a pool may have gone on to another request by then, whose hit finds it as it was left: that hit takes the
 * route for the request before. So no request is without its route, whichever goroutine runs first.
 */
#ifndef STINGLESS_GO_ROUTER_H
#define STINGLESS_GO_ROUTER_H

#include "go_maps.h"
#include "go_route.h"

#define ROUTERS_MAX 12 /* within one another */
#define GO_OFFSET 0xffff

static __always_inline void go_key(struct tls_key *key, u64 at, u32 tgid)
{
	key->ssl = at;
	key->tgid = tgid;
	key->pad = 0;
}

static __always_inline struct go_serving *get_serving(u64 goroutine, u32 tgid)
{
	struct tls_key key;

	go_key(&key, goroutine, tgid);
	return bpf_map_lookup_elem(&go_servings, &key);
}

/* net/http serves a connection in this goroutine from now on. */
static __always_inline void begin_serving(u64 goroutine, u32 tgid, u64 http)
{
	struct go_serving first = { .http = http };
	struct tls_key key;

	go_key(&key, goroutine, tgid);
	bpf_map_update_elem(&go_servings, &key, &first, BPF_ANY);
}

static __always_inline void end_serving(struct conn *c)
{
	struct go_serving *serving;
	struct tls_key key;

	if (!(c->go_http & GO_ROUTED) || is_plaintext(c->sk))
		return;
	go_key(&key, c->goroutine, c->tgid);
	serving = bpf_map_lookup_elem(&go_servings, &key);
	if (serving && serving->http == c->go_http)
		bpf_map_delete_elem(&go_servings, &key);
}

/* Patterns of routers within one another, joined as chi's Context.RoutePattern does: what leads from one to the next
 * (slash, asterisk) is left out, and slashes at the end. */
static __always_inline u32 add_strings(struct scratch *s, u64 at)
{
	struct iovec *list = &s->gather.v; /* as a slice: address, number; the stack has no room for it */
	u32 n = 0;

	if (bpf_probe_read_user(list, sizeof(*list), (void *)at) || list->iov_len > ROUTERS_MAX)
		return TOO_LONG;
#pragma clang loop unroll(disable)
	for (u32 i = 0; i < ROUTERS_MAX; i++) {
		if (i >= list->iov_len || n > PATTERN_MAX)
			break;
		if (n >= 2 && s->text[n - 1] == '*' && s->text[n - 2] == '/') {
			n -= 2;
			s->text[n] = s->text[n + 1] = 0;
		}
		n = add_string(s, (u64)list->iov_base + i * sizeof(struct go_string), n);
	}
#pragma clang loop unroll(full)
	for (u32 i = 0; i < 2; i++) {
		if (n < 2 || n > PATTERN_MAX || s->text[n - 1] != '/')
			break;
		n--;
		s->text[n] = 0;
	}
	return n;
}

/* What the router's struct says now, into s->text. Returns its length; 0: nothing. */
__noinline u32 router_text(struct scratch *s, u64 router, u32 told)
{
	u64 at = router + (told & GO_OFFSET);
	u32 n;

	if (!s)
		return 0;
	__builtin_memset(s->text, 0, PATTERN_MAX);
	if (told & GO_POINTER && bpf_probe_read_user(&at, sizeof(at), (void *)at))
		return 0;
	n = told & GO_STRINGS ? add_strings(s, at) : add_string(s, at, 0);
	return s->text[0] == '/' ? n : 0;
}

/* The struct goes to this goroutine: what it says is of the request before, if nobody has asked for that yet. */
static __always_inline void take_over(struct scratch *s, u64 router, u32 told, u64 goroutine)
{
	struct go_serving *before;
	struct tls_key key;
	u64 *owner;

	go_key(&key, router, s->op.tgid);
	owner = bpf_map_lookup_elem(&go_owners, &key);
	if (!owner) {
		bpf_map_update_elem(&go_owners, &key, &goroutine, BPF_ANY);
		return;
	}
	before = *owner == goroutine ? NULL : get_serving(*owner, s->op.tgid);
	*owner = goroutine;
	if (before && before->router == router) {
		before->route = pattern_hash(s, router_text(s, router, told));
		__sync_val_compare_and_swap(&before->router, router, 0);
	}
}

/* A router begins with a request. s: NULL if there is no work space. */
static __always_inline void on_go_router(struct scratch *s, u64 router, u32 told, u64 goroutine, u32 svc)
{
	u32 tgid = current_tgid();
	struct go_serving *serving;

	if (s && told & GO_POOLED) {
		s->op.tgid = tgid;
		s->op.svc = svc;
		take_over(s, router, told, goroutine);
	}
	serving = get_serving(goroutine, tgid);
	if (!serving)
		return;
	serving->route = 0;
	serving->told = told;
	serving->since = bpf_ktime_get_ns();
	serving->router = router;
}

/* What a router said of the request that began at `since`; 0: none was asked, or it found nothing. */
static __always_inline u64 router_route(struct scratch *s, struct conn *c, u64 since)
{
	struct go_serving *serving = get_serving(c->goroutine, current_tgid());
	u64 router;
	u32 n = 0;

	if (!serving || serving->http != c->go_http || serving->since < since)
		return 0;
	router = *(volatile u64 *)&serving->router;
	if (router)
		n = router_text(s, router, serving->told);
	if (router && __sync_bool_compare_and_swap(&serving->router, router, 0))
		return pattern_hash(s, n);
	return serving->route;
}

/* The hash of the pattern that the program registered for the request that is being answered, or 0. The call stack has
 * room for two functions below this one. */
__noinline u64 registered_route(struct scratch *s, struct conn *c, u64 since)
{
	u64 route;

	if (!s || !c)
		return 0;
	route = c->go_http & GO_ROUTED ? router_route(s, c, since) : 0;
	return route ? route : pattern_hash(s, mux_text(s, c->go_http));
}

#endif
