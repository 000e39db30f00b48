/* SPDX-License-Identifier: (Apache-2.0 OR GPL-2.0-only) */
/*
 * Bytes of one half, in: messages framed (RFC 9112, 6), exchanges begun and finished. One flat loop of
 * small turns (a stretch of memory, a line, a chunk's size, the end of a body) until the call's bytes are used up: BPF
 * allows eight frames, so loops are not nested.
 */
#ifndef STINGLESS_STREAM_H
#define STINGLESS_STREAM_H

#include "exchange.h"

#define LOOK 32 /* bytes of chunked framing looked at in one step */

static __always_inline u64 half_position(struct half *h, u32 seq)
{
	s32 forward = seq - h->seq;
	u64 pos = h->pos + forward;

	if (forward > 0) {
		h->pos = pos;
		h->seq = seq;
	}
	return pos;
}

static __always_inline void start_half(struct half *h, u32 seq)
{
	__builtin_memset(h, 0, sizeof(*h));
	h->pos = h->next = ORIGIN;
	h->seq = seq;
}

static __always_inline void drop_carry(struct conn *c, u32 half)
{
	struct message_key key = { .sk = c->sk, .half = half };

	c->half[half & 1].carried = 0;
	bpf_map_delete_elem(&carry, &key);
}

static __always_inline void drop_carries(struct conn *c)
{
	if (c->half[0].carried)
		drop_carry(c, 0);
	if (c->half[1].carried)
		drop_carry(c, 1);
}

struct ending {
	struct conn *c;
	u64 now;
	u32 outcome;
};

static long finish_one(u32 i, struct ending *e)
{
	struct conn *c = e->c;

	if (c->begun == c->answered)
		return 1;
	finish_exchange(c, e->outcome, e->now);
	return 0;
}

/* Everything outstanding ends as `outcome` at `now`; the first one may have had a part of its response. */
__noinline int finish_all(struct conn *c, u32 outcome, u64 now)
{
	struct ending e = { .c = c, .now = now, .outcome = outcome };

	if (!c)
		return 0;
	if (c->response_begun)
		c->response_bytes = body_bytes(&c->half[HALF_RESPONSE], 0);
	bpf_loop(MAX_TURNS, finish_one, &e, 0);
	drop_carries(c);
	return 0;
}

/* The stream can't be followed any more, or has left HTTP: `turn` ends what is outstanding as unreadable, then the
 * connection is of `kind`. */
static __always_inline long leave(struct scratch *s, struct conn *c, u32 kind)
{
	if (c->response_begun)
		c->response_bytes = body_bytes(&c->half[HALF_RESPONSE], 0);
	s->mode = MODE_LEAVING;
	s->leaving_to = kind;
	return 0;
}

static __always_inline long lose_track(struct scratch *s, struct conn *c, u32 reason)
{
	if (reason)
		count_loss(s->op.svc, reason);
	return leave(s, c, KIND_SEEK);
}

static __always_inline long go_on_leaving(struct scratch *s, struct conn *c)
{
	if (c->begun != c->answered) {
		finish_exchange(c, OUTCOME_UNREADABLE, s->op.now);
		return 0;
	}
	drop_carries(c);
	c->kind = s->leaving_to;
	c->last_way = s->op.way + 1;
	return 1;
}

static __always_inline void end_response(struct scratch *s, struct conn *c)
{
	struct half *h = &c->half[HALF_RESPONSE];

	c->response_bytes = h->phase == PHASE_BODY ? h->next - h->body_start : h->body;
	h->phase = PHASE_HEAD;
	h->body = h->begin_ns = 0;
	finish_exchange(c, OUTCOME_COMPLETE, s->op.now);
}

static __always_inline void end_message(struct scratch *s, struct conn *c, struct half *h)
{
	if (s->op.response) {
		end_response(s, c);
	} else {
		h->phase = PHASE_HEAD;
		h->begin_ns = 0;
	}
}

static __always_inline void start_body(struct scratch *s, struct conn *c, struct half *h, u32 phase, u64 length)
{
	h->body_start = h->next;
	h->body = h->chunk = h->line = 0;
	h->phase = phase;
	if (phase == PHASE_BODY)
		h->next += length;
	if (phase == PHASE_UNTIL_CLOSE)
		h->next = NOWHERE;
	if (phase == PHASE_BODY && !length)
		end_message(s, c, h);
}

static __always_inline void on_request(struct scratch *s, struct conn *c, struct half *h)
{
	begin_exchange(s, c);
	if (s->head.chunked)
		start_body(s, c, h, PHASE_CHUNK, 0);
	else
		start_body(s, c, h, PHASE_BODY, s->head.is_connect ? 0 : s->head.content_length);
}

static __always_inline void on_response(struct scratch *s, struct conn *c, struct half *h)
{
	struct message_key key = { .sk = c->sk, .number = c->answered };
	u32 status = s->head.status;
	struct held *r;

	if (c->begun == c->answered) {
		lose_track(s, c, LOSS_UNANSWERED_RESPONSE);
		return;
	}
	if (status < 200 && status != 101) { /* interim (RFC 9110, 15.2): the final one follows */
		c->resp_first_ns = h->begin_ns = 0;
		return;
	}
	r = c->slot_of == c->answered + 1 ? &c->slot : bpf_map_lookup_elem(&pending, &key);
	c->status = status;
	c->response_begun = 1;
	if (!c->resp_first_ns)
		c->resp_first_ns = h->begin_ns;
	if (status == 101 || (r && r->is_connect && status < 300)) {
		c->upgrade = 1;
		start_body(s, c, h, PHASE_BODY, 0);
		leave(s, c, KIND_OTHER);
	} else if (status == 204 || status == 304 || (r && r->is_head)) {
		start_body(s, c, h, PHASE_BODY, 0);
	} else if (s->head.chunked) {
		c->response_chunked = 1;
		start_body(s, c, h, PHASE_CHUNK, 0);
	} else if (s->head.has_length) {
		start_body(s, c, h, PHASE_BODY, s->head.content_length);
	} else {
		start_body(s, c, h, PHASE_UNTIL_CLOSE, 0);
	}
}

static __always_inline bool resume_head(struct scratch *s, struct conn *c, struct half *h)
{
	struct message_key key = { .sk = c->sk, .half = s->op.response };
	struct partial *p = h->carried ? bpf_map_lookup_elem(&carry, &key) : NULL;

	s->have = s->line = s->scan = 0;
	if (!p) {
		__builtin_memset(&s->head, 0, sizeof(s->head));
		s->head.is_response = s->op.response;
		s->head.seq = s->op.seq + s->off;
		return !h->carried;
	}
	__builtin_memcpy(&s->head, &p->head, sizeof(s->head));
	s->have = p->have & (CARRY_MAX - 1);
	s->scan = s->have;
	bpf_probe_read_kernel(s->win, CARRY_MAX, p->bytes);
	bpf_probe_read_kernel(s->text, TEXT_LONG, p->text);
	return true;
}

/* win[line .. have) is the beginning of a line: to the front, but only its end if it is longer than what is kept. */
static __always_inline void keep_rest(struct scratch *s)
{
	u32 from = s->line, n = s->have - from;

	if (n >= CARRY_MAX) {
		if (s->head.skip == SKIP_TARGET) {
			s->head.target_full += n - TAIL;
		} else if (!s->head.started) {
			s->head.bad = s->head.is_response || request_line(s, from, s->have - TAIL, 1);
			s->head.started = 1;
			s->head.skip = SKIP_TARGET;
		} else {
			s->head.skip = SKIP_FIELD;
		}
		from = s->have - TAIL;
		n = TAIL;
	}
	n &= CARRY_MAX - 1;
	if (n && from <= WIN_MAX - CARRY_MAX)
		bpf_probe_read_kernel(s->win, n, s->win + from);
	s->have = s->scan = n;
	s->line = 0;
}

static __always_inline int save_head(struct scratch *s, struct conn *c, struct half *h)
{
	struct message_key key = { .sk = c->sk, .half = s->op.response };
	struct scratch *own = get_scratch(s->slot); /* the same, as the map's memory: older verifiers insert no other */

	if (!own)
		return -1;
	__builtin_memcpy(&s->partial.head, &s->head, sizeof(s->head));
	s->partial.have = s->have;
	bpf_probe_read_kernel(s->partial.bytes, CARRY_MAX, s->win);
	bpf_probe_read_kernel(s->partial.text, TEXT_LONG, s->text);
	h->carried = 1;
	return bpf_map_update_elem(&carry, &key, &own->partial, BPF_ANY);
}

/* The rest of the call may hold a head, or a part of one. */
static __always_inline long start_head(struct scratch *s, struct conn *c, struct half *h)
{
	s->off = h->next - s->op.pos;
	s->want = WINDOW_FIRST;
	if (!h->begin_ns)
		h->begin_ns = s->op.now;
	if (!resume_head(s, c, h))
		return lose_track(s, c, LOSS_UNREADABLE);
	s->mode = MODE_FILL;
	return 0;
}

/* What was read is not a head, or can't be read. */
static __always_inline long refuse_head(struct scratch *s, struct conn *c, u32 reason)
{
	if (c->begun == 0 && !s->op.response) { /* it only looked like HTTP */
		reason = reason == LOSS_MALFORMED ? 0 : reason;
		c->misses += 4;
	}
	return lose_track(s, c, reason);
}

/* The next stretch of a head: read behind what is there. */
static __always_inline long fill(struct scratch *s, struct conn *c, struct half *h)
{
	u64 left = s->op.len - s->off;
	u32 n = left < s->want ? left : s->want, had = s->have;

	if (!left) { /* the head goes on in another call */
		h->next = s->op.pos + s->off;
		return save_head(s, c, h) ? lose_track(s, c, LOSS_CONNECTIONS_FULL) : 1;
	}
	if (n > WINDOW_READ || had > CARRY_MAX || read_bytes(s, s->off, had, n))
		return refuse_head(s, c, LOSS_UNREADABLE);
	s->before = had;
	s->have = had + n;
	s->mode = MODE_LINES;
	return 0;
}

/* All lines in the window are taken. */
static __always_inline long end_lines(struct scratch *s, struct conn *c, struct half *h)
{
	if (!s->head.done && !s->head.bad) {
		s->off += s->have - s->before;
		s->want = WINDOW_READ;
		keep_rest(s);
	}
	if (s->head.bad)
		return refuse_head(s, c, LOSS_MALFORMED);
	if (!s->head.done) {
		s->mode = MODE_FILL;
		return 0;
	}
	s->mode = MODE_NEXT;
	h->next = s->op.pos + s->off + s->line - s->before;
	if (h->carried)
		drop_carry(c, s->op.response);
	if (s->op.response)
		on_response(s, c, h);
	else
		on_request(s, c, h);
	return 0;
}

/* One byte of a chunk's size line (RFC 9112, 7.1): hex digits, then anything up to LF. True: the line is over. */
static __always_inline bool chunk_byte(struct half *h, u8 b)
{
	int digit = hex_digit(b);

	if (b == '\n')
		return true;
	if (h->line == 0 && digit >= 0)
		h->chunk = h->chunk << 4 | digit;
	else
		h->line = 1;
	return false;
}

/* One byte of the trailer section. True: its empty line is over. `line`: 0 at a line's start, 1 inside, 2 after CR. */
static __always_inline bool trailer_byte(struct half *h, u8 b)
{
	if (b == '\n' && h->line != 1)
		return true;
	h->line = b == '\n' ? 0 : b == '\r' && h->line == 0 ? 2 : 1;
	return false;
}

/* The length of a chunked request is known at its end; others may have begun behind it before it is answered. */
static __always_inline void keep_request_bytes(struct conn *c, const struct half *h)
{
	struct message_key key = { .sk = c->sk, .number = c->begun - 1 };
	struct held *r = c->slot_of == c->begun ? &c->slot : bpf_map_lookup_elem(&pending, &key);

	if (r)
		r->e.x.request_bytes = h->body;
}

/* Up to LOOK bytes of chunked framing. Returns 0, or -1: unreadable. */
__noinline int step_chunk(struct scratch *s, struct conn *c)
{
	u64 off, left;
	struct half *h;
	bool over = false;
	u32 n, i;

	if (!s || !c)
		return -1;
	h = &c->half[s->op.response & 1];
	off = h->next - s->op.pos;
	left = s->op.len - off;
	n = left < LOOK ? left : LOOK;
	if (read_bytes(s, off, 0, n))
		return -1;
	for (i = 0; i < LOOK && !over; i++) {
		if (i >= n)
			break;
		over = h->phase == PHASE_CHUNK ? chunk_byte(h, s->win[i]) : trailer_byte(h, s->win[i]);
	}
	h->next += i;
	if (!over)
		return 0;
	if (h->phase == PHASE_TRAILER) {
		if (!s->op.response)
			keep_request_bytes(c, h);
		end_message(s, c, h);
		return 0;
	}
	h->line = 0;
	if (h->chunk) {
		h->body += h->chunk;
		h->next += h->chunk + 2; /* the data and its CRLF */
	} else {
		h->phase = PHASE_TRAILER;
	}
	h->chunk = 0;
	return 0;
}

struct turning {
	struct scratch *s;
	struct conn *c;
};

/* What the half's next byte begins. */
static __always_inline long next_thing(struct scratch *s, struct conn *c, struct half *h)
{
	u64 end = s->op.pos + s->op.len;

	if (h->phase == PHASE_BODY) {
		if (end < h->next)
			return 1;
		end_message(s, c, h);
		return 0;
	}
	if (end <= h->next)
		return 1;
	if (h->next < s->op.pos || s->op.buf.kind == BUF_NONE) /* what begins here has passed unseen */
		return lose_track(s, c, LOSS_GAP);
	if (h->phase == PHASE_HEAD)
		return start_head(s, c, h);
	return step_chunk(s, c) ? lose_track(s, c, LOSS_UNREADABLE) : 0;
}

static long turn(u32 i, struct turning *t)
{
	struct scratch *s = t->s;
	struct conn *c = t->c;
	struct half *h = &c->half[s->op.response & 1];

	switch (s->mode) {
	case MODE_NEXT:
		return next_thing(s, c, h);
	case MODE_FILL:
		return fill(s, c, h);
	case MODE_LEAVING:
		return go_on_leaving(s, c);
	}
	return scan_lines(s) ? end_lines(s, c, h) : 0;
}

/* The call s->op, on a connection that speaks HTTP. */
__noinline int advance(struct scratch *s, struct conn *c)
{
	struct turning t = { s, c };
	struct half *h;
	u64 end;

	if (!s || !c)
		return 0;
	h = &c->half[s->op.response & 1];
	s->op.pos = half_position(h, s->op.seq);
	end = s->op.pos + s->op.len;
	s->mode = MODE_NEXT;
	bpf_loop(MAX_TURNS, turn, &t, 0);
	if (end > h->pos) {
		h->pos = end;
		h->seq = s->op.seq + s->op.len;
	}
	return 0;
}

#endif
