/* SPDX-License-Identifier: (Apache-2.0 OR GPL-2.0-only) */
/*
 * Causes inside a process: which server's exchange a thread, or whatever else carries a request on, works for. A rule
 * notes it where the request's head is whole, and asks for it where the same one begins a client's request:
 *   caller()       does the process send requests at all, and what is known against believing it
 *   note_cause()   `who` works for this exchange now
 *   take_cause()   the exchange of a client gets what `who` works for as its parent, if that is not answered yet
 * Only a key is kept: ids are read from the server's connection, so that what has ended, or was another one, is not found.
 */
#ifndef STINGLESS_CAUSE_H
#define STINGLESS_CAUSE_H

#include "pairs.h"

/* Processes that have sent a request. Inserted by the first; deleted at exec and exit. Full: no causes are known. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, u32);
	__type(value, u32); /* enum caller_flag, and ONE_ANSWER for each */
} callers SEC(".maps");

u32 callers_changed = 0; /* so often */

/* Inserted when a thread, a goroutine ... of a process that calls has read a request; the LRU replaces. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 1);
	__type(key, struct cause_key);
	__type(value, struct cause);
} causes SEC(".maps");

__noinline u32 look_up_caller(struct conn *c, u32 tgid)
{
	u32 changed = *(volatile u32 *)&callers_changed, *flags = bpf_map_lookup_elem(&callers, &tgid), found = 0;

	if (flags)
		found = *flags;
	if (!c)
		return 0;
	c->caller = found;
	c->caller_tgid = tgid;
	c->caller_changed = changed;
	return found;
}

/* enum caller_flag of the process, as its connection `c` remembers them: for who never sends a request this is all. */
static __always_inline u32 caller(struct conn *c, u32 tgid)
{
	if (c->caller_tgid == tgid && c->caller_changed == callers_changed)
		return c->caller;
	return look_up_caller(c, tgid);
}

__noinline int mark_caller(u32 tgid, u32 flag)
{
	u32 *flags = bpf_map_lookup_elem(&callers, &tgid);

	if (flags && *flags & flag)
		return 0;
	if (flags)
		__sync_fetch_and_or(flags, flag);
	else if (bpf_map_update_elem(&callers, &tgid, &flag, BPF_NOEXIST))
		return 0;
	__sync_fetch_and_add(&callers_changed, 1);
	return 0;
}

__noinline int count_answer(u32 tgid)
{
	u32 *flags = bpf_map_lookup_elem(&callers, &tgid);

	if (flags && __sync_fetch_and_add(flags, ONE_ANSWER) >= (ENOUGH_ANSWERS - 1) * ONE_ANSWER)
		mark_caller(tgid, ANSWERS);
	return 0;
}

/* Another program, or none. */
static __always_inline void forget_caller(u32 tgid)
{
	if (!bpf_map_delete_elem(&callers, &tgid))
		__sync_fetch_and_add(&callers_changed, 1);
}

/* A connection's request of this number, until its response is over. */
static __always_inline struct held *held_of(struct conn *c, u32 number)
{
	struct message_key key = { .sk = c->sk, .number = number };

	if (c->writing == WRITTEN)
		return NULL;
	return c->slot_of == number + 1 ? &c->slot : bpf_map_lookup_elem(&pending, &key);
}

/* The exchange, unless its response is over. */
static __always_inline struct held *open_exchange(const struct cause *cause)
{
	struct conn *c = get_conn(cause->sk);
	struct held *h = c ? held_of(c, cause->number) : NULL;

	return h && *(volatile u64 *)h->e.x.span_id == cause->span ? h : NULL;
}

static __always_inline void name_cause(struct cause_key *key, u32 tgid, u32 kind, u64 who)
{
	key->who = who;
	key->tgid = tgid;
	key->kind = kind;
}

/* flags: enum cause_flag. */
static __always_inline void note_cause(struct cause_key *key, const struct conn *c, const struct held *h, u32 flags)
{
	struct cause cause = { .sk = c->sk, .number = c->begun, .flags = flags };

	cause.span = *(const u64 *)h->e.x.span_id;
	bpf_map_update_elem(&causes, key, &cause, BPF_ANY);
}

/* `rule`: what is said of the parent if it is certain; RULE_AMBIGUOUS: nothing makes it so. Returns whether the cause is
 * still open. */
static __always_inline bool follow_cause(const struct cause *cause, struct held *h, u32 rule)
{
	struct held *theirs = open_exchange(cause);
	struct ids ids;

	if (!theirs)
		return false;
	read_ids(&ids, &theirs->e.x);
	if (rule == RULE_AMBIGUOUS || cause->flags & CAUSE_SEVERAL || ids.span != cause->span)
		h->e.x.rule = RULE_AMBIGUOUS;
	else
		inherit(&h->e.x, &ids, rule);
	return true;
}

/* Likewise, of what `who` works for. */
static __always_inline bool take_cause(struct cause_key *key, struct held *h, u32 rule)
{
	struct cause *cause = bpf_map_lookup_elem(&causes, key);

	return cause && follow_cause(cause, h, rule);
}

#endif
