/* SPDX-License-Identifier: (Apache-2.0 OR GPL-2.0-only) */
/*
 * HTTP/2 frames (RFC 9113, 4.1 and 6), walked by their lengths: what Python needs of them is collected, the rest is
 * passed by arithmetic. Positions are as for HTTP/1: `next` is the next byte that means something.
 */
#ifndef STINGLESS_H2_H
#define STINGLESS_H2_H

#include "frames.h"
#include "h2_format.h"
#include "stream.h"

/* Where the next frame begins is not known any more: the half is sought again (frames_fit). */
static __always_inline long lose_frames(struct scratch *s, struct conn *c, struct half *h, u32 reason)
{
	count_loss(s->op.svc, reason);
	flush_frames(s, c);
	h->phase = PHASE_LOST;
	h->next = NOWHERE;
	h->gap = 1;
	h->line = 0;
	h->message_stream = h->message_left = h->prefix = 0;
	return 1;
}

/* What was wanted has passed unseen. Of a body it is only what gRPC says in it. */
static __always_inline long pass_unseen(struct scratch *s, struct conn *c, struct half *h, u32 reason)
{
	if (h->phase != PHASE_DATA)
		return lose_frames(s, c, h, reason);
	h->unknown = 1;
	h->message_left = h->prefix = 0;
	h->next = h->frame_end;
	return 0;
}

/* h->frame: the head of a DATA frame without its type, which is 0. */
static __always_inline void begin_data(struct half *h, const u8 *head, u32 length, u32 stream)
{
	u32 rest;

	h->frame = (word_at(head) & 0xffffff) | word_at(head) >> 32 << 24 | (u64)head[8] << 56;
	h->phase = PHASE_DATA;
	h->messages = h->padding = 0;
	h->unknown = !!(head[4] & FRAME_PADDED);
	if (h->message_stream != stream) {
		h->message_stream = stream;
		h->message_left = h->prefix = 0;
	}
	if (h->prefix) {
		h->before = IN_PREFIX;
		return;
	}
	rest = h->message_left < length && !h->unknown ? h->message_left : h->unknown ? 0 : length;
	h->before = rest;
	h->message_left -= rest;
	h->next += rest;
}

/* A DATA frame's last byte has passed. */
static __always_inline long end_data(struct scratch *s, struct conn *c, struct half *h)
{
	u64 *head = (u64 *)s->frame;
	u64 said = h->before | (u64)(h->prefix ? IN_PREFIX : h->message_left) << 32;

	make_room(s, c);
	*head = (h->frame & 0xffffff) | h->frame >> 24 << 32;
	s->frame[8] = h->frame >> 56;
	collect_frame(s, s->frame, said, h->messages | (u32)h->unknown << 16 | (u32)h->padding << 24,
		      sizeof(struct data_frame));
	h->phase = PHASE_FRAME;
	return 0;
}

/* The head of a frame is whole, in s->frame. */
static __always_inline long take_frame(struct scratch *s, struct conn *c, struct half *h)
{
	u32 length = big_endian(s->frame) >> 8, type = s->frame[3], flags = s->frame[4], n = 0;
	u32 stream = big_endian(s->frame + 5) & 0x7fffffff;

	if (!is_frame(type, flags, length, stream))
		return lose_frames(s, c, h, LOSS_MALFORMED);
	h->frame_end = h->next + length;
	if (type == FRAME_DATA) {
		begin_data(h, s->frame, length, stream);
		return 0;
	}
	if (type == FRAME_HEADERS || type == FRAME_PUSH_PROMISE || type == FRAME_CONTINUATION)
		n = 4;
	else if (type != FRAME_RST_STREAM && type != FRAME_GOAWAY && (type != FRAME_SETTINGS || flags & FRAME_ACK)) {
		h->next = h->frame_end;
		return 0;
	}
	make_room(s, c);
	collect_frame(s, s->frame, s->op.seq + (u32)(h->next - FRAME_HEAD - s->op.pos), 0, n);
	h->keep = kept_of(type, length);
	h->phase = h->keep ? PHASE_KEEP : PHASE_FRAME;
	return 0;
}

static __always_inline long read_frame(struct scratch *s, struct conn *c, struct half *h)
{
	u32 had = h->line & 15, n = FRAME_HEAD - had, there;
	int at = reach(s, h->next - s->op.pos, n);

	if (at < 0 || had >= FRAME_HEAD)
		return pass_unseen(s, c, h, LOSS_UNREADABLE);
	there = s->have - at;
	*(u64 *)s->frame = h->frame;
	*(u64 *)(s->frame + had) = word_at(win_at(s, at));
	s->frame[had + 8] = *win_at(s, at + 8);
	if (there < n) {
		h->next += there;
		h->line = had + there;
		h->frame = word_at(s->frame);
		return 0;
	}
	h->next += n;
	h->line = 0;
	return take_frame(s, c, h);
}

static __always_inline long keep_payload(struct scratch *s, struct conn *c, struct half *h)
{
	int at = reach(s, h->next - s->op.pos, 1);
	u32 n, to;

	if (at < 0)
		return pass_unseen(s, c, h, LOSS_UNREADABLE);
	if (s->out.f.len >= FRAMES_ROOM)
		flush_frames(s, c);
	to = s->out.f.len;
	n = s->have - at;
	if (n > h->keep)
		n = h->keep;
	if (n > FRAMES_ROOM - to)
		n = FRAMES_ROOM - to;
	barrier_var(n);
	barrier_var(to);
	if (to > FRAMES_ROOM || n > WINDOW_READ)
		return 1;
	bpf_probe_read_kernel(s->out.bytes + to, n, win_at(s, at));
	if (s->out.f.rest == to)
		s->out.f.rest += n;
	s->out.f.len = to + n;
	h->keep -= n;
	h->next += n;
	if (!h->keep) {
		h->phase = PHASE_FRAME;
		h->next = h->frame_end;
	}
	return 0;
}

/* gRPC: compressed-flag and length of the next message (PROTOCOL-HTTP2.md, Length-Prefixed-Message), which calls and
 * frames may cut anywhere: what there is of them waits in h->message_left. Or the pad length. */
static __always_inline long read_message(struct scratch *s, struct conn *c, struct half *h)
{
	u32 had = h->prefix, there = MESSAGE_PREFIX - had;
	u64 room = h->frame_end - h->next, read, end;
	int at = reach(s, h->next - s->op.pos, there);
	const u8 *p = win_at(s, at);

	if (at < 0)
		return pass_unseen(s, c, h, LOSS_UNREADABLE);
	if (h->frame >> 24 & FRAME_PADDED)
		h->padding = *p;
	if (h->unknown)
		return pass_unseen(s, c, h, 0);
	if (there > s->have - at)
		there = s->have - at;
	if (there > room)
		there = room;
	read = (u64)big_endian(p) << 8 | p[4];
	read = (u64)h->message_left << 8 * there | read >> 8 * (MESSAGE_PREFIX - there);
	h->next += there;
	if (had + there < MESSAGE_PREFIX) {
		h->prefix = had + there;
		h->message_left = read;
		return 0;
	}
	h->prefix = h->message_left = 0;
	if (read >> 33 || (u32)read == IN_PREFIX || h->messages == 0xffff)
		return pass_unseen(s, c, h, 0);
	h->messages++;
	end = h->next + (u32)read;
	h->message_left = end > h->frame_end ? end - h->frame_end : 0;
	h->next = end > h->frame_end ? h->frame_end : end;
	return 0;
}

static long walk_turn(u32 i, struct turning *t)
{
	struct scratch *s = t->s;
	struct conn *c = t->c;
	struct half *h = &c->half[s->op.response & 1];
	u64 end = s->op.pos + s->op.len;

	if (h->phase == PHASE_DATA && h->next == h->frame_end && end >= h->next)
		return end_data(s, c, h);
	if (end <= h->next)
		return 1;
	if (h->next < s->op.pos || s->op.buf.kind == BUF_NONE)
		return pass_unseen(s, c, h, LOSS_GAP);
	if (h->phase == PHASE_FRAME)
		return read_frame(s, c, h);
	return h->phase == PHASE_KEEP ? keep_payload(s, c, h) : read_message(s, c, h);
}

/* The call s->op, on a connection that speaks HTTP/2. */
__noinline int walk_frames(struct scratch *s, struct conn *c)
{
	struct turning t = { s, c };
	struct half *h;
	u64 end;

	if (!s || !c)
		return 0;
	h = &c->half[s->op.response & 1];
	s->op.pos = half_position(h, s->op.seq);
	end = s->op.pos + s->op.len;
	if (h->phase == PHASE_FIRST || (h->phase == PHASE_LOST && frames_fit(s))) {
		h->phase = PHASE_FRAME;
		h->next = s->op.pos;
	}
	if (!(c->told & TOLD))
		begin_frames(s, c);
	s->off = s->have = 0;
	s->out.f.len = s->out.f.rest = 0;
	bpf_loop(MAX_TURNS, walk_turn, &t, 0);
	flush_frames(s, c);
	if (end > h->pos) {
		h->pos = end;
		h->seq = s->op.seq + s->op.len;
	}
	return 0;
}

#endif
