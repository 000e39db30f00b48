// SPDX-License-Identifier: (Apache-2.0 OR GPL-2.0-only)
/* Life of processes and connections. Tracepoints, in every attach mode: they are stable and fire once per change. */
#include "ending.h"
#include <bpf/bpf_tracing.h>

static __always_inline void add_process(struct task_struct *task, u32 kind, struct process *p, const char *filename)
{
	u32 tgid = task->tgid;
	struct event e;

	if (bpf_map_update_elem(&procs, &tgid, p, BPF_ANY)) {
		count_loss(0, LOSS_PROCESSES_FULL);
		return;
	}
	not_known(tgid);
	forget_caller(tgid);
	describe(&e, kind, tgid, p->svc);
	e.parent_tgid = task->real_parent->tgid;
	e.cgroup_id = bpf_get_current_cgroup_id();
	bpf_probe_read_kernel(e.comm, sizeof(e.comm), task->comm);
	if (filename)
		bpf_probe_read_kernel_str(e.filename, sizeof(e.filename), filename);
	emit_event(&e);
}

SEC("tp_btf/sched_process_exec")
int BPF_PROG(proc_exec, struct task_struct *task, int old_pid, struct linux_binprm *bprm)
{
	struct process p = { .svc = new_service(), .verdict = settings.default_verdict };

	add_process(task, EVENT_EXEC, &p, bprm->filename);
	return 0;
}

SEC("tp_btf/sched_process_fork")
int BPF_PROG(proc_fork, struct task_struct *parent, struct task_struct *child)
{
	u32 tgid = parent->tgid;
	struct process *p, copy;

	if (child->pid != child->tgid)
		return 0; /* a thread */
	p = bpf_map_lookup_elem(&procs, &tgid);
	if (!p)
		return 0;
	copy = *p;
	add_process(child, EVENT_FORK, &copy, NULL);
	return 0;
}

SEC("tp_btf/sched_process_exit")
int BPF_PROG(proc_exit, struct task_struct *task)
{
	u32 tgid = task->tgid;
	struct process *p;
	struct event e;

	if (task->signal->live.counter)
		return 0;
	p = bpf_map_lookup_elem(&procs, &tgid);
	if (!p)
		return 0;
	describe(&e, EVENT_EXIT, tgid, p->svc);
	bpf_map_delete_elem(&procs, &tgid);
	not_known(tgid);
	forget_caller(tgid);
	emit_event(&e);
	return 0;
}

static __always_inline void on_listen(struct sock *sk)
{
	u32 tgid = bpf_get_current_pid_tgid() >> 32, word;
	struct process *p;
	struct event e;
	u64 *bits;

	watched(); /* makes the entry where there is none */
	p = bpf_map_lookup_elem(&procs, &tgid);
	if (!p)
		return;
	describe(&e, EVENT_LISTEN, tgid, p->svc);
	e.port = BPF_CORE_READ(sk, __sk_common.skc_num);
	word = e.port / 64;
	bits = bpf_map_lookup_elem(&ports, &word);
	if (bits && *bits >> (e.port % 64) & 1) {
		p->verdict = VERDICT_WATCH;
		not_known(tgid);
	}
	bpf_get_current_comm(e.comm, sizeof(e.comm));
	emit_event(&e);
}

SEC("tp_btf/inet_sock_set_state")
int BPF_PROG(sock_state, struct sock *sk, int old_state, int new_state)
{
	if (new_state == TCP_LISTEN)
		on_listen((struct sock *)sk);
	else if (new_state == TCP_SYN_SENT || (new_state == TCP_SYN_RECV && old_state == TCP_LISTEN))
		on_destroy((struct sock *)sk);
	else
		on_state((struct sock *)sk, new_state);
	return 0;
}

SEC("tp_btf/tcp_destroy_sock")
int BPF_PROG(sock_destroy, struct sock *sk)
{
	on_destroy((struct sock *)sk);
	return 0;
}
