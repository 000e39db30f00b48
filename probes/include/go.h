/* SPDX-License-Identifier: (Apache-2.0 OR GPL-2.0-only) */
/*
 * Plaintext of Go's crypto/tls. Goroutines change threads and their stacks move, so nothing is kept between two probes: a
 * Write is taken where it begins, a Read at its RET instructions, where its arguments are still above the return address
 * (instrumenter/binaries/go_spills.py looks whether they are). The socket is not guessed: the object leads to it.
 */
#ifndef STINGLESS_GO_H
#define STINGLESS_GO_H

#include "go_born.h"
#include "tls.h"

#define MAX_AWAITED (1U << 30)

/* Ties the object to its socket if it is not tied yet; for that work space is needed. */
static __always_inline struct tls_link *go_link(struct scratch *s, u64 ssl)
{
	struct tls_link *link = get_link(ssl);
	struct conn *c;

	if (link || !s)
		return link;
	c = conn_of_go(s, ssl, 0);
	if (!c)
		return NULL;
	c->tls = 1;
	tie(c, ssl);
	return get_link(ssl);
}

/* A Write begins on a server's connection. */
static __always_inline void begin_write(struct conn *c, struct conn *own)
{
	if (!c->go_http) {
		c->go_http = own->go_http;
		c->goroutine = own->goroutine;
	}
	if (c->writing == WRITTEN)
		end_written(c, c->written_ns);
	own->awaited = 0;
	c->writing = WRITING;
}

/* Its plaintext was taken: if a response ended there, it is over when the records are sent, of which each has at least
 * RECORD_MORE bytes more. */
static __always_inline void await_records(struct conn *c, struct conn *own, u64 len)
{
	if (c->writing == WRITTEN && len < MAX_AWAITED) {
		own->awaited_seq = sent_seq(own->sk) + len + (len + RECORD_MAX - 1) / RECORD_MAX * RECORD_MORE;
		own->awaited = 1;
	} else if (c->writing == WRITTEN) {
		end_written(c, c->written_ns);
	} else {
		c->writing = NOT_WRITING;
	}
}

struct go_write { /* by a server */
	struct conn *plain;
	struct conn *records;
};

static __always_inline bool go_sent(struct scratch *s, struct tls_link *link, struct tls_thread *t, u32 svc,
				    struct go_write *w)
{
	struct conn *c = get_conn(link->sk | 1), *own = get_conn(link->sk);
	bool matters = (!c || c->kind != KIND_OTHER) && !is_closed(link->sk);

	if (matters && c && own && c->kind == KIND_HTTP && c->direction == DIRECTION_SERVER) {
		begin_write(c, own);
		w->plain = c;
		w->records = own;
	}
	matters = matters && !is_body(c, SENT, link->sent, t->len);
	if (matters && !s)
		matters = pass_plaintext(svc);
	else if (matters)
		describe_plaintext(s, link, t, svc, SENT, t->len);
	link->sent += t->len;
	return matters;
}

/* Whether the op in *s is to be processed. */
static __always_inline bool take_go_call(struct scratch *s, struct pt_regs *ctx, u32 call, u32 svc, struct go_write *w)
{
	struct tls_thread t = { .kind = TLS_READ };
	struct tls_link *link;
	u64 arguments[2] = { GO_FIRST(ctx), GO_SECOND(ctx) };

	t.len = call == TLS_GO_READ ? GO_FIRST(ctx) : GO_THIRD(ctx);
	if ((s64)t.len <= 0)
		return false;
	if (call == TLS_GO_READ &&
	    bpf_probe_read_user(arguments, sizeof(arguments), (void *)PT_REGS_SP(ctx) + sizeof(u64))) {
		count_loss(svc, LOSS_UNREADABLE);
		return false;
	}
	t.buf = arguments[1];
	link = go_link(s, arguments[0]);
	if (!link && !s)
		return pass_plaintext(svc);
	if (!link && s->op.sk != SK_CLOSED) /* else there is nothing any more that a write could go to */
		lose_plaintext(arguments[0], svc);
	if (!link)
		return false;
	return call == TLS_GO_READ ? plaintext_received(s, link, &t, t.len) : go_sent(s, link, &t, svc, w);
}

/* net/http begins to serve a connection. told: enum go_serve. */
static __always_inline void on_go_serve(struct scratch *s, u64 http, u64 told, u64 goroutine, u32 svc)
{
	struct conn *c = conn_of_go(s, http + GO_CONN_RWC, svc);

	if (!c)
		return;
	c->go_http = (told & GO_SERVE_BITS) == GO_NO_PATTERN ? 0 : http | (told & GO_SERVE_BITS);
	c->goroutine = goroutine;
	c->tgid = current_tgid();
	c->svc = svc;
	if (told >> GO_HIGH)
		note_goroutine(c, goid_of(goroutine, told >> GO_HIGH));
	if (told & GO_ROUTED)
		begin_serving(goroutine, c->tgid, c->go_http);
}

/* told: the cookie's upper half. */
static __always_inline void on_go_call(struct pt_regs *ctx, u32 call, u32 told, u32 svc)
{
	struct scratch *s = take_scratch();
	struct go_write w = {};
	bool some = call <= TLS_GO_WRITE && take_go_call(s, ctx, call, svc, &w);

	if (call == TLS_GO_BORN)
		on_go_born(s, ctx, told, svc);
	else if (s && call == TLS_GO_ASK)
		on_go_ask(s, ctx, told, svc);
	else if (call == TLS_GO_ROUTER)
		on_go_router(s, GO_SECOND(ctx), told, GO_GOROUTINE(ctx), svc);
	else if (s && call == TLS_GO_SERVE)
		on_go_serve(s, GO_FIRST(ctx), told, GO_GOROUTINE(ctx), svc);
	else if (s && some)
		process(s, get_conn(s->op.sk));
	if (w.plain)
		await_records(w.plain, w.records, GO_THIRD(ctx));
	if (s)
		s->busy = 0;
}

#endif
