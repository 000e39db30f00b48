/* SPDX-License-Identifier: (Apache-2.0 OR GPL-2.0-only) */
/*
 * Which socket a TLS library's object belongs to. Where the library itself calls the socket, the thread that is in one of
 * its calls names it. Where the program moves the records between them (memory BIOs), neighbours in one thread are signs:
 * a read of records goes to the next call, a call's records go out with the next send. Two signs that agree, one after
 * the other, are believed; two that don't are counted. Nothing is guessed from less.
 */
#ifndef STINGLESS_TIE_H
#define STINGLESS_TIE_H

#include "hello.h"
#include "process.h"
#include "stream.h"

#define TELL_AGAIN 1000000000ULL /* ns; doubles each time */

static __always_inline void tls_key(struct tls_key *key, u64 ssl)
{
	key->ssl = ssl;
	key->tgid = bpf_get_current_pid_tgid() >> 32;
	key->pad = 0;
}

/* The record layer's header (RFC 8446, 5.1; RFC 5246, 6.2): type, version 3.0 to 3.4, length. */
static __always_inline bool like_record(struct scratch *s, u32 n)
{
	u32 length = s->win[3] << 8 | s->win[4];

	return n >= 5 && s->win[0] >= 20 && s->win[0] <= 23 && s->win[1] == 3 && s->win[2] <= 4 && length &&
	       length <= 16384 + 2048;
}

/* The object's link, if it is tied to a socket that lives. */
static __always_inline struct tls_link *get_link(u64 ssl)
{
	struct tls_key key;
	struct tls_link *link;
	struct conn *c;

	tls_key(&key, ssl);
	link = bpf_map_lookup_elem(&tls_links, &key);
	if (!link || !link->sk)
		return NULL;
	c = get_conn(link->sk);
	return c && c->tls && (c->kind == KIND_OTHER || c->kind == KIND_TIED) && c->ssl == ssl ? link : NULL;
}

/* Tied or not. */
static __always_inline struct tls_link *any_link(u64 ssl)
{
	struct tls_key key;

	tls_key(&key, ssl);
	return bpf_map_lookup_elem(&tls_links, &key);
}

/* Inserted, if it is new. Goroutines may come here at once, with a read and a write. */
static __always_inline struct tls_link *make_link(u64 ssl)
{
	struct tls_link *link = any_link(ssl);
	struct conn *zero = link ? NULL : zeros();
	struct tls_key key;

	if (!zero)
		return link;
	tls_key(&key, ssl);
	bpf_map_update_elem(&tls_links, &key, zero, BPF_NOEXIST);
	return bpf_map_lookup_elem(&tls_links, &key);
}

__noinline int tie(struct conn *c, u64 ssl)
{
	struct tls_link *link = c ? make_link(ssl) : NULL;

	if (!link)
		return 0;
	link->sk = c->sk;
	link->lost = 0;
	c->ssl = ssl;
	c->kind = (c->hello & HELLO_BOTH) == HELLO_BOTH ? KIND_OTHER : KIND_TIED;
	return 0;
}

/* A sign that the records of `c` are the object's. */
__noinline int suppose(u64 sk, u64 ssl)
{
	struct conn *c = get_conn(sk), *other;
	struct tls_link *link;

	if (!c || c->kind != KIND_TLS)
		return 0;
	if (c->ssl == ssl)
		return tie(c, ssl);
	link = make_link(ssl);
	if (!link)
		return 0;
	other = link->sign && link->sign != sk ? get_conn(link->sign) : NULL;
	if (other && (other->kind != KIND_TLS || other->ssl != ssl)) /* a socket of before at that address */
		other = NULL;
	if (c->ssl || other)
		count_loss(c->svc, LOSS_TLS_AMBIGUOUS);
	c->ssl = other ? 0 : ssl;
	if (other)
		other->ssl = 0;
	link->sign = sk;
	return 0;
}

static __always_inline struct tls_thread *get_thread(void)
{
	u64 id = bpf_get_current_pid_tgid();
	struct tls_thread *t = bpf_map_lookup_elem(&tls_threads, &id);
	struct conn *zero = t ? NULL : zeros();

	if (!zero)
		return t;
	bpf_map_update_elem(&tls_threads, &id, zero, BPF_ANY);
	return bpf_map_lookup_elem(&tls_threads, &id);
}

/* A socket call on a connection with TLS records that is not tied. */
__noinline int take_sign(struct conn *c, u32 way)
{
	struct tls_thread *t = get_thread();

	if (!t || !c)
		return 0;
	if (t->ssl) {
		tie(c, t->ssl);
		return 0;
	}
	t->received = way == RECEIVED ? c->sk : 0; /* what was read before a send and not used is of no meaning any more */
	if (way == SENT && t->worked) {
		suppose(c->sk, t->worked);
		t->worked = 0;
	}
	return 0;
}

/* Tells Python that this process speaks TLS which no probe has seen, so that it looks for a library; now and then again,
 * as libraries are loaded late. */
__noinline int tell_of_tls(u32 svc)
{
	u32 tgid = bpf_get_current_pid_tgid() >> 32;
	u64 now = bpf_ktime_get_ns();
	struct tls_told *told = bpf_map_lookup_elem(&tls_told, &tgid), first = { now, TELL_AGAIN };
	struct event *e;

	if (told && now - told->last_ns < told->wait_ns)
		return 0;
	if (told) {
		told->last_ns = now;
		told->wait_ns *= 2;
	} else {
		bpf_map_update_elem(&tls_told, &tgid, &first, BPF_ANY);
	}
	e = bpf_ringbuf_reserve(&events, sizeof(*e), 0); /* the stack has no room for it */
	if (!e) {
		count_loss(svc, LOSS_EVENT_FULL);
		return 0;
	}
	describe(e, EVENT_TLS, tgid, svc);
	bpf_get_current_comm(e->comm, sizeof(e->comm));
	bpf_ringbuf_submit(e, 0);
	return 0;
}

/* A call on a connection with TLS records of which there is still something to be found out. */
static __always_inline void on_records(struct scratch *s, struct conn *c)
{
	look_for_hello(s, c);
	if (c->kind == KIND_TLS)
		take_sign(c, s->op.way);
	else if ((c->hello & HELLO_BOTH) == HELLO_BOTH)
		c->kind = KIND_OTHER;
}

/* The first TLS record on a connection. */
static __always_inline void begin_tls(struct scratch *s, struct conn *c)
{
	c->kind = KIND_TLS;
	c->tls = 1;
	c->ssl = 0;
	c->hello = c->name_len = c->tls_version = 0;
	look_for_hello(s, c);
	take_sign(c, s->op.way);
	if (c->kind == KIND_TLS)
		tell_of_tls(s->op.svc);
}

#endif
