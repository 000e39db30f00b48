/* SPDX-License-Identifier: (Apache-2.0 OR GPL-2.0-only) */
/*
 * What every set of stubs calls, whatever hook it hangs on:
 *   on_send_enter  bytes are about to be written: a client's requests begin here, before the peer can see them
 *   on_send_exit   bytes were written: a server's responses are read here, when the memory is certainly there
 *   on_receive     bytes were read
 * and ending.h for its end.
 */
#ifndef STINGLESS_SOCKET_H
#define STINGLESS_SOCKET_H

#include "process.h"
#include "seek.h"

#define SLOW_SEND 16384 /* bytes that a socket's buffer may not take at once */

/* The service of the process `tgid`, 0 if it is not watched, which reads on `c`. Mostly the process that read here last.
 * A client is asked about each time, as for its writes: else it would be seen to get answers to nothing. */
static __always_inline u32 reader(struct conn *c, u32 tgid)
{
	u32 svc;

	if (c && c->tgid == tgid && c->direction == DIRECTION_SERVER)
		return c->svc;
	svc = service_of(tgid);
	if (c) {
		c->tgid = tgid;
		c->svc = svc;
	}
	return svc;
}

static __always_inline void describe_op(struct scratch *s, u64 sk, u32 svc, u8 way, u32 seq, u64 len)
{
	struct task_struct *task = bpf_get_current_task_btf();

	s->op.sk = sk;
	s->op.svc = svc;
	s->op.way = way;
	s->op.seq = seq;
	s->op.len = len;
	s->op.now = bpf_ktime_get_ns();
	s->op.tgid = task->tgid;
	s->op.tid = task->pid;
}

/* Must a write be looked at before it happens? A server's need not; but one that may block says when it begins. */
static __always_inline bool sends_matter(struct conn *c, u64 len)
{
	if (!c)
		return true;
	if (c->kind < KIND_HTTP || c->direction != DIRECTION_SERVER)
		return c->kind != KIND_OTHER;
	if (len > SLOW_SEND && !c->resp_first_ns && c->begun != c->answered)
		c->resp_first_ns = bpf_ktime_get_ns();
	return false;
}

/* A read on a server's connection: its next write is probably on this CPU. `changed` was read before `c` was looked up, so
 * that an end in between makes the note void. */
static __always_inline void note_served(struct conn *c, u64 sk, u64 changed)
{
	u32 zero = 0;
	struct served *last;

	if (!c || c->kind < KIND_HTTP || c->direction != DIRECTION_SERVER)
		return;
	last = bpf_map_lookup_elem(&served, &zero);
	if (!last)
		return;
	last->sk = sk;
	last->changed = changed;
}

static __always_inline bool is_served(u64 sk, u64 len)
{
	u32 zero = 0;
	struct served *last = bpf_map_lookup_elem(&served, &zero);

	return last && last->sk == sk && last->changed == conns_changed && len <= SLOW_SEND;
}

static __always_inline bool returns_matter(struct conn *c)
{
	return c && (c->kind >= KIND_HTTP ? c->direction == DIRECTION_SERVER : c->awaited);
}

#define RECORD_MAX 16384 /* bytes of plaintext (RFC 8446, 5.1) */
#define RECORD_MORE 21   /* header and tag (RFC 7905), which no other suite of Go's does with less */

/* Of the response that its TLS records carry, what is not sent, in records. By the socket's own count, whichever hooks
 * have run. */
static __always_inline u32 unsent(const struct conn *records)
{
	s32 left = records->awaited_seq - sent_seq(records->sk);

	return records->awaited && left > 0 ? left : 0;
}

/* TLS records went out: a response that was taken as plaintext before is over with the last of its own. */
static __always_inline void records_sent(struct conn *c)
{
	struct conn *plain;

	if (unsent(c))
		return;
	c->awaited = 0;
	plain = get_conn(c->sk | 1);
	if (plain && plain->writing == WRITTEN)
		end_written(plain, bpf_ktime_get_ns());
}

/* Of body bytes nothing is to be read, only counted where they end. Returns whether all of the call's are that. */
__noinline int pass_body(struct conn *c, u32 response, u32 seq, u64 len)
{
	struct half *h;
	u64 end;

	if (!c)
		return 0;
	h = &c->half[response & 1];
	end = half_position(h, seq) + len;
	if (end > h->next)
		return 0;
	if (end == h->next && response)
		end_response(c, bpf_ktime_get_ns());
	else if (end == h->next)
		end_request(h);
	if (end > h->pos) { /* last of all: goes_on() */
		h->pos = end;
		h->seq = seq + len;
	}
	return 1;
}

static __always_inline bool is_body_of(struct conn *c, u32 response, u32 seq, u64 len)
{
	return c->kind == KIND_HTTP && c->half[response].phase == PHASE_BODY && pass_body(c, response, seq, len);
}

static __always_inline bool is_body(struct conn *c, u8 way, u32 seq, u64 len)
{
	return c && is_body_of(c, (c->direction == DIRECTION_SERVER) != (way == RECEIVED), seq, len);
}

/* s->op.buf is set; `before` bytes of the same call went ahead. */
static __always_inline void on_send_enter(struct scratch *s, struct conn *c, u64 sk, u32 svc, u64 len, u32 before)
{
	if (is_closed(sk)) /* the call will fail */
		return;
	describe_op(s, sk, svc, SENT, sent_seq(sk) + before, len);
	process(s, c);
}

/* `seq`: of the first byte. */
static __always_inline void on_send_exit_at(struct scratch *s, struct conn *c, u64 sk, u32 seq, u64 sent)
{
	if (c && c->awaited) {
		records_sent(c);
		return;
	}
	describe_op(s, sk, c ? c->svc : 0, SENT, seq, sent);
	process(s, c);
}

/* `after`: bytes of the same call that were sent behind these. */
static __always_inline void on_send_exit(struct scratch *s, struct conn *c, u64 sk, u64 sent, u32 after)
{
	on_send_exit_at(s, c, sk, sent_seq(sk) - after - sent, sent);
}


static __always_inline void on_receive(struct scratch *s, struct conn *c, u64 sk, u32 svc, u64 received)
{
	describe_op(s, sk, svc, RECEIVED, received_seq(sk) - received, received);
	process(s, c);
}

/* read() returned 0: the response that lasts until the connection closes is whole. */
static __always_inline void on_end_of_stream(struct conn *c)
{
	if (c && c->kind == KIND_HTTP && c->direction == DIRECTION_CLIENT &&
	    c->half[HALF_RESPONSE].phase == PHASE_UNTIL_CLOSE && c->response_begun)
		finish_all(c, OUTCOME_COMPLETE, bpf_ktime_get_ns());
}

#endif
