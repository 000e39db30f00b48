/* SPDX-License-Identifier: (Apache-2.0 OR GPL-2.0-only) */
/*
 * Causes inside of Go programs. net/http serves a connection in one goroutine, and a client's request belongs to the one
 * that waits for the response (go_born.h), whichever goroutine writes it. Between these two may be others, each begun by
 * the one before: what a goroutine works for it has from the one that began it, as it was then.
 *
 * So a connection's goroutine is noted once, and which exchange it works for is found when it is asked: the one in hand.
 * That is certain only if no other one was begun before its time (pipelining).
 */
#ifndef STINGLESS_GO_CAUSE_H
#define STINGLESS_GO_CAUSE_H

#include "cause.h"

/* The exchange in hand on the connection that `goid` serves, into *cause. Returns whether there is any. */
static __always_inline bool name_exchange(struct cause *cause, u64 goid)
{
	struct conn *c = get_conn(cause->sk);

	if (!c || c->goid != goid)
		return false;
	if (c->tls)
		c = get_conn(c->sk | 1);
	if (!c || c->kind != KIND_HTTP || c->direction != DIRECTION_SERVER || c->begun == c->answered)
		return false;
	cause->sk = c->sk;
	cause->number = *(volatile u32 *)&c->answered;
	cause->span = *(volatile u64 *)c->slot.e.x.span_id;
	/* what waits behind another one is never in the slot */
	cause->flags = c->begun == cause->number + 1 && c->slot_of == c->begun ? 0 : CAUSE_SEVERAL;
	return true;
}

/* What a goroutine works for, into *cause. */
static __always_inline bool find_goroutine(struct cause *cause, u64 goid, u32 tgid)
{
	struct cause_key key;
	struct cause *found;

	name_cause(&key, tgid, CAUSE_GOROUTINE, goid);
	found = goid ? bpf_map_lookup_elem(&causes, &key) : NULL;
	if (!found)
		return false;
	*cause = *found;
	return cause->flags & CAUSE_SERVES ? name_exchange(cause, goid) : open_exchange(cause) != NULL;
}

/* A client's request begins. Of whom it is was said before, on the connection of the socket itself. */
__noinline int take_goroutine(struct conn *c, struct held *h)
{
	struct conn *own;
	struct cause cause;

	if (!c || !h)
		return 0;
	own = is_plaintext(c->sk) ? get_conn(sock_of(c->sk)) : c;
	if (!own || !own->asked.sk)
		return 0;
	cause = own->asked;
	own->asked.sk = 0;
	follow_cause(&cause, h, RULE_GOROUTINE);
	return 0;
}

#endif
