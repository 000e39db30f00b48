/* SPDX-License-Identifier: (Apache-2.0 OR GPL-2.0-only) */
/* Where connections are kept: found, made, deleted. */
#ifndef STINGLESS_CONNS_H
#define STINGLESS_CONNS_H

#include "maps.h"
#include "swar.h"

/* Connections, each at a place that its key says: found without a hash's cost. Taken by the first bytes seen on a TCP
 * socket of a watched process if the place is free (sk is 0), and free again when the socket reaches TCP_CLOSE or goes.
 * The kernel may leave out the programs that see this (ending.h): then when the socket's memory begins as another socket.
 * So an address has one entry at most, and no more stay than there were sockets at once. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, NEAR_CONNS);
	__type(key, u32);
	__type(value, struct conn);
} near_conns SEC(".maps");

/* Those whose place is another's, keyed by struct conn's sk; inserted and deleted at the same times. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, u64);
	__type(value, struct conn);
} conns SEC(".maps");

u64 far_conns = 0; /* entries of `conns`, or one more for each that is just being inserted or deleted */

/* Changes whenever a connection ends or stops to be HTTP: what was noted of one before does not hold any more. */
u64 conns_changed = 0;

struct served {
	u64 sk;
	u64 changed; /* conns_changed at that moment */
};

/* The server's connection that was read from last on this CPU. Its writes need no look before they happen: so much is
 * found out without a lookup in `conns`. Written by reads; nothing is deleted, as `changed` tells what is out of date. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct served);
} served SEC(".maps");

/* For insertion: enough for any value, and nothing on the stack. */
static __always_inline struct conn *zeros(void)
{
	u32 first = 0;

	return bpf_map_lookup_elem(&empty_conn, &first);
}

/* Where the connection is, unless it came to be when another one was there. */
static __always_inline struct conn *near_place(u64 key)
{
	u32 place;

	asm volatile("%0 = %1" : "=w"(place) : "w"((u32)key)); /* so a pointer becomes a number to the verifier */
	place = place * (u32)(MIX >> 32) / (u32)((1ULL << 32) / NEAR_CONNS); /* the highest bits */
	return bpf_map_lookup_elem(&near_conns, &place);
}

static __always_inline struct conn *get_conn(u64 key)
{
	struct conn *c = near_place(key);

	if (c && c->sk == key)
		return c;
	return far_conns ? bpf_map_lookup_elem(&conns, &key) : NULL;
}

static long look_if_made(u32 i, u64 *key)
{
	struct conn *c = near_place(*key);

	return !c || *(volatile u64 *)&c->sk == *key;
}

/* The other half's call is making it, on another CPU: that takes less than a call of ours. */
__noinline int wait_until_made(u64 key)
{
	struct conn *c = near_place(key);

	bpf_loop(MAKING_TURNS, look_if_made, &key, 0);
	return c && *(volatile u64 *)&c->sk == key;
}

/* Of a key that had none: all zeros but its key. Of two that make it at once both get the same. NULL: the map is full, or
 * who makes it was preempted. */
static __always_inline struct conn *make_conn(u64 key)
{
	struct conn *c = near_place(key), *zero = zeros();
	u64 there;

	if (!c || !zero)
		return NULL;
	there = __sync_val_compare_and_swap(&c->sk, 0, key | BEING_MADE);
	if (!there) {
		__builtin_memset((u8 *)c + sizeof(c->sk), 0, sizeof(*c) - sizeof(c->sk));
		__sync_lock_test_and_set(&c->sk, key);
		return c;
	}
	if ((there & ~BEING_MADE) == key)
		return wait_until_made(key) ? c : NULL;
	__sync_fetch_and_add(&far_conns, 1);
	if (bpf_map_update_elem(&conns, &key, zero, BPF_NOEXIST))
		__sync_fetch_and_add(&far_conns, -1);
	c = bpf_map_lookup_elem(&conns, &key);
	if (c)
		c->sk = key;
	return c;
}

static __always_inline void conn_changed(void)
{
	__sync_fetch_and_add(&conns_changed, 1);
}

static __always_inline void delete_conn(u64 key)
{
	struct conn *c = near_place(key);

	if (c && c->sk == key)
		__sync_val_compare_and_swap(&c->sk, key, 0); /* another CPU's end of it may be done, and the place taken */
	if (far_conns && !bpf_map_delete_elem(&conns, &key))
		__sync_fetch_and_add(&far_conns, -1);
	conn_changed();
}

#endif
