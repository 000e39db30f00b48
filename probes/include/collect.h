/* SPDX-License-Identifier: (Apache-2.0 OR GPL-2.0-only) */
/* Heads that come in pieces: read a stretch of memory, take its lines, keep the rest for the next call. */
#ifndef STINGLESS_COLLECT_H
#define STINGLESS_COLLECT_H

#include "buffer.h"
#include "message.h"

static __always_inline bool resume_head(struct scratch *s, struct conn *c, struct half *h)
{
	u32 here = h->carried;
	struct message_key key;
	struct partial *p;

	s->line = 0;
	if (here <= CARRY_HERE) {
		__builtin_memset(&s->head, 0, sizeof(s->head));
		s->head.is_response = s->op.response;
		s->head.seq = s->op.seq + s->off - here;
		*(u64 *)s->win = h->first_bytes;
		s->have = s->scan = here;
		return true;
	}
	key = (struct message_key){ .sk = c->sk, .half = s->op.response };
	p = bpf_map_lookup_elem(&carry, &key);
	if (!p)
		return false;
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
	if (n && from && from <= WIN_MAX - CARRY_MAX)
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
	h->carried = CARRIED_APART;
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

/* read_bytes() from s->off on, without a call where there is one stretch of memory. */
static __always_inline int read_head(struct scratch *s, u32 at, u32 n)
{
	const struct buf *b = &s->op.buf;

	barrier_var(n); /* checked on the registers that are used */
	barrier_var(at);
	if (n > WINDOW_READ || at > CARRY_MAX)
		return -1;
	if (b->kind != BUF_FLAT)
		return read_bytes(s, s->off, at, n);
	return bpf_probe_read_user(s->win + at, n, (void *)(b->base + b->skip + s->off)) ? -1 : 0;
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
	if (read_head(s, had, n))
		return refuse_head(s, c, LOSS_UNREADABLE);
	s->before = had;
	s->have = had + n;
	s->mode = MODE_LINES;
	return 0;
}

/* Of a head's first line nothing but a few bytes is there yet: the half keeps them. */
static __always_inline bool keep_here(struct scratch *s, struct half *h)
{
	u64 bytes = word_at(s->win), line = bytes;
	u32 n = s->have;

	if (n > CARRY_HERE || !n || h->carried > CARRY_HERE || s->op.len - s->off != n - s->before)
		return false;
	if (n < CARRY_HERE)
		line = (bytes & ((1ULL << n * 8) - 1)) | LOWER << n * 8;
	if (maybe_controls(line)) /* it may be over */
		return false;
	h->first_bytes = bytes;
	h->carried = n;
	h->next = s->op.pos + s->op.len;
	return true;
}

/* The line that an HTTP/2 client begins with (RFC 9113, 3.4). */
static __always_inline bool is_preface(struct scratch *s)
{
	return word_at(s->win) == WORD('P', 'R', 'I', ' ', '*', ' ', 'H', 'T') &&
	       word_at(s->win + 8) == WORD('T', 'P', '/', '2', '.', '0', '\r', '\n');
}

/* What was outstanding before cannot be: an HTTP/2 connection begins with its preface. */
static __always_inline long begin_http2(struct scratch *s, struct conn *c, struct half *h)
{
	if (c->begun != c->answered)
		return refuse_head(s, c, LOSS_MALFORMED);
	if (h->carried)
		drop_carry(c, HALF_REQUEST);
	speak_http2(s, c, s->op.pos + (s64)(s32)(s->head.seq - s->op.seq) + PREFACE_LEN, c->half[HALF_RESPONSE].next);
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
		return !s->op.response && is_preface(s) ? begin_http2(s, c, h) : refuse_head(s, c, LOSS_MALFORMED);
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

#endif
