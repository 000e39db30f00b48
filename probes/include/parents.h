/* SPDX-License-Identifier: (Apache-2.0 OR GPL-2.0-only) */
/* Which rule chooses an exchange's parent, and what is noted so that they can. Sources: see each rule's header. */
#ifndef STINGLESS_PARENTS_H
#define STINGLESS_PARENTS_H

#include "go_cause.h"
#include "thread.h"

/* A server's request: whoever read it works for it from now on. */
static __always_inline void note_causes(struct scratch *s, struct conn *c, struct held *h)
{
	if ((caller(c, s->op.tgid) & (CALLS | HANDS_OVER | SHARES | PROXIES)) == CALLS)
		note_thread(s, c, h);
}

/* Once: the next request of this connection may be another one's. */
__noinline int take_upstream(struct scratch *s, struct conn *c, struct held *h)
{
	struct cause_key key;

	if (!s || !c || !h)
		return 0;
	name_cause(&key, s->op.tgid, CAUSE_CONNECTION, sock_of(c->sk));
	if (h->e.x.rule == RULE_NONE)
		take_cause(&key, h, RULE_UPSTREAM);
	bpf_map_delete_elem(&causes, &key);
	return 0;
}

/* A client's request: what the one who sends it works for. */
static __always_inline void find_cause(struct scratch *s, struct conn *c, struct held *h)
{
	u32 flags = caller(c, s->op.tgid);

	if (!(flags & CALLS))
		mark_caller(s->op.tgid, CALLS);
	if (h->e.x.rule == RULE_NONE)
		take_goroutine(c, h);
	if (flags & PROXIES)
		take_upstream(s, c, h);
	else if (flags & CALLS && h->e.x.rule == RULE_NONE)
		take_thread(s, c, h);
}

/* A request's head is whole, and its exchange has ids. */
static __always_inline void find_parent(struct scratch *s, struct conn *c, struct held *h)
{
	if (!c->begun && !is_plaintext(c->sk))
		meet(s->slot, c);
	if (c->partner && h->e.x.rule == RULE_NONE)
		join(c, h);
	if (c->direction == DIRECTION_SERVER)
		note_causes(s, c, h);
	else
		find_cause(s, c, h);
}

/* A server's response begins: does the thread answer that read? */
static __always_inline void judge_answer(const struct scratch *s, struct conn *c, const struct exchange *x)
{
	u32 flags = caller(c, x->tgid);
	bool same = x->tid == s->op.tid;

	if (!(flags & CALLS) || flags & (same ? ANSWERS | HANDS_OVER : HANDS_OVER))
		return;
	if (same)
		count_answer(x->tgid);
	else
		mark_caller(x->tgid, HANDS_OVER);
}

#endif
