/* SPDX-License-Identifier: (Apache-2.0 OR GPL-2.0-only) */
/*
 * Bytes of one half, in: messages framed (RFC 9112, 6), exchanges begun and finished. One flat loop of
 * small turns (a stretch of memory, a line, a chunk's size, the end of a body) until the call's bytes are used up: BPF
 * allows eight frames, so loops are not nested.
 */
#ifndef STINGLESS_STREAM_H
#define STINGLESS_STREAM_H

#include "collect.h"

#define LOOK 16 /* bytes of chunked framing looked at in one step */

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
__noinline int keep_request_bytes(struct conn *c)
{
	struct message_key key = {};
	struct held *r;

	if (!c)
		return 0;
	key.sk = c->sk;
	key.number = c->begun - 1;
	r = c->slot_of == c->begun ? &c->slot : bpf_map_lookup_elem(&pending, &key);
	if (r)
		r->e.x.request_bytes = c->half[HALF_REQUEST].body;
	return 0;
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
			keep_request_bytes(c);
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

/* Is what ends at `end` used up? A body's end is to be seen, also where nothing follows. */
static __always_inline bool is_used_up(const struct half *h, u64 end)
{
	return h->phase == PHASE_BODY ? end < h->next : end <= h->next;
}

/* What the half's next byte begins. */
static __always_inline long next_thing(struct scratch *s, struct conn *c, struct half *h)
{
	u64 end = s->op.pos + s->op.len;

	if (h->phase == PHASE_BODY)
		end_message(s, c, h);
	if (end <= h->next)
		return 1;
	if (h->next < s->op.pos || s->op.buf.kind == BUF_NONE) /* what begins here has passed unseen */
		return lose_track(s, c, LOSS_GAP);
	if (h->phase == PHASE_HEAD)
		return start_head(s, c, h);
	return step_chunk(s, c) ? lose_track(s, c, LOSS_UNREADABLE) : 0;
}

/* One turn takes a head that lies before it in one stretch, and what follows it if that is no other head. */
static long turn(u32 i, struct turning *t)
{
	struct scratch *s = t->s;
	struct conn *c = t->c;
	struct half *h = &c->half[s->op.response & 1];
	long over;

	if (s->mode == MODE_NEXT) {
		over = next_thing(s, c, h);
		if (s->mode != MODE_FILL)
			return over;
	}
	if (s->mode == MODE_FILL) {
		over = fill(s, c, h);
		if (s->mode != MODE_LINES)
			return over;
		if (keep_here(s, h))
			return 1;
	}
	if (s->mode == MODE_LEAVING)
		return go_on_leaving(s, c);
	if (!scan_lines(s))
		return 0;
	end_lines(s, c, h);
	return s->mode == MODE_NEXT ? is_used_up(h, s->op.pos + s->op.len) : s->mode == MODE_OVER;
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
	if (!is_used_up(h, end))
		bpf_loop(MAX_TURNS, turn, &t, 0);
	if (end > h->pos) {
		h->pos = end;
		h->seq = s->op.seq + s->op.len;
	}
	return 0;
}

#endif
