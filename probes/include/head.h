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

static __always_inline int first_line(struct scratch *s, u32 at, u32 end)
{
	if (s->head.is_response)
		return end < at + STATUS_LEN ? -1 : status_line(s, at);
	return request_line(s, at, end, 0);
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
		s->head.bad = first_line(s, at, end) != 0;
	}
	return s->head.done || s->head.bad;
}

/* Offset of the first LF among the 64 bytes at win[at], or 64. */
__noinline u32 line_feed(struct scratch *s, u32 at)
{
	const u8 *p;
	u64 w, lf;

	if (!s)
		return 64;
	p = win_at(s, at);

#pragma clang loop unroll(full)
	for (u32 k = 0; k < 64; k += 8) {
		w = word_at(p + k);
		if (!maybe_controls(w))
			continue;
		lf = first_equal(w, '\n');
		if (lf)
			return k + first_byte(lf);
	}
	return 64;
}

/* What a line that matters begins with: see LINE_END. */
static __always_inline u32 first_letters(const struct scratch *s)
{
	return REQUEST_LINES & ~((u32)s->head.is_response << ('h' & 31));
}

/* May the line that begins at win[at], with one of those letters, say something of interest? It need not be whole. */
static __always_inline bool may_matter(struct scratch *s, u32 at, u32 have)
{
	const u8 *p = win_at(s, at);

	if (*p < 'A' || at + 24 > have)
		return true;
	if ((*p | 0x20) == 'c') /* Content-Length among a few that are frequent; header_line() looks closer */
		return (p[8] | 0x20) == 'l';
	return name_length(field_of(word_at(p) | LOWER), word_at(p + 8) | LOWER, word_at(p + 16) | LOWER);
}

/* The line that begins at win[at] if it is a Content-Length as nearly all are: one space, up to six digits, CR LF. Returns
 * where its CR is, or 0: header_line() looks closer. */
static __always_inline u32 plain_length(struct scratch *s, u32 at)
{
	const u8 *p = win_at(s, at);
	u64 w = word_at(p + 16), other;
	u32 n;

	if ((word_at(p) | LETTERS_BEFORE_DASH) != WORD('c', 'o', 'n', 't', 'e', 'n', 't', '-') ||
	    (word_at(p + 8) | LETTERS_BEFORE_COLON) != WORD('l', 'e', 'n', 'g', 't', 'h', ':', ' '))
		return 0;
	other = ~bytes_between(w, '0', '9') & HIGH;
	n = first_byte(other | 1ULL << 63);
	if (!n || n > 6 || (u16)(w >> (n * 8)) != ('\n' << 8 | '\r'))
		return 0;
	at += 16 + n;
	if (at + 2 > s->have)
		return 0;
	s->head.content_length = decimal(w << (64 - n * 8));
	s->head.has_length = 1;
	return at;
}

/* From win[s->scan], in a line of no interest, to the beginning of one that may matter, or to the end of what is there. */
__noinline int skip_lines(struct scratch *s)
{
	u32 at, have, letters, w, after;
	const u8 *p;
	u64 found;

	if (!s)
		return 0;
	at = s->scan;
	have = s->have;
	letters = first_letters(s);
#pragma clang loop unroll(disable)
	for (u32 i = 0; i < SKIP_TURNS && at < have; i++) {
		p = win_at(s, at);
		found = maybe_controls(word_at(p));
		if (!found) {
			found = maybe_controls(word_at(p + 8));
			at += 8;
		}
		if (!found) {
			found = maybe_controls(word_at(p + 16));
			at += 8;
		}
		if (!found) {
			at += 8;
			continue;
		}
		at += first_byte(found);
		w = *(const u32 *)win_at(s, at);
		at++;
		if ((u16)w == ('\n' << 8 | '\r')) {
			at++;
			w >>= 8;
		} else if ((u8)w != '\n') {
			continue;
		}
		if (at > have) /* what lies there is of an earlier call */
			break;
		s->line = at;
		if (!(letters >> (w >> 8 & 31) & 1))
			continue;
		after = plain_length(s, at);
		if (after)
			at = after;
		else if (may_matter(s, at, have))
			break;
	}
	s->scan = at < have ? at : have;
	return 0;
}

/* A status line is known by its first bytes; the rest of it is as a line of no interest. */
static __always_inline void status_early(struct scratch *s)
{
	if (!s->head.is_response || s->head.started || s->have < s->line + STATUS_LEN || status_line(s, s->line))
		return;
	s->head.started = 1;
	s->scan = s->line + STATUS_LEN;
}

/* The usual end of a head, whole in win: CR LF where a line would begin. */
static __always_inline bool at_end(struct scratch *s)
{
	const u8 *p = win_at(s, s->line);

	if (p[0] != '\r' || p[1] != '\n' || s->line + 2 > s->have)
		return false;
	s->line += 2;
	s->head.done = 1;
	return true;
}

/* One line, or a stretch of one. True: the head is over or bad. Where it goes on is kept in *s, not in registers: else
 * the verifier follows what it knows of them through every turn. */
static __always_inline bool scan_line(struct scratch *s)
{
	bool fields = s->head.started && !s->head.skip;
	u32 at = s->scan, have = s->have, end;

	if (fields && !(first_letters(s) >> (*win_at(s, s->line) & 31) & 1)) { /* header_line() looks closer */
		skip_lines(s);
		at = s->scan;
		if (at >= have || at != s->line)
			return false;
	}
	if (fields && at_end(s))
		return true;
	end = at + line_feed(s, at);
	if (end >= have || end == at + 64) {
		s->scan = end < have ? end : have;
		return false;
	}
	s->scan = end + 1;
	if (!fields || end <= s->line + 1) /* the first one, or the last one */
		return take_line(s, end);
	header_line(s, s->line, *win_at(s, end - 1) == '\r' ? end - 1 : end); /* what may end it besides LF is no part of a value */
	s->line = end + 1;
	return false;
}

/* A few lines. True: nothing more to find in win. */
static __always_inline bool scan_lines(struct scratch *s)
{
	status_early(s);
#pragma clang loop unroll(disable)
	for (u32 i = 0; i < LINES_A_TURN && s->scan < s->have; i++) {
		if (scan_line(s))
			return true;
	}
	return s->scan >= s->have;
}

#endif
