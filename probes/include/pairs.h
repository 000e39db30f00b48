/* SPDX-License-Identifier: (Apache-2.0 OR GPL-2.0-only) */
/*
 * Both ends of a connection on this node, joined: a server's exchange is the child of the client's whose request begins at
 * the same TCP sequence number. Each end looks for the other once, at its first exchange, by addresses and ports; a server
 * whose client is not watched does nothing more. Addresses may be found twice (network namespaces), sockets are used again:
 * what was found is believed only where ports and the 32 bits of the sequence number fit.
 */
#ifndef STINGLESS_PAIRS_H
#define STINGLESS_PAIRS_H

#include <bpf/bpf_endian.h>
#include "conns.h"
#include "peek.h"

static __always_inline bool is_loopback(const u8 *addr)
{
	const u64 *word = (const u64 *)addr;

	if (word[0])
		return false;
	return word[1] == bpf_cpu_to_be64(1) || (word[1] & bpf_cpu_to_be64(0xffffffffff000000)) == bpf_cpu_to_be64(0xffff7f000000);
}

static __always_inline void name_pair(struct pair_key *key, const struct conn *c)
{
	const struct exchange *x = &c->slot.e.x; /* its endpoints are this connection's since its first exchange */
	bool client = c->direction == DIRECTION_CLIENT;

	__builtin_memcpy(key->client_addr, client ? x->local_addr : x->remote_addr, 16);
	__builtin_memcpy(key->server_addr, client ? x->remote_addr : x->local_addr, 16);
	key->client_port = client ? x->local_port : x->remote_port;
	key->server_port = client ? x->remote_port : x->local_port;
	key->net = is_loopback(key->server_addr) ? (u64)PEEK(struct sock_common, c->sk, skc_net.net) : 0;
	key->pad = 0;
}

/* Of two ends that come at the same time at least one sees the other: each is written before the other is read. */
__noinline int meet(u32 slot, struct conn *c)
{
	struct scratch *s = get_scratch(slot);
	struct pair none = {}, *pair;
	struct conn *server;

	if (!s || !c)
		return 0;
	name_pair(&s->pair, c);
	bpf_map_update_elem(&pairs, &s->pair, &none, BPF_NOEXIST);
	pair = bpf_map_lookup_elem(&pairs, &s->pair);
	if (!pair)
		return 0;
	if (c->direction == DIRECTION_SERVER) {
		__sync_lock_test_and_set(&pair->server, c->sk);
		c->partner = pair->client;
		return 0;
	}
	__sync_lock_test_and_set(&pair->client, c->sk);
	server = pair->server ? get_conn(pair->server) : NULL; /* 0 is the key of a free place */
	if (server && server->direction == DIRECTION_SERVER && !(server->partner && get_conn(server->partner)))
		server->partner = c->sk;
	return 0;
}

static __always_inline bool is_other_end(const struct exchange *a, const struct exchange *b)
{
	return a->request_seq == b->request_seq && a->local_port == b->remote_port && a->remote_port == b->local_port;
}

struct ids {
	u64 high;
	u64 low;
	u64 span;
	u32 trace_flags;
	bool decided;
};

/* `of` may be replaced meanwhile by the next exchange of its connection, whose span is written first and read last here:
 * then what identifies it is another one's afterwards. */
static __always_inline void read_ids(struct ids *ids, const volatile struct exchange *of)
{
	ids->high = *(const volatile u64 *)of->trace_id;
	ids->low = *(const volatile u64 *)(of->trace_id + 8);
	ids->trace_flags = of->trace_flags;
	ids->decided = !!(of->flags & (FLAG_TRACEPARENT | FLAG_DECIDED));
	ids->span = *(const volatile u64 *)of->span_id;
}

static __always_inline void inherit(struct exchange *x, const struct ids *parent, u32 rule)
{
	*(u64 *)x->trace_id = parent->high;
	*(u64 *)(x->trace_id + 8) = parent->low;
	*(u64 *)x->parent_id = parent->span;
	x->trace_flags = parent->trace_flags;
	if (parent->decided)
		x->flags |= FLAG_DECIDED;
	x->rule = rule;
}

static __always_inline bool inherit_from_other_end(struct exchange *x, const struct exchange *other)
{
	struct ids ids;

	read_ids(&ids, other);
	if (!is_other_end(x, other))
		return false;
	inherit(x, &ids, RULE_JOINED);
	return true;
}

/* The partner's exchange in hand, or one that waits behind it. */
__noinline int join(struct conn *c, struct held *h)
{
	struct message_key key = {};
	struct conn *other;
	struct held *theirs;
	bool found;

	if (!c || !h)
		return 0;
	other = get_conn(c->partner);
	if (!other || other->direction != DIRECTION_CLIENT) {
		c->partner = 0;
		return 0;
	}
	if (is_other_end(&h->e.x, &other->slot.e.x)) {
		if (other->slot_of)
			c->ahead = other->slot_of - 1 - c->begun;
		found = inherit_from_other_end(&h->e.x, &other->slot.e.x);
	} else {
		key.sk = other->sk;
		key.number = c->begun + c->ahead;
		theirs = bpf_map_lookup_elem(&pending, &key);
		found = theirs && inherit_from_other_end(&h->e.x, &theirs->e.x);
	}
	if (!found)
		h->e.x.rule = RULE_AMBIGUOUS;
	return 0;
}

#endif
