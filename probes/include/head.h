/* SPDX-License-Identifier: (Apache-2.0 OR GPL-2.0-only) */
/*
 * Heads of HTTP/1.0 and 1.1 messages (RFC 9112): the first line and the few header fields that framing, correlation
 * and names need. Works on win[line .. have), line by line; knows nothing of sockets or connections.
 */
#ifndef STINGLESS_HEAD_H
#define STINGLESS_HEAD_H

#include "maps.h"
#include "swar.h"

#define LINES_A_TURN 8
/* Bit c & 31 of the first letters of the fields in field_of(), in either case. */
#define INTERESTING (1U << ('c' & 31) | 1U << ('h' & 31) | 1U << ('t' & 31) | 1U << ('u' & 31))
#define WIN_MAX (WINDOW + CARRY_MAX) /* an index into win may be up to this */

static __always_inline bool is_tchar(u8 c) /* RFC 9110, 5.6.2 */
{
	u64 low = 0x03ff6cfa00000000ULL, high = 0x57ffffffc7fffffeULL;

	return c < 64 ? low >> c & 1 : c < 128 ? high >> (c - 64) & 1 : 0;
}

static __always_inline const u8 *win_at(struct scratch *s, u32 at)
{
	barrier_var(at); /* or the compiler drops the mask, which is for the verifier: no index is that large */
	return s->win + (at & (WIN_SIZE - 1));
}

/* Appends win[at .. at+n) to the request's text; returns where it begins. What does not fit is cut by the caller's n. */
static __always_inline u32 keep_text(struct scratch *s, u32 at, u32 n, u32 max)
{
	u32 to = s->head.text_len;

	barrier_var(n); /* checked here, on the registers that are used */
	barrier_var(to);
	if (to > TEXT_LONG - max || n > max || at > WIN_MAX - max)
		return 0;
	if (n > 32) {
		bpf_probe_read_kernel(s->text + to, n, s->win + at);
	} else { /* what is too much is written over by the next piece */
		for (u32 i = 0; i < 32; i += 8)
			*(u64 *)(s->text + to + i) = word_at(win_at(s, at + i));
	}
	s->head.text_len = to + n;
	return to;
}

/* Zero-padded method token -> its place in settings.methods, from 1. */
static __always_inline u8 known_method(u64 token)
{
	for (int i = 0; i < KNOWN_METHODS; i++) {
		u64 known = *(const volatile u64 *)settings.methods[i];

		if (!known)
			break;
		if (known == token)
			return i + 1;
	}
	return 0;
}

static __always_inline bool read_version(struct scratch *s, u64 w)
{
	s->head.protocol = w == WORD('H', 'T', 'T', 'P', '/', '1', '.', '1') ? PROTOCOL_HTTP_1_1 :
			   w == WORD('H', 'T', 'T', 'P', '/', '1', '.', '0') ? PROTOCOL_HTTP_1_0 : PROTOCOL_UNKNOWN;
	return s->head.protocol;
}

/* method SP request-target SP HTTP-version, in win[at .. end). Returns 0, or -1: not HTTP/1. `cut`: the line goes on. */
__noinline int request_line(struct scratch *s, u32 at, u32 end, u32 cut)
{
	u32 m, target, n;
	u64 w;

	if (!s || at > WINDOW || end > WIN_MAX || end < at + 3)
		return -1;
	w = word_at(win_at(s, at));
	m = first_byte(bytes_equal(w, ' ') | 1ULL << 63);
	s->head.method = (u8)(w >> (m * 8)) == ' ' ? known_method(w & ((1ULL << (m * 8)) - 1)) : 0;
	if (!s->head.method) {
		for (m = 0; m <= METHOD_MAX; m++) {
			if (!is_tchar(*win_at(s, at + m)))
				break;
		}
		if (m == 0 || m > METHOD_MAX || *win_at(s, at + m) != ' ')
			return -1;
		if (m == 8)
			s->head.method = known_method(w);
	}
	target = at + m + 1;
	if (!cut) {
		if (end < target + 10 || end < 9 || *win_at(s, end - 9) != ' ' || !read_version(s, word_at(win_at(s, end - 8))))
			return -1;
		n = end - 9 - target;
	} else {
		s->head.protocol = PROTOCOL_HTTP_1_1; /* said at the line's end: end_target() */
		n = end - target;
	}
	s->head.target_full = n;
	if (n > TARGET_MAX) {
		n = TARGET_MAX;
		s->head.cut = 1;
	}
	s->head.cut |= cut;
	s->head.is_head = m == 4 && (w & 0xffffffff) == WORD('H', 'E', 'A', 'D', 0, 0, 0, 0);
	s->head.is_connect = m == 7 && (w & ~(0xffULL << 56)) == WORD('C', 'O', 'N', 'N', 'E', 'C', 'T', 0);
	s->head.text_len = 0;
	s->head.method_len = m;
	keep_text(s, at, m, METHOD_MAX);
	s->head.target_len = n;
	keep_text(s, target, n, TARGET_MAX);
	return 0;
}

/* HTTP-version SP status-code ... Returns 0, or -1: not HTTP/1. */
static __always_inline int status_line(struct scratch *s, u32 at, u32 end)
{
	u64 w = word_at(win_at(s, at + 8));
	u8 a = w >> 8, b = w >> 16, c = w >> 24;

	if (end < at + 12 || !read_version(s, word_at(win_at(s, at))) || (u8)w != ' ')
		return -1;
	if (a < '1' || a > '9' || b < '0' || b > '9' || c < '0' || c > '9')
		return -1;
	s->head.status = (a - '0') * 100 + (b - '0') * 10 + (c - '0');
	return 0;
}

static __always_inline int hex_digit(u8 c)
{
	u8 l = c | 0x20;

	return c >= '0' && c <= '9' ? c - '0' : l >= 'a' && l <= 'f' ? l - 'a' + 10 : -1;
}

static __always_inline int lower_hex_digit(u8 c)
{
	return c >= 'A' && c <= 'F' ? -1 : hex_digit(c);
}

/* version "-" trace-id "-" parent-id "-" trace-flags (W3C Trace Context, 3.2). An invalid one is as none. */
__noinline int read_traceparent(struct scratch *s, u32 at, u32 n)
{
	u32 ids = 0, parents = 0, from;
	u8 byte[26];
	int a, b;

	if (!s || n < 55 || at > WINDOW)
		return 0;
	for (u32 i = 0; i < 26; i++) {
		/* 1 byte of version, 16 of trace id, 8 of parent id, 1 of flags, with a dash behind each */
		from = at + i * 2 + (i > 0) + (i > 16) + (i > 24);
		a = lower_hex_digit(*win_at(s, from));
		b = lower_hex_digit(*win_at(s, from + 1));
		if (a < 0 || b < 0)
			return 0;
		byte[i] = a << 4 | b;
	}
	if (byte[0] == 0xff || (n > 55 && (byte[0] == 0 || *win_at(s, at + 55) != '-')))
		return 0;
	if (*win_at(s, at + 2) != '-' || *win_at(s, at + 35) != '-' || *win_at(s, at + 52) != '-')
		return 0;
	for (u32 i = 0; i < 16; i++)
		ids |= byte[i + 1];
	for (u32 i = 0; i < 8; i++)
		parents |= byte[i + 17];
	if (!ids || !parents)
		return 0;
	__builtin_memcpy(s->head.trace_id, byte + 1, 16);
	__builtin_memcpy(s->head.parent_id, byte + 17, 8);
	s->head.trace_flags = byte[25];
	s->head.has_trace = 1;
	return 0;
}

static __always_inline void read_length(struct scratch *s, u32 at, u32 n)
{
	u64 length = 0;

	if (n == 0 || n > 18)
		return;
	for (u32 i = 0; i < 18; i++) {
		u8 c = *win_at(s, at + i);

		if (i >= n)
			break;
		if (c == ',' && i) /* the same number again (RFC 9110, 8.6) */
			break;
		if (c < '0' || c > '9')
			return;
		length = length * 10 + (c - '0');
	}
	s->head.content_length = length;
	s->head.has_length = 1;
}

static __always_inline void keep_host(struct scratch *s, u32 at, u32 n)
{
	u64 h = 0;

	if (s->head.host_len || n == 0)
		return;
	if (n > HOST_MAX)
		n = HOST_MAX;
	s->head.host_off = keep_text(s, at, n, HOST_MAX);
	s->head.host_len = n;
	if (s->op.way == RECEIVED) /* only a client's metrics are told apart by it */
		return;
	for (u32 i = 0; i < HOST_MAX / 8; i++) {
		u64 w = word_at(win_at(s, at + i * 8));
		u32 left = n - i * 8;

		if (i * 8 >= n)
			break;
		h = mix(h, left >= 8 ? w : w & ((1ULL << (left * 8)) - 1));
	}
	s->head.peer = h ^ h >> 32;
}

/* Only where the coding is the last one, as RFC 9112, 6.3 wants it. */
static __always_inline bool ends_chunked(struct scratch *s, u32 at, u32 n)
{
	return n >= 7 && ((word_at(win_at(s, at + n - 7)) | LOWER) & ~(0xffULL << 56)) == WORD('c', 'h', 'u', 'n', 'k', 'e', 'd', 0);
}

/* What a field line is about, by its first bytes in lower case; 0: nothing of interest. */
enum field { FIELD_NONE, FIELD_HOST, FIELD_LENGTH, FIELD_CODING, FIELD_UPGRADE, FIELD_AGENT, FIELD_PARENT, FIELD_STATE };

static __always_inline u32 field_of(u64 name)
{
	switch (name) {
	case WORD('c', 'o', 'n', 't', 'e', 'n', 't', '-'):
		return FIELD_LENGTH;
	case WORD('t', 'r', 'a', 'n', 's', 'f', 'e', 'r'):
		return FIELD_CODING;
	case WORD('u', 's', 'e', 'r', '-', 'a', 'g', 'e'):
		return FIELD_AGENT;
	case WORD('t', 'r', 'a', 'c', 'e', 'p', 'a', 'r'):
		return FIELD_PARENT;
	case WORD('t', 'r', 'a', 'c', 'e', 's', 't', 'a'):
		return FIELD_STATE;
	case WORD('u', 'p', 'g', 'r', 'a', 'd', 'e', ':'):
		return FIELD_UPGRADE;
	}
	return (name & 0xffffffffffULL) == WORD('h', 'o', 's', 't', ':', 0, 0, 0) ? FIELD_HOST : FIELD_NONE;
}

/* Length of the field's name and colon if the rest of the name, in lower case, is right; else 0. */
static __always_inline u32 name_length(u32 field, u64 more, u64 third)
{
	switch (field) {
	case FIELD_HOST:
		return 5;
	case FIELD_UPGRADE:
		return 8;
	case FIELD_LENGTH:
		return (more & 0xffffffffffffffULL) == WORD('l', 'e', 'n', 'g', 't', 'h', ':', 0) ? 15 : 0;
	case FIELD_CODING:
		return more == WORD('-', 'e', 'n', 'c', 'o', 'd', 'i', 'n') && (u16)third == (':' << 8 | 'g') ? 18 : 0;
	case FIELD_AGENT:
		return (more & 0xffffff) == WORD('n', 't', ':', 0, 0, 0, 0, 0) ? 11 : 0;
	case FIELD_PARENT:
		return (more & 0xffffffff) == WORD('e', 'n', 't', ':', 0, 0, 0, 0) ? 12 : 0;
	case FIELD_STATE:
		return (more & 0xffffff) == WORD('t', 'e', ':', 0, 0, 0, 0, 0) ? 11 : 0;
	}
	return 0;
}

static __always_inline void request_field(struct scratch *s, u32 field, u32 value, u32 n)
{
	if (field == FIELD_HOST) {
		keep_host(s, value, n);
	} else if (field == FIELD_PARENT) {
		read_traceparent(s, value, n);
	} else if (field == FIELD_AGENT && !s->head.agent_len && n) {
		s->head.agent_len = n < AGENT_MAX ? n : AGENT_MAX;
		s->head.agent_off = keep_text(s, value, s->head.agent_len, AGENT_MAX);
	} else if (field == FIELD_STATE && !s->head.state_len && n && n <= STATE_MAX) {
		s->head.state_off = keep_text(s, value, n, STATE_MAX);
		s->head.state_len = n;
	}
}

static __always_inline bool is_blank(u8 c)
{
	return c == ' ' || c == '\t';
}

/* One field line that may matter, win[at .. end) without its line end. */
__noinline int header_line(struct scratch *s, u32 at, u32 end)
{
	u32 field, value, n;

	if (!s || at > WINDOW || end > WIN_MAX || end <= at)
		return 0;
	field = field_of(word_at(win_at(s, at)) | LOWER);
	n = name_length(field, word_at(win_at(s, at + 8)) | LOWER, word_at(win_at(s, at + 16)) | LOWER);
	if (!n)
		return 0;
	value = at + n;
	for (u32 i = 0; i < 8 && is_blank(*win_at(s, value)); i++)
		value++;
	for (u32 i = 0; i < 8 && end > value && is_blank(*win_at(s, end - 1)); i++)
		end--;
	n = end > value ? end - value : 0;
	if (field == FIELD_LENGTH)
		read_length(s, value, n);
	else if (field == FIELD_CODING)
		s->head.chunked = ends_chunked(s, value, n);
	else if (field == FIELD_UPGRADE)
		s->head.upgrade = 1;
	else if (!s->head.is_response)
		request_field(s, field, value, n);
	return 0;
}

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
