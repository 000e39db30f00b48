/* SPDX-License-Identifier: (Apache-2.0 OR GPL-2.0-only) */
/*
 * RED (rate, errors, duration) counted where it happens. Every addition is atomic although the map is per CPU: a
 * connection's end in softirq may interrupt an addition on the same CPU.
 */
#ifndef STINGLESS_RED_H
#define STINGLESS_RED_H

#include "emit.h"

#define NEAR 4 /* places */

/* Number of bounds below `v`, which is the place of the first bound with v <= bound; a binary search.
 * A global function: the verifier walks its paths once, and not together with those of its callers. */
__noinline u32 duration_bucket(u64 v)
{
	const volatile u64 *bounds = settings.duration_bounds;
	u32 i = 0;

	for (u32 step = DURATION_BOUNDS / 2; step; step /= 2)
		if (bounds[(i + step - 1) & (DURATION_BOUNDS - 1)] < v)
			i += step;
	if (i < DURATION_BOUNDS && bounds[i & (DURATION_BOUNDS - 1)] < v)
		i++;
	return i;
}

/* duration_bucket(), sought first a few places up and down from `likely`. */
static __always_inline u32 duration_bucket_near(u64 v, u32 likely)
{
	const volatile u64 *bounds = settings.duration_bounds;
	u32 at = likely - NEAR - 1; /* so that all places are counted from the lowest one */

	barrier_var(at); /* checked on the register that is used */
	if (at >= DURATION_BOUNDS - 2 * NEAR - 1 || bounds[at] >= v)
		return duration_bucket(v);
	if (bounds[at + NEAR] >= v) {
#pragma clang loop unroll(full)
		for (u32 k = NEAR - 1; k; k--)
			if (bounds[at + k] < v)
				return at + k + 1;
		return at + 1;
	}
#pragma clang loop unroll(full)
	for (u32 k = NEAR + 1; k <= 2 * NEAR; k++)
		if (v <= bounds[at + k])
			return at + k;
	return duration_bucket(v);
}

__noinline u32 size_bucket(u64 v)
{
	const volatile u64 *bounds = settings.size_bounds;
	u32 i = 0, last;

	for (u32 step = 64; step; step /= 2) {
		last = i + step - 1;
		if (last < SIZE_BOUNDS && bounds[last] < v)
			i += step;
	}
	return i;
}

/* size_bucket(), if it is not `likely`: from 1 up, as only there a bound lies below. */
static __always_inline u32 size_bucket_near(u64 v, u32 likely)
{
	const volatile u64 *bounds = settings.size_bounds;
	u32 below = likely - 1;

	barrier_var(below); /* checked on the register that is used */
	if (below < SIZE_BOUNDS - 1 && bounds[below] < v && v <= bounds[below + 1])
		return likely;
	return size_bucket(v);
}

static __always_inline bool take_place(u32 svc, u32 limit)
{
	u32 one = 1, *n = bpf_map_lookup_elem(&service_keys, &svc);

	if (!n) {
		if (bpf_map_update_elem(&service_keys, &svc, &one, BPF_NOEXIST) == 0)
			return true;
		n = bpf_map_lookup_elem(&service_keys, &svc);
		if (!n)
			return false;
	}
	if (*n >= limit)
		return false;
	__sync_fetch_and_add(n, 1);
	return true;
}

static __always_inline struct red *find_red(const struct red_key *key)
{
	struct red *r = bpf_map_lookup_elem(&red, key);

	return r ? r : bpf_map_lookup_elem(&red_shared, key);
}

/* The counts under x->key. A service with too many keys counts the rest under route and peer 0, which has places kept
 * for it. NULL: not even that found room. */
static __always_inline struct red *red_of(struct exchange *x)
{
	struct red_key key = x->key; /* on the stack: older verifiers take no other memory as a key */
	struct red *empty, *r = find_red(&key);
	u32 zero = 0;
	long error;

	if (r)
		return r;
	empty = bpf_map_lookup_elem(&empty_red, &zero);
	if (!empty)
		return NULL;
	if (!take_place(x->key.svc, settings.service_keys) || !take_place(0, settings.total_keys)) {
		x->key.route = key.route = 0;
		x->key.peer = key.peer = 0;
		x->flags |= FLAG_FOLDED;
		count_loss(x->key.svc, LOSS_SERIES_FOLDED);
		r = find_red(&key);
		if (r)
			return r;
	}
	error = bpf_map_update_elem(&red, &key, empty, BPF_NOEXIST);
	if (error && error != -EEXIST)
		bpf_map_update_elem(&red_shared, &key, empty, BPF_NOEXIST);
	return find_red(&key);
}

static __always_inline void count_exchange(struct red *r, const struct exchange *x)
{
	u64 ns = x->end_ns - x->start_ns;
	u32 d = duration_bucket_near(ns, r->likely_duration), q = x->request_bytes ? size_bucket(x->request_bytes) : 0;
	u32 p = size_bucket_near(x->response_bytes, r->likely_size);

	__sync_fetch_and_add(&r->count, 1);
	__sync_fetch_and_add(&r->sum_ns, ns);
	if (x->request_bytes)
		__sync_fetch_and_add(&r->request_bytes, x->request_bytes);
	if (x->response_bytes)
		__sync_fetch_and_add(&r->response_bytes, x->response_bytes);
	if (d < DURATION_BUCKETS)
		__sync_fetch_and_add(&r->duration[d], 1);
	if (q < SIZE_BUCKETS)
		__sync_fetch_and_add(&r->request_size[q], 1);
	r->likely_duration = d;
	r->likely_size = p;
	if (p < SIZE_BUCKETS)
		__sync_fetch_and_add(&r->response_size[p], 1);
}

#endif
