/* SPDX-License-Identifier: (Apache-2.0 OR GPL-2.0-only) */
/*
 * The route hash of a request target: the hash of its path with every segment that looks like an identifier replaced
 * by `*`. instrumenter/routes.py says the same rules on strings; tests hold the two together.
 */
#ifndef STINGLESS_ROUTE_H
#define STINGLESS_ROUTE_H

#include "maps.h"
#include "swar.h"

#define MAX_ROUTE_SEGMENTS 16

static __always_inline void end_segment(struct route *r)
{
	bool id = r->length && (!r->not_digits || (r->length == 36 && !r->not_uuid) ||
				(!r->not_hex && r->digit && r->length >= 8) || (r->length >= 24 && r->digit) ||
				r->length > 48);

	if (r->count == MAX_ROUTE_SEGMENTS - 1)
		r->kept = r->hash;
	if (r->count < MAX_ROUTE_SEGMENTS)
		r->hash = mix(r->hash, id ? '*' : mix(r->segment, r->length));
	else
		r->hash = mix(r->kept, '*' << 8 | '*');
	r->count++;
	r->segment = r->length = 0;
	r->not_digits = r->not_hex = r->digit = r->not_uuid = 0;
}

/* What the bytes `keep` of w, the next of their segment, tell of it. A long segment is asked about digits only. */
static __always_inline void classify(struct route *r, u64 w, u64 keep)
{
	u64 digits = bytes_between(w, '0', '9'), hex, dashes;

	r->digit |= !!(digits & keep);
	if (r->not_hex & r->not_uuid) /* not digits either, then */
		return;
	hex = digits | bytes_between(w | LOWER, 'a', 'f');
	dashes = bytes_equal(w, '-') & keep;
	r->not_digits |= !!(~digits & keep & HIGH);
	r->not_hex |= !!(~hex & keep & HIGH);
	/* 8-4-4-4-12: dashes are bytes 8, 13, 18 and 23 */
	r->not_uuid |= !!(~(hex | dashes) & keep & HIGH) ||
		       dashes != (r->length == 8 ? 0x0000800000000080ULL : r->length == 16 ? 0x8000000000800000ULL : 0);
}

/* Up to eight bytes of one segment, and its end if it is among them. */
static long route_word(u32 i, struct scratch **ctx)
{
	struct scratch *s = *ctx;
	struct route *r = &s->route;
	u32 at = r->at & (TEXT_LONG - 1), left = r->end - r->at, n = 8;
	u64 w = word_at(s->text + at), keep, stop;
	u8 c;

	if (r->at >= r->end) {
		end_segment(r);
		return 1;
	}
	stop = first_equal(w, '/') | first_equal(w, '?') | first_equal(w, '#');
	if (stop)
		n = first_byte(stop);
	if (n > left)
		n = left;
	keep = n >= 8 ? ~0ULL : (1ULL << (n * 8)) - 1;
	if (n) {
		classify(r, w, keep);
		r->segment = mix(r->segment, w & keep);
	}
	r->length += n;
	r->at += n;
	if (n == 8)
		return 0;
	end_segment(r);
	if (r->at >= r->end || r->count > MAX_ROUTE_SEGMENTS)
		return 1;
	c = s->text[r->at & (TEXT_LONG - 1)];
	r->at++;
	return c != '/';
}

static long find_path(u32 i, struct scratch **ctx)
{
	struct scratch *s = *ctx;
	struct route *r = &s->route;
	u32 at = r->at & (TEXT_LONG - 1);

	if (r->at >= r->end)
		return 1;
	if (s->text[at] == '/' || s->text[at] == '?' || s->text[at] == '#')
		return 1;
	r->at++;
	return 0;
}

/* Returns whether it was the last word. */
static __always_inline bool take_raw_word(struct scratch *s)
{
	struct route *r = &s->route;
	u32 left = r->end - r->at, n = 8;
	u64 w = word_at(s->text + (r->at & (TEXT_LONG - 1))), stop;

	stop = first_equal(w, '?') | first_equal(w, '#');
	if (stop)
		n = first_byte(stop);
	if (n > left)
		n = left;
	if (n)
		r->hash = mix(r->hash, n >= 8 ? w : w & ((1ULL << (n * 8)) - 1));
	r->at += n;
	return n < 8;
}

static long raw_word(u32 i, struct scratch **ctx)
{
	return take_raw_word(*ctx);
}

/* The hash of a target as it stands, without its query: by it a CPU remembers the routes of the last ones. */
static __always_inline u64 raw_hash(struct scratch *s, u32 at, u32 n)
{
	struct scratch *ctx = s;
	struct route *r = &s->route;

	r->hash = s->head.is_connect + 1;
	r->at = at;
	r->end = at + n;
	if (!take_raw_word(s) && !take_raw_word(s)) /* a short one without a helper call */
		bpf_loop(TARGET_MAX / 8 + 1, raw_word, &ctx, 0);
	return mix(r->hash, r->at - at) | 1ULL << 63;
}

static __always_inline u64 work_out(struct scratch *s, u32 at, u32 n)
{
	struct scratch *ctx = s;
	struct route *r = &s->route;
	u8 first;

	__builtin_memset(r, 0, sizeof(*r));
	r->hash = MIX;
	r->at = at;
	r->end = at + n;
	first = s->text[at & (TEXT_LONG - 1)] | 0x20;
	if (n && first == 'h' && !s->head.is_connect) { /* absolute-form (RFC 9112, 3.2.2): leave out scheme and authority */
		r->at += 8; /* "https://" or one byte into the authority */
		bpf_loop(TARGET_MAX, find_path, &ctx, 0);
		if (r->at > r->end)
			r->at = r->end;
	} else if (n && first != ('/' | 0x20)) { /* authority-form, asterisk-form */
		return mix(MIX, '*') | 1;
	}
	if (r->at < r->end && s->text[r->at & (TEXT_LONG - 1)] == '/')
		r->at++;
	bpf_loop(TARGET_MAX / 8 + 2 * MAX_ROUTE_SEGMENTS, route_word, &ctx, 0);
	return r->hash | 1;
}

/* Of the target at text[at .. at+n): never 0, which stands for `other`. */
__noinline u64 route_hash(struct scratch *s, u32 at, u32 n)
{
	struct known_route *known;
	u64 raw;

	if (!s || n > TARGET_MAX || at > METHOD_MAX)
		return 1;
	raw = raw_hash(s, at, n);
	known = &s->routes[raw & (KNOWN_ROUTES - 1)];
	if (known->raw != raw) {
		known->route = work_out(s, at, n);
		known->raw = raw;
	}
	return known->route;
}

#endif
