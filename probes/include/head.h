/* SPDX-License-Identifier: (Apache-2.0 OR GPL-2.0-only) */
/*
 * Heads of HTTP/1.0 and 1.1 messages (RFC 9112): the first line and the few header fields that framing, correlation
 * and names need. Works on win[line .. have), line by line; knows nothing of sockets or connections.
 */
#ifndef STINGLESS_HEAD_H
#define STINGLESS_HEAD_H

#include "field.h"

/* win[at .. end) ends a first line of which the beginning was taken already. Returns 0, or -1: not HTTP/1. */
static __always_inline int end_target(struct scratch *s, u32 at, u32 end)
{
	if (end < at + 9 || *win_at(s, end - 9) != ' ' || !read_version(s, word_at(win_at(s, end - 8))))
		return -1;
	s->head.target_full += end - at - 9;
	return 0;
}

/* The line win[s->line .. end), which ends with LF. Returns whether the head is over or bad. */
__noinline int take_line(struct scratch *s, u32 end)
{
	u32 at;

	if (!s)
		return 1;
	at = s->line;
	s->line = end + 1;
	if (end > at && *win_at(s, end - 1) == '\r')
		end--;
	if (s->head.skip) {
		if (s->head.skip == SKIP_TARGET)
			s->head.bad = end_target(s, at, end) != 0;
		s->head.skip = SKIP_NONE;
	} else if (s->head.started) {
		if (end == at)
			s->head.done = 1;
		else
			header_line(s, at, end);
	} else if (end > at) { /* an empty line before the first one is ignored: RFC 9112, 2.2 */
		s->head.started = 1;
		s->head.bad = (s->head.is_response ? status_line(s, at, end) : request_line(s, at, end, 0)) != 0;
	}
	return s->head.done || s->head.bad;
}

/* Offset of the first LF among the 64 bytes at win[at], or 64. */
__noinline u32 line_feed(struct scratch *s, u32 at)
{
	const u8 *p;
	u64 lf;

	if (!s)
		return 64;
	p = win_at(s, at);

#pragma clang loop unroll(full)
	for (u32 k = 0; k < 64; k += 8) {
		lf = first_equal(word_at(p + k), '\n');
		if (lf)
			return k + first_byte(lf);
	}
	return 64;
}

/* A field line that says nothing of interest, in a head of which the first line was read. */
static __always_inline bool is_boring(struct scratch *s, u32 line, u32 end)
{
	const u8 *p = win_at(s, line);

	if (!s->head.started || s->head.skip || end < line + 4)
		return false;
	return !(INTERESTING >> (*p & 31) & 1) || !field_of(word_at(p) | LOWER);
}

/* A few lines. True: nothing more to find in win. */
static __always_inline bool scan_lines(struct scratch *s)
{
	u32 at = s->scan, have = s->have, end;

#pragma clang loop unroll(disable)
	for (u32 i = 0; i < LINES_A_TURN; i++) {
		if (at >= have || at >= WIN_MAX)
			break;
		end = at + line_feed(s, at);
		if (end >= have) {
			at = have;
			break;
		}
		if (end == at + 64) {
			at = end;
			continue;
		}
		at = end + 1;
		if (is_boring(s, s->line, end)) {
			s->line = at;
		} else if (take_line(s, end)) {
			s->scan = at;
			return true;
		}
	}
	s->scan = at;
	return at >= have;
}

#endif
