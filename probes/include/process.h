/* SPDX-License-Identifier: (Apache-2.0 OR GPL-2.0-only) */
/* Which process is watched, and as which service. */
#ifndef STINGLESS_PROCESS_H
#define STINGLESS_PROCESS_H

#include "emit.h"
#include "peek.h"

static __always_inline u32 new_service(void)
{
	u32 zero = 0, *next = bpf_map_lookup_elem(&next_service, &zero);

	return next ? FIRST_SERVICE + __sync_fetch_and_add(next, 1) : 0;
}

static __always_inline void describe(struct event *e, u32 kind, u32 tgid, u32 svc)
{
	__builtin_memset(e, 0, sizeof(*e));
	e->time_ns = bpf_ktime_get_ns();
	e->kind = kind;
	e->tgid = tgid;
	e->svc = svc;
}

/* A process that was running before it was known, or whose exec found the map full. */
__noinline int process_seen(u32 tgid)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	struct process p = { .verdict = settings.default_verdict };
	struct event e;

	bool hidden = tgid == settings.self_tgid || BPF_CORE_READ(task, flags) & PF_KTHREAD;

	if (hidden)
		p.verdict = VERDICT_IGNORE;
	p.svc = new_service();
	if (bpf_map_update_elem(&procs, &tgid, &p, BPF_NOEXIST)) {
		if (!bpf_map_lookup_elem(&procs, &tgid))
			count_loss(0, LOSS_PROCESSES_FULL);
		return 0;
	}
	if (hidden)
		return 0;
	describe(&e, EVENT_SEEN, tgid, p.svc);
	e.parent_tgid = BPF_CORE_READ(task, real_parent, tgid);
	e.cgroup_id = bpf_get_current_cgroup_id();
	bpf_get_current_comm(e.comm, sizeof(e.comm));
	emit_event(&e);
	return 0;
}

static __always_inline u64 *known_slot(u32 tgid)
{
	u32 slot = tgid & (KNOWN_PROCESSES - 1);

	return bpf_map_lookup_elem(&known, &slot);
}

/* To be called after each change of a process in `procs`. */
static __always_inline void not_known(u32 tgid)
{
	u64 *slot = known_slot(tgid);

	if (slot)
		__sync_lock_test_and_set(slot, NOT_KNOWN | __sync_fetch_and_add(&forgotten, 1));
}

/* The word is read before `procs`, and replaced only if no change of `procs` has replaced it meanwhile. */
__noinline u32 look_up_process(u32 tgid)
{
	struct process *p;
	u64 *slot = known_slot(tgid), word;
	u32 svc;

	if (!slot)
		return 0;
	word = __sync_fetch_and_add(slot, 0); /* nothing that follows is read before it */
	p = bpf_map_lookup_elem(&procs, &tgid);
	if (!p) {
		process_seen(tgid);
		p = bpf_map_lookup_elem(&procs, &tgid);
		if (!p)
			return 0;
	}
	svc = p->verdict == VERDICT_IGNORE ? 0 : p->svc;
	if (!word || word & NOT_KNOWN)
		__sync_val_compare_and_swap(slot, word, (u64)tgid << 32 | svc);
	return svc;
}

/* The process's service, or 0 if it is not watched. */
static __always_inline u32 service_of(u32 tgid)
{
	u64 *slot = known_slot(tgid), word = slot ? *(volatile u64 *)slot : 0;

	return word >> 32 == tgid ? (u32)word : look_up_process(tgid);
}

/* By a shorter call than bpf_get_current_pid_tgid(). */
static __always_inline u32 current_tgid(void)
{
	return bpf_get_current_task_btf()->tgid;
}

/* Of the current process. */
static __always_inline u32 watched(void)
{
	return service_of(current_tgid());
}

#endif
