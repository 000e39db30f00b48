/* SPDX-License-Identifier: (Apache-2.0 OR GPL-2.0-only) */
/* The few header fields that framing, correlation and names need. */
#ifndef STINGLESS_FIELD_H
#define STINGLESS_FIELD_H

#include "line.h"

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
	const u8 *p = win_at(s, at);
	u64 length = 0;

	if (n == 0 || n > 18)
		return;
	for (u32 i = 0; i < 18; i++) {
		u32 digit = p[i] - '0';

		if (i >= n)
			break;
		if (digit > 9) {
			if (p[i] == ',' && i) /* the same number again (RFC 9110, 8.6) */
				break;
			return;
		}
		length = length * 10 + digit;
	}
	s->head.content_length = length;
	s->head.has_length = 1;
}

/* A client's metrics are told apart by it. Apart, so that it is verified once, not for each way to an `at`. */
__noinline int hash_host(struct scratch *s, u32 at)
{
	u32 n, left;
	u64 h = 0, w;

	if (!s)
		return 0;
	n = s->head.host_len;
	for (u32 i = 0; i < HOST_MAX && i < n; i += 8) {
		w = word_at(win_at(s, at + i));
		left = n - i;
		h = mix(h, left >= 8 ? w : w & ((1ULL << (left * 8)) - 1));
	}
	s->head.peer = h ^ h >> 32;
	return 0;
}

static __always_inline void keep_host(struct scratch *s, u32 at, u32 n)
{
	if (s->head.host_len || n == 0)
		return;
	if (n > HOST_MAX)
		n = HOST_MAX;
	s->head.host_off = keep_text(s, at, n, HOST_MAX);
	s->head.host_len = n;
	if (s->op.way == SENT)
		hash_host(s, at);
}

/* Only where the coding is the last one, as RFC 9112, 6.3 wants it. */
static __always_inline bool ends_chunked(struct scratch *s, u32 at, u32 n)
{
	return n >= 7 && ((word_at(win_at(s, at + n - 7)) | LOWER) & ~(0xffULL << 56)) == WORD('c', 'h', 'u', 'n', 'k', 'e', 'd', 0);
}

/* What a field line is about, by its first bytes in lower case; 0: nothing of interest. */
enum field {
	FIELD_NONE, FIELD_HOST, FIELD_LENGTH, FIELD_CODING, FIELD_AGENT, FIELD_PARENT, FIELD_STATE, FIELD_UPGRADE,
};

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
	case FIELD_UPGRADE:
		return 8;
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

/* More than the usual one space around a value. Apart, as it is rare: what follows is verified for any result at once,
 * not for each. */
__noinline u32 after_blanks(struct scratch *s, u32 at)
{
	for (u32 i = 0; s && i < 8 && is_blank(*win_at(s, at)); i++)
		at++;
	return at;
}

__noinline u32 before_blanks(struct scratch *s, u32 end)
{
	for (u32 i = 0; s && i < 8 && is_blank(*win_at(s, end - 1)); i++)
		end--;
	return end;
}

/* One field line that may matter, win[at .. end) without its line end. */
__noinline int header_line(struct scratch *s, u32 at, u32 end)
{
	u32 field, value, n;
	const u8 *p;

	if (!s || at > WINDOW || end > WIN_MAX || end <= at)
		return 0;
	p = win_at(s, at);
	field = field_of(word_at(p) | LOWER);
	n = name_length(field, word_at(p + 8) | LOWER, word_at(p + 16) | LOWER);
	if (!n)
		return 0;
	value = at + n;
	value += is_blank(*win_at(s, value));
	if (is_blank(*win_at(s, value)) || is_blank(*win_at(s, end - 1))) {
		value = after_blanks(s, value);
		end = before_blanks(s, end);
	}
	n = end > value ? end - value : 0;
	if (field == FIELD_LENGTH)
		read_length(s, value, n);
	else if (field == FIELD_CODING)
		s->head.chunked = ends_chunked(s, value, n);
	else if (field == FIELD_UPGRADE)
		s->head.h2c = n == 3 && ((word_at(win_at(s, value)) | LOWER) & 0xffffff) == WORD('h', '2', 'c', 0, 0, 0, 0, 0);
	else if (!s->head.is_response)
		request_field(s, field, value, n);
	return 0;
}

#endif
