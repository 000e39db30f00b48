/* SPDX-License-Identifier: (Apache-2.0 OR GPL-2.0-only) */
/* The form of HTTP/2 frames (RFC 9113, 4.1 and 6), and how a row of them is known where the beginning was not seen. */
#ifndef STINGLESS_H2_FORMAT_H
#define STINGLESS_H2_FORMAT_H

#include "buffer.h"
#include "line.h"

#define MAX_FIT 256 /* frames of a call that are looked at to tell whether it is HTTP/2 */

enum frame_type {
	FRAME_DATA, FRAME_HEADERS, FRAME_PRIORITY, FRAME_RST_STREAM, FRAME_SETTINGS, FRAME_PUSH_PROMISE, FRAME_PING,
	FRAME_GOAWAY, FRAME_WINDOW_UPDATE, FRAME_CONTINUATION,
};
enum { FRAME_ACK = 1, FRAME_PADDED = 8, FRAME_PRIORITISED = 32 };
enum { FIT_WHOLE = 1, FIT_REQUEST = 2, FIT_RESPONSE = 4 }; /* scratch.fit */

static __always_inline u32 big_endian(const u8 *p)
{
	return (u32)p[0] << 24 | (u32)p[1] << 16 | (u32)p[2] << 8 | p[3];
}

/* Can there be such a frame? An extension's (type from 10) is ignored, whatever it is (RFC 9113, 5.5). */
static __always_inline bool is_frame(u32 type, u32 flags, u32 length, u32 stream)
{
	switch (type) {
	case FRAME_DATA:
	case FRAME_HEADERS:
	case FRAME_CONTINUATION:
		return stream;
	case FRAME_PUSH_PROMISE:
		return stream && length >= 4;
	case FRAME_PRIORITY:
		return stream && length == 5;
	case FRAME_RST_STREAM:
		return stream && length == 4;
	case FRAME_SETTINGS:
		return !stream && length % 6 == 0 && length <= 16384 && !(length && flags & FRAME_ACK);
	case FRAME_PING:
		return !stream && length == 8;
	case FRAME_GOAWAY:
		return !stream && length >= 8 && length <= 16384;
	case FRAME_WINDOW_UPDATE:
		return length == 4;
	}
	return length <= 16384;
}

/* How many bytes of its payload are wanted, from its beginning. */
static __always_inline u32 kept_of(u32 type, u32 length)
{
	u32 most = type == FRAME_SETTINGS ? SETTINGS_KEPT : type == FRAME_RST_STREAM ? 4 : type == FRAME_GOAWAY ? 8 : FRAME_KEPT;

	return length < most ? length : most;
}

/* Where in win the call's bytes from `off` on are, `want` of them or what there is; they are read if need be. -1: they
 * cannot be. */
static __always_inline int reach(struct scratch *s, u64 off, u32 want)
{
	u64 left = s->op.len - off, at = off - s->off;
	u32 n = left < WINDOW_FIRST ? left : WINDOW_FIRST;

	if (want > left)
		want = left;
	if (off >= s->off && at + want <= s->have)
		return at;
	s->off = off;
	s->have = 0;
	if (read_bytes(s, off, 0, n))
		return -1;
	s->have = n;
	return 0;
}

/* What a field block's first field says that a client or a server begins with: one of the static table's (RFC 7541, A),
 * :method (2, 3) or :status (8 to 14), as an index or with a value of its own. */
static __always_inline u32 side_of(u8 field)
{
	u8 index = field & 0x80 ? field & 0x7f : field & 0x40 ? field & 0x3f : field & 0x0f;

	if ((field & 0xe0) == 0x20) /* the table's size */
		return 0;
	return index == 2 || index == 3 ? FIT_REQUEST : index >= 8 && index <= 14 ? FIT_RESPONSE : 0;
}

static long fit_frame(u32 i, struct scratch **ctx)
{
	struct scratch *s = *ctx;
	u32 length, type, flags, stream, skip;
	int at;
	const u8 *p;

	if (s->fit_at == s->op.len) {
		s->fit |= FIT_WHOLE;
		return 1;
	}
	at = reach(s, s->fit_at, FRAME_HEAD + 16);
	if (at < 0 || s->have < at + FRAME_HEAD)
		return 1;
	p = win_at(s, at);
	length = big_endian(p) >> 8;
	type = p[3];
	flags = p[4];
	stream = big_endian(p + 5);
	if (type > FRAME_CONTINUATION || !is_frame(type, flags, length, stream) || s->fit_at + FRAME_HEAD + length > s->op.len)
		return 1;
	skip = FRAME_HEAD + (flags & FRAME_PADDED ? 1 : 0) + (flags & FRAME_PRIORITISED ? 5 : 0);
	if (type == FRAME_HEADERS && stream & 1 && length)
		s->fit |= side_of(*win_at(s, at + skip));
	s->fit_at += FRAME_HEAD + length;
	return 0;
}

/* Are the call's bytes whole frames, one behind the other, to its end? If so FIT_WHOLE, and which side sent them. */
__noinline int frames_fit(struct scratch *s)
{
	struct scratch *ctx = s;

	if (!s || s->op.buf.kind == BUF_NONE)
		return 0;
	s->fit_at = s->fit = s->off = s->have = 0;
	bpf_loop(MAX_FIT, fit_frame, &ctx, 0);
	return s->fit & FIT_WHOLE ? s->fit : 0;
}

#endif
