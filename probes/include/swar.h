/* SPDX-License-Identifier: (Apache-2.0 OR GPL-2.0-only) */
/*
 * Eight bytes at a time ("SIMD within a register"): heads are searched by words, not by bytes, because a BPF loop turn
 * costs several times an instruction. A mask has bit 7 of each byte that matches.
 */
#ifndef STINGLESS_SWAR_H
#define STINGLESS_SWAR_H

#include "kernel.h"

#define MIX 0x9E3779B97F4A7C15ULL
#define ONES 0x0101010101010101ULL
#define HIGH 0x8080808080808080ULL
#define PLACES 0x0020406080a0c0e0ULL /* shifted left by n bytes, the highest three bits are n */
#define LOWER 0x2020202020202020ULL
#define LETTERS_BEFORE_DASH 0x0020202020202020ULL  /* as LOWER, but the last byte is taken as it is */
#define LETTERS_BEFORE_COLON 0x0000202020202020ULL /* or the last two */

/* Eight characters as the word they make in memory (both architectures are little-endian). */
#define WORD(a, b, c, d, e, f, g, h)                                                                                   \
	((u64)(a) | (u64)(b) << 8 | (u64)(c) << 16 | (u64)(d) << 24 | (u64)(e) << 32 | (u64)(f) << 40 | (u64)(g) << 48 |   \
	 (u64)(h) << 56)

static __always_inline u64 word_at(const u8 *p)
{
	return *(const u64 *)p;
}

/* Exact for every byte: no carry passes from one to the next. */
static __always_inline u64 bytes_equal(u64 w, u8 c)
{
	u64 x = w ^ (ONES * c);

	return ~(((x & ~HIGH) + ~HIGH) | x | ~HIGH);
}

/* Quicker, and right up to the first byte that is equal; behind it there may be others that are not. */
static __always_inline u64 first_equal(u64 w, u8 c)
{
	u64 x = w ^ (ONES * c);

	return (x - ONES) & ~x & HIGH;
}

/* Bytes below a space; or from 0xa0 up, which are for the caller to tell apart. The first one is right. */
static __always_inline u64 maybe_controls(u64 w)
{
	return (w - ONES * ' ') & HIGH;
}

static __always_inline u64 bytes_between(u64 w, u8 low, u8 high)
{
	u64 x = w & ~HIGH;

	return (x + ONES * (0x80 - low)) & ~(x + ONES * (0x7f - high)) & ~w & HIGH;
}

/* The number that eight digits in memory are; a byte of 0 is as '0'. */
static __always_inline u64 decimal(u64 w)
{
	w = (w & ONES * 0x0f) * (10 << 8 | 1) >> 8;
	w = (w & 0x00ff00ff00ff00ffULL) * (100 << 16 | 1) >> 16;
	return (w & 0x0000ffff0000ffffULL) * (10000ULL << 32 | 1) >> 32;
}

/* One more word into a hash. */
static __always_inline u64 mix(u64 h, u64 w)
{
	h = (h ^ w) * MIX;
	return h ^ (h >> 29);
}

/* Place of the first byte in a mask that is not 0. */
static __always_inline u32 first_byte(u64 mask)
{
	return ((mask & -mask) >> 7) * PLACES >> 61;
}

#endif
