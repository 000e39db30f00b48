// SPDX-License-Identifier: (Apache-2.0 OR GPL-2.0-only)
/*
 * Socket calls by tracepoints on sockets (Linux 6.16 and newer): kernels without trampolines. Nothing runs, and nothing
 * gets slower, in system calls that are not on sockets. tcp_sendmsg_locked has the message. The others have only the
 * socket: what was sent is noted at the beginning; the memory of what was read is in the registers of the system call.
 */
#include "socket.h"
#include "syscalls.h"
#include <bpf/bpf_tracing.h>

/* For the return. Each further part of a large send ends where its first ends; but so does a send that is tried again
 * for what the last one left: there a return has come between, which takes the note away. */
static __always_inline void note_send(struct sock *sk, struct msghdr *msg, u64 left)
{
	struct sending *n = bpf_task_storage_get(&sendings, bpf_get_current_task_btf(), NULL,
						 BPF_LOCAL_STORAGE_GET_F_CREATE);
	u32 seq = sent_seq((u64)sk);

	if (!n || (n->sk == (u64)sk && n->seq != seq && n->seq + (u32)n->left == seq + (u32)left))
		return;
	n->sk = (u64)sk;
	n->left = left;
	n->seq = seq;
	buf_of_iter(&n->buf, (u64)&msg->msg_iter);
}

/* At the beginning of a send, and again for each further part of a large one: what is still to be sent. */
SEC("tp_btf/tcp_sendmsg_locked")
int BPF_PROG(tp_send_begins, struct sock *sk, struct msghdr *msg)
{
	u32 svc = watched();
	struct scratch *s;
	struct conn *c;
	u64 left;

	if (__builtin_expect(!svc, true)) /* or the way out lies behind all that follows */
		return 0;
	left = msg->msg_iter.count;
	if (is_served((u64)sk, left)) {
		note_send(sk, msg, left);
		return 0;
	}
	c = get_conn((u64)sk);
	if (!sends_matter(c, left)) {
		if (returns_matter(c))
			note_send(sk, msg, left);
		return 0;
	}
	s = get_scratch(SLOT_SEND_ENTER);
	if (!s)
		return 0;
	buf_of_iter(&s->op.buf, (u64)&msg->msg_iter);
	on_send_enter(s, c, (u64)sk, svc, left, 0);
	return 0;
}

SEC("tp_btf/sock_send_length")
int BPF_PROG(tp_sent, struct sock *sk, int sent)
{
	struct sending *n;
	struct scratch *s;
	bool noted;
	struct conn *c;
	u32 seq;

	/* Few sockets answer requests: for the others this port is the cheapest question. */
	if (sent <= 0 || !answers_from(sk->__sk_common.skc_num) || !watched())
		return 0;
	c = get_conn((u64)sk);
	if (!returns_matter(c))
		return 0;
	n = bpf_task_storage_get(&sendings, bpf_get_current_task_btf(), NULL, 0);
	noted = n && n->sk == (u64)sk && sent <= n->left;
	if (noted)
		n->sk = 0;
	seq = noted ? n->seq : sent_seq((u64)sk) - sent;
	if (is_body(c, SENT, seq, sent))
		return 0;
	s = get_scratch(SLOT_SEND_EXIT);
	if (!s)
		return 0;
	if (noted)
		s->op.buf = n->buf;
	else
		s->op.buf.kind = BUF_NONE;
	on_send_exit_at(s, c, (u64)sk, seq, sent);
	return 0;
}

/* The memory that the current system call names, if it reads from this socket: it may be io_uring's, or the kernel's own
 * business. */
static __always_inline void memory_of_read(struct buf *b, u64 sk)
{
	struct task_struct *task = bpf_get_current_task_btf();
	struct pt_regs *regs = (struct pt_regs *)bpf_task_pt_regs(task);
	u32 kind = call_kind(SYSCALL_NR(regs));
	u64 at = ARG2(regs);

	b->kind = BUF_NONE;
	if (kind < CALL_READ || is_32bit(task) || sock_of_fd(task, ARG1(regs)) != sk)
		return;
	switch (kind) {
	case CALL_READ:
	case CALL_RECVFROM:
		flat(b, at);
		break;
	case CALL_READV:
		vector(b, at, ARG3(regs));
		break;
	case CALL_RECVMMSG:
		if (ARG3(regs) != 1) /* which of them this is, is not known */
			break;
		/* fallthrough */
	default:
		if (!message(b, at))
			b->kind = BUF_NONE;
	}
}

SEC("tp_btf/sock_recv_length")
int BPF_PROG(tp_received, struct sock *sk, int received, int flags)
{
	struct scratch *s;
	struct conn *c;
	u64 changed;
	u32 svc;

	if (received < 0 || flags & (MSG_PEEK | MSG_ERRQUEUE))
		return 0;
	svc = watched();
	if (__builtin_expect(!svc, true)) /* or the way out lies behind all that follows */
		return 0;
	changed = *(volatile u64 *)&conns_changed;
	c = get_conn((u64)sk);
	if (!received) {
		on_end_of_stream(c);
		return 0;
	}
	if (c && c->kind == KIND_OTHER)
		return 0;
	if (c) { /* for the response: on_send_exit */
		c->tgid = current_tgid();
		c->svc = svc;
		note_served(c, (u64)sk, changed);
	}
	if (is_body(c, RECEIVED, received_seq((u64)sk) - received, received))
		return 0;
	s = get_scratch(SLOT_RECV);
	if (!s)
		return 0;
	memory_of_read(&s->op.buf, (u64)sk);
	s->op.at_once = !!(flags & MSG_DONTWAIT);
	if (flags & MSG_TRUNC)
		s->op.buf.kind = BUF_NONE;
	on_receive(s, c, (u64)sk, svc, received);
	return 0;
}
