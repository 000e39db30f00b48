/* SPDX-License-Identifier: (Apache-2.0 OR GPL-2.0-only) */
/*
 * What Go programs tell of their goroutines: which one serves a connection, which one's request a connection carries, and
 * who begins which. The last is a hit for each goroutine, and only seen in programs that serve and have sent a request in
 * a goroutine of which nothing was known (EVENT_BORN).
 */
#ifndef STINGLESS_GO_BORN_H
#define STINGLESS_GO_BORN_H

#include "go_cause.h"
#include "go_router.h"
#include "go_socket.h"

enum { GO_G_M = 48, GO_PERSIST_CONN = 80 }; /* runtime.g.m, net/http.persistConn.conn: in every measured release */

/* A goroutine's number, which no other one of the process gets. told: see abi_go.h. */
static __always_inline u64 goid_of(u64 goroutine, u32 told)
{
	return user_word(goroutine + (told & GO_OFFSET));
}

/* net/http serves this connection in this goroutine from now on. Under 0 is noted that it serves any at all. */
static __always_inline void note_goroutine(struct conn *c, u64 goid)
{
	struct cause serving = { .sk = c->sk, .flags = CAUSE_SERVES }, any = {};
	struct cause_key key;

	c->goid = goid;
	name_cause(&key, c->tgid, CAUSE_GOROUTINE, goid);
	bpf_map_update_elem(&causes, &key, &serving, BPF_ANY);
	key.who = 0;
	if (!bpf_map_lookup_elem(&causes, &key))
		bpf_map_update_elem(&causes, &key, &any, BPF_NOEXIST);
}

/*
 * A goroutine that was begun for a request, is it still at that? One of a pool may have gone on to another's: then there is
 * a loop around what it does. Python looks for one in the code of the stack's functions, once for each stack there is
 * (instrumenter/binaries/go_loops.py); until then it is not believed.
 */
static __always_inline bool runs_once(struct scratch *s, void *ctx, u32 tgid, u32 svc)
{
	struct go_stack *known;
	u64 hash = mix(tgid, svc);
	long size;

	size = bpf_get_stack(ctx, s->stack.pcs, sizeof(s->stack.pcs), BPF_F_USER_STACK);
	if (size <= 0 || size >= sizeof(s->stack.pcs))
		return false;
	s->stack.verdict = STACK_ASKED;
	s->stack.frames = size / sizeof(u64);
#pragma clang loop unroll(disable)
	for (u32 i = 0; i < GO_STACK_MAX; i++) {
		if (i >= s->stack.frames)
			break;
		hash = mix(hash, s->stack.pcs[i]);
	}
	known = bpf_map_lookup_elem(&go_stacks, &hash);
	if (known)
		return known->verdict == STACK_ONCE;
	bpf_map_update_elem(&go_stacks, &hash, &s->stack, BPF_NOEXIST);
	describe(&s->event, EVENT_STACK, tgid, svc);
	s->event.route = hash;
	if (!emit_event(&s->event))
		bpf_map_delete_elem(&go_stacks, &hash);
	return false;
}

/* Where runtime.newproc hands the new goroutine to the scheduler, on the thread's own stack: its m says who called. The
 * instruction is a call, which the kernel needs not step over. */
static __always_inline void on_go_born(struct scratch *s, struct pt_regs *ctx, u32 told, u32 svc)
{
	u64 born = GO_SECOND(ctx), system = GO_GOROUTINE(ctx);
	u32 tgid = current_tgid();
	u64 by = goid_of(user_word(user_word(system + GO_G_M) + (told >> GO_HIGH)), told);
	struct cause_key key;
	struct cause cause;

	if (!find_goroutine(&cause, by, tgid))
		return;
	if (cause.flags & CAUSE_BORN && !(s && runs_once(s, ctx, tgid, svc)))
		cause.flags |= CAUSE_SEVERAL;
	cause.flags |= CAUSE_BORN;
	name_cause(&key, tgid, CAUSE_GOROUTINE, goid_of(born, told));
	bpf_map_update_elem(&causes, &key, &cause, BPF_ANY);
}

/* From now on it is to be seen who begins which goroutine, if the process serves. Told once. */
static __always_inline void ask_for_births(struct scratch *s, u32 tgid, u32 svc)
{
	struct cause_key key;
	struct cause *any;

	name_cause(&key, tgid, CAUSE_GOROUTINE, 0);
	any = bpf_map_lookup_elem(&causes, &key);
	if (!any || any->number)
		return;
	describe(&s->event, EVENT_BORN, tgid, svc);
	any->number = emit_event(&s->event);
}

/* The goroutine's request goes out on the connection of a persistConn. */
static __always_inline void on_go_ask(struct scratch *s, struct pt_regs *ctx, u32 told, u32 svc)
{
	u32 tgid = current_tgid();
	struct cause cause = {};
	struct conn *c = conn_of_go(s, GO_FIRST(ctx) + GO_PERSIST_CONN, svc);

	if (!c)
		return;
	if (!find_goroutine(&cause, goid_of(GO_GOROUTINE(ctx), told), tgid)) {
		cause.sk = 0;
		ask_for_births(s, tgid, svc);
	} else if (cause.flags & CAUSE_BORN && !runs_once(s, ctx, tgid, svc)) {
		cause.flags |= CAUSE_SEVERAL;
	}
	c->asked = cause;
}

#endif
