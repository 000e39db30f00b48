/* SPDX-License-Identifier: (Apache-2.0 OR GPL-2.0-only) */
/* The search for a request on a socket of which nothing is known. */
#ifndef STINGLESS_SEEK_H
#define STINGLESS_SEEK_H

#include "tcp.h"
#include "tie.h"
#include "h2.h"

#define GIVE_UP 8 /* changes of direction that did not look like HTTP */

/* Where the other half begins: now, as it may have moved since this call began. */
static __always_inline u32 other_seq(struct scratch *s)
{
	struct conn *records;
	struct tls_link *link;

	if (!is_plaintext(s->op.sk))
		return s->op.way == RECEIVED ? sent_seq(s->op.sk) : received_seq(s->op.sk);
	records = get_conn(sock_of(s->op.sk));
	link = records ? any_link(records->ssl) : NULL;
	if (!link)
		return s->op.other;
	return s->op.way == RECEIVED ? link->sent : link->received;
}

/* Could win[0 .. n) begin a request line? Also when it is only the first part of one. */
__noinline int like_request(struct scratch *s, u32 n)
{
	u32 i;
	u8 c = 0;

	if (!s)
		return 0;
	for (i = 0; i < 16; i++) {
		c = s->win[i];
		if (i >= n || !is_tchar(c))
			break;
	}
	if (i == 0)
		return n >= 2 && s->win[0] == '\r' && s->win[1] == '\n';
	if (i >= n || i == 16)
		return true;
	if (c != ' ')
		return false;
	if (i + 1 >= n)
		return true;
	c = s->win[(i + 1) & 31];
	return c == '/' || c == '*' || (c | 0x20) == 'h' ||
	       (i == 7 && (word_at(s->win) & ~(0xffULL << 56)) == WORD('C', 'O', 'N', 'N', 'E', 'C', 'T', 0));
}

static __always_inline bool like_response(struct scratch *s, u32 n)
{
	return n >= 8 && (word_at(s->win) & ~(0xffULL << 56)) == WORD('H', 'T', 'T', 'P', '/', '1', '.', 0);
}

static __always_inline struct conn *new_conn(struct scratch *s)
{
	struct conn *c = make_conn(s->op.sk);

	if (c) {
		c->tgid = s->op.tgid;
		c->svc = s->op.svc;
	}
	return c;
}

/* One bit per local port: a watched process has read a request there. Never taken back: a server's ports are few, and the
 * port of a client, of which there are many, is none of them. */
u64 answered_ports[65536 / 64] = {};

static __always_inline bool answers_from(u32 port)
{
	return answered_ports[port >> 6 & 1023] >> (port & 63) & 1;
}

/* Which way the connection's requests go: `received` or sent. */
static __always_inline void direct(struct conn *c, bool received)
{
	u32 port;

	c->direction = received ? DIRECTION_SERVER : DIRECTION_CLIENT;
	if (!received)
		return;
	port = PEEK(struct sock_common, sock_of(c->sk), skc_num);
	if (!answers_from(port))
		__sync_fetch_and_or(&answered_ports[port >> 6 & 1023], 1ULL << (port & 63));
}

/* HTTP/2 in the middle of a connection: a call whose bytes are whole frames, one of which says which side sent it. */
static __always_inline bool join_http2(struct scratch *s, struct conn *c)
{
	bool received = s->op.way == RECEIVED;
	u32 fit, response;

	if (s->win[3] > FRAME_CONTINUATION)
		return false;
	fit = frames_fit(s);
	if (fit != (FIT_WHOLE | FIT_REQUEST) && fit != (FIT_WHOLE | FIT_RESPONSE))
		return false;
	response = !(fit & FIT_REQUEST);
	c->kind = KIND_HTTP2;
	c->told = JOINED;
	direct(c, received != response);
	start_half(&c->half[response], s->op.seq);
	start_frames(&c->half[response], ORIGIN, PHASE_FRAME);
	start_half(&c->half[!response], other_seq(s));
	start_frames(&c->half[!response], NOWHERE, PHASE_LOST);
	return true;
}

/* It begins with HTTP/2's preface. The server's first frames may be on their way meanwhile, in another thread: all is
 * there before that one sees what kind it is. Or it has not seen it and lets them pass, whatever position is read here:
 * so its half begins with whichever call comes first. */
static __always_inline void begin_by_preface(struct scratch *s, struct conn *c)
{
	direct(c, s->op.way == RECEIVED);
	start_half(&c->half[HALF_REQUEST], s->op.seq);
	start_frames(&c->half[HALF_REQUEST], ORIGIN + PREFACE_LEN, PHASE_FRAME);
	s->op.response = 0;
	c->told = 0;
	begin_frames(s, c);
	start_half(&c->half[HALF_RESPONSE], other_seq(s));
	start_frames(&c->half[HALF_RESPONSE], NOWHERE, PHASE_FIRST);
	__sync_fetch_and_add(&c->sk, 0); /* nothing above is written after what follows */
	c->kind = KIND_HTTP2;
}

/*
 * A connection of which nothing is known yet, or no longer. A request can only begin where the direction changes, so
 * only there the bytes are looked at. Returns whether the call begins a request (or what may be one).
 */
__noinline int seek(struct scratch *s)
{
	struct conn *c;
	u32 n;
	bool request;

	if (!s)
		return 0;
	c = get_conn(s->op.sk);
	if (c ? c->last_way == s->op.way + 1 : !is_tcp(sock_of(s->op.sk)))
		return 0;
	n = s->op.len < 32 ? s->op.len : 32;
	if (!n)
		return 0;
	if (read_bytes(s, 0, 0, n)) {
		if (s->op.buf.kind != BUF_NONE) /* else it is known beforehand that there is nothing to read */
			count_loss(s->op.svc, LOSS_UNREADABLE);
		return 0;
	}
	request = like_request(s, n);
	if (!c) {
		c = new_conn(s);
		if (!c) {
			if (request)
				count_loss(s->op.svc, LOSS_CONNECTIONS_FULL);
			return 0;
		}
		c->thread = thread_of_connection(s, sock_of(c->sk));
	}
	if (c->kind != KIND_SEEK) /* the other half's call has found it out meanwhile */
		return true;
	c->last_way = s->op.way + 1;
	if (like_record(s, n) && !is_plaintext(c->sk)) {
		begin_tls(s, c);
		return 0;
	}
	if (n >= PREFACE_LEN && is_preface(s)) {
		begin_by_preface(s, c);
		return 1;
	}
	if (request) {
		c->kind = KIND_HTTP;
		direct(c, s->op.way == RECEIVED);
		start_half(&c->half[HALF_REQUEST], s->op.seq);
		start_half(&c->half[HALF_RESPONSE], other_seq(s));
		return 1;
	}
	if (join_http2(s, c))
		return 1;
	if (like_response(s, n))
		c->misses = 0;
	else
		c->misses += is_tchar(s->win[0]) ? 1 : 4;
	if (c->misses >= GIVE_UP && c->kind == KIND_SEEK)
		c->kind = KIND_OTHER;
	return 0;
}

/*
 * The other end speaks before the first bytes taken for a request made a head: they were none, only looked like the
 * beginning of one (as the rest of a body does where the agent began to watch), or were given up.
 */
static __always_inline void doubt(struct scratch *s, struct conn *c)
{
	bool response;

	if (!c->half[HALF_REQUEST].carried) /* as nearly always */
		return;
	response = (c->direction == DIRECTION_SERVER) != (s->op.way == RECEIVED);
	if (!response || c->kind != KIND_HTTP || c->begun != c->answered)
		return;
	drop_carries(c);
	conn_changed();
	c->kind = KIND_SEEK;
}

/* Read once: another thread's call may find out at any time what the connection is. */
static __always_inline u32 kind_of(const struct conn *c)
{
	return c ? *(const volatile u8 *)&c->kind : KIND_SEEK;
}

static __always_inline int process(struct scratch *s, struct conn *c)
{
	u32 kind;

	if (c)
		doubt(s, c);
	kind = kind_of(c);
	if (kind == KIND_TLS || kind == KIND_TIED) {
		on_records(s, c);
		return 0;
	}
	if (kind == KIND_SEEK) {
		if (!seek(s))
			return 0;
		c = get_conn(s->op.sk);
		kind = kind_of(c);
	}
	if (!c || kind < KIND_HTTP)
		return 0;
	s->op.response = (c->direction == DIRECTION_SERVER) != (s->op.way == RECEIVED);
	if (kind == KIND_HTTP)
		advance(s, c);
	if (c->kind == KIND_HTTP2)
		walk_frames(s, c);
	return 0;
}

#endif
