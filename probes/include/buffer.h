/* SPDX-License-Identifier: (Apache-2.0 OR GPL-2.0-only) */
/* The memory a socket call moves bytes from or to, whatever shape the call names it in. */
#ifndef STINGLESS_BUFFER_H
#define STINGLESS_BUFFER_H

#include "peek.h"

#define MAX_SEGMENTS 1024 /* UIO_MAXIOV */

static __always_inline long read_iovec(struct iovec *v, u64 array, u32 kind, s64 index)
{
	u64 at = array + index * sizeof(*v);

	if (kind != BUF_IOV_KERNEL)
		return bpf_probe_read_user(v, sizeof(*v), (void *)at);
	v->iov_base = PEEK(struct iovec, at, iov_base);
	v->iov_len = PEEK(struct iovec, at, iov_len);
	return 0;
}

static long gather_segment(u32 i, struct scratch **ctx)
{
	struct scratch *s = *ctx;
	struct gather *g = &s->gather;
	u32 at = g->at, n = g->end - g->at;
	struct iovec *v = &g->v;

	if (read_iovec(v, s->op.buf.base, s->op.buf.kind, i))
		return 1;
	if (g->skip >= v->iov_len) {
		g->skip -= v->iov_len;
		return 0;
	}
	v->iov_len -= g->skip;
	if (n > v->iov_len)
		n = v->iov_len;
	barrier_var(n);
	barrier_var(at);
	if (n > WINDOW_READ || at > WINDOW || bpf_probe_read_user(s->win + at, n, v->iov_base + g->skip))
		return 1;
	g->skip = 0;
	g->at = at + n;
	return g->at >= g->end;
}

/* Copies `n` bytes (at most WINDOW_READ) that begin `off` bytes into the call to win[at]. Returns 0, or -1 if unreadable. */
__noinline int read_bytes(struct scratch *s, u64 off, u32 at, u32 n)
{
	struct scratch *ctx = s;

	if (!s || at > CARRY_MAX || n > WINDOW_READ)
		return -1;
	if (s->op.buf.kind == BUF_FLAT)
		return bpf_probe_read_user(s->win + at, n, (void *)(s->op.buf.base + s->op.buf.skip + off)) ? -1 : 0;
	if (s->op.buf.kind == BUF_NONE)
		return -1;
	s->gather.skip = s->op.buf.skip + off;
	s->gather.at = at;
	s->gather.end = at + n;
	bpf_loop(s->op.buf.segments < MAX_SEGMENTS ? s->op.buf.segments : MAX_SEGMENTS, gather_segment, &ctx, 0);
	return s->gather.at < s->gather.end ? -1 : 0;
}

struct total {
	u64 array;
	u64 bytes;
};

static long add_segment(u32 i, struct total *t)
{
	struct iovec v;

	if (read_iovec(&v, t->array, BUF_IOV_USER, i))
		return 1;
	t->bytes += v.iov_len;
	return 0;
}

static __always_inline u64 iov_total(u64 array, u64 segments)
{
	struct total t = { .array = array };

	bpf_loop(segments < MAX_SEGMENTS ? segments : MAX_SEGMENTS, add_segment, &t, 0);
	return t.bytes;
}

/* The iterator of a call that has not moved anything yet. */
static __always_inline void buf_of_iter(struct buf *b, u64 iter)
{
	u8 type = PEEK(struct iov_iter, iter, iter_type);
	struct iov_iter___before_6_4 *old = (void *)iter;

	b->kind = BUF_NONE;
	b->skip = PEEK(struct iov_iter, iter, iov_offset);
	b->segments = 1;
	if (bpf_core_enum_value_exists(enum iter_type, ITER_UBUF) && type == bpf_core_enum_value(enum iter_type, ITER_UBUF)) {
		b->kind = BUF_FLAT;
		b->base = (u64)PEEK(struct iov_iter, iter, ubuf);
	} else if (type == bpf_core_enum_value(enum iter_type, ITER_IOVEC)) {
		b->kind = BUF_IOV_KERNEL;
		b->segments = PEEK(struct iov_iter, iter, nr_segs);
		if (bpf_core_field_exists(old->iov))
			b->base = (u64)BPF_CORE_READ(old, iov);
		else
			b->base = (u64)PEEK(struct iov_iter, iter, __iov);
	}
}

struct unroll {
	u64 array;
	u64 left;
	u64 offset;
	u32 back; /* segments gone back */
};

static long unroll_segment(u32 i, struct unroll *u)
{
	struct iovec v;

	if (read_iovec(&v, u->array, BUF_IOV_KERNEL, -(s64)i - 1))
		return 1;
	u->back = i + 1;
	if (v.iov_len >= u->left) {
		u->offset = v.iov_len - u->left;
		u->left = 0;
		return 1;
	}
	u->left -= v.iov_len;
	return 0;
}

/* The iterator of a call that has moved `moved` bytes: gone back by as many, as iov_iter_revert() does. */
static __always_inline void buf_of_moved_iter(struct buf *b, u64 iter, u64 moved)
{
	struct unroll u = { .left = moved };

	buf_of_iter(b, iter);
	if (b->skip >= moved) {
		b->skip -= moved;
		return;
	}
	if (b->kind != BUF_IOV_KERNEL) {
		b->kind = BUF_NONE;
		return;
	}
	u.array = b->base;
	u.left -= b->skip;
	bpf_loop(MAX_SEGMENTS, unroll_segment, &u, 0);
	if (u.left)
		b->kind = BUF_NONE;
	b->base -= u.back * sizeof(struct iovec);
	b->segments += u.back;
	b->skip = u.offset;
}

#endif
