/* SPDX-License-Identifier: (Apache-2.0 OR GPL-2.0-only) */
/* First lines of HTTP/1.0 and 1.1 messages (RFC 9112), in win, and the text that is kept of a head. */
#ifndef STINGLESS_LINE_H
#define STINGLESS_LINE_H

#include "maps.h"
#include "swar.h"

#define LINES_A_TURN 8
#define SKIP_TURNS 16 /* of 24 bytes, in one go over lines of no interest */
#define STATUS_LEN 12 /* HTTP-version SP status-code */
/* Bit c & 31 of what a line that matters begins with: the letters of the fields in field_of(), in either case; CR and LF. */
#define LINE_END (1U << '\r' | 1U << '\n')
#define RESPONSE_LINES (LINE_END | 1U << ('c' & 31) | 1U << ('t' & 31) | 1U << ('u' & 31))
#define REQUEST_LINES (RESPONSE_LINES | 1U << ('h' & 31))
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
		const u8 *from = win_at(s, at);

		for (u32 i = 0; i < 32; i += 8)
			*(u64 *)(s->text + to + i) = word_at(from + i);
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

/* Of a method that is not known. Apart, so that what follows is verified for any length at once, not for each. */
__noinline u32 token_length(struct scratch *s, u32 at)
{
	u32 m;

	for (m = 0; s && m <= METHOD_MAX; m++) {
		if (!is_tchar(*win_at(s, at + m)))
			break;
	}
	return m;
}

/* method SP request-target SP HTTP-version, in win[at .. end). Returns 0, or -1: not HTTP/1. `cut`: the line goes on. */
__noinline int request_line(struct scratch *s, u32 at, u32 end, u32 cut)
{
	u32 m, target, n;
	u64 w, token;

	if (!s || at > WINDOW || end > WIN_MAX || end < at + 3)
		return -1;
	w = word_at(win_at(s, at));
	m = first_byte(bytes_equal(w, ' ') | 1ULL << 63);
	token = w & ((1ULL << (m * 8)) - 1);
	s->head.method = (u8)(w >> (m * 8)) == ' ' ? known_method(token) : 0;
	if (!s->head.method) {
		m = token_length(s, at);
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
	s->head.is_head = token == WORD('H', 'E', 'A', 'D', 0, 0, 0, 0);
	s->head.is_connect = m == 7 && token == WORD('C', 'O', 'N', 'N', 'E', 'C', 'T', 0);
	s->head.method_len = s->head.text_len = m;
	if (m <= 8) {
		*(u64 *)s->text = w;
	} else {
		s->head.text_len = 0;
		keep_text(s, at, m, METHOD_MAX);
	}
	s->head.target_len = n;
	keep_text(s, target, n, TARGET_MAX);
	return 0;
}

/* HTTP-version SP status-code at win[at], STATUS_LEN bytes. Returns 0, or -1: not HTTP/1. */
static __always_inline int status_line(struct scratch *s, u32 at)
{
	u64 w = word_at(win_at(s, at + 8));
	u8 a = w >> 8, b = w >> 16, c = w >> 24;

	if (!read_version(s, word_at(win_at(s, at))) || (u8)w != ' ')
		return -1;
	if (a < '1' || a > '9' || b < '0' || b > '9' || c < '0' || c > '9')
		return -1;
	s->head.status = (a - '0') * 100 + (b - '0') * 10 + (c - '0');
	return 0;
}

#endif
