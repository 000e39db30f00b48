// SPDX-License-Identifier: (Apache-2.0 OR GPL-2.0-only)
/*
 * Socket calls by the raw tracepoints sys_enter and sys_exit and a walk from descriptor to socket: kernels without
 * kprobes, or locked down. At exit the registers still hold the call's arguments, so nothing is kept in between.
 */
#include "socket.h"
#include "syscalls.h"
#include <bpf/bpf_tracing.h>

struct messages { /* of sendmmsg and recvmmsg */
	struct scratch *s;
	u64 array;
	u64 sk;
	u64 bytes; /* of the messages before this one */
	u64 total;
	u32 svc;
	u32 moved; /* the lengths are what was moved */
	u32 way;
};

static __always_inline bool next_message(struct messages *m, u32 i, struct buf *b, u64 *len)
{
	struct mmsghdr *at = (struct mmsghdr *)m->array + i;
	u32 moved = 0;

	if (!message(b, (u64)&at->msg_hdr) || bpf_probe_read_user(&moved, sizeof(moved), &at->msg_len))
		return false;
	*len = m->moved ? moved : iov_total(b->base, b->segments);
	return true;
}

static long add_message(u32 i, struct messages *m)
{
	struct buf b;
	u64 len;

	if (!next_message(m, i, &b, &len))
		return 1;
	m->total += len;
	return 0;
}

static long take_message(u32 i, struct messages *m)
{
	struct conn *c = get_conn(m->sk);
	u64 len;

	if (!next_message(m, i, &m->s->op.buf, &len))
		return 1;
	if (m->way == RECEIVED) {
		describe_op(m->s, m->sk, m->svc, RECEIVED, received_seq(m->sk) - m->total + m->bytes, len);
		process(m->s, c);
	} else if (m->moved) {
		on_send_exit(m->s, c, m->sk, len, m->total - m->bytes - len);
	} else {
		on_send_enter(m->s, c, m->sk, m->svc, len, m->bytes);
	}
	m->bytes += len;
	return 0;
}

/* s->op has the socket, the service and the way. */
__noinline int take_messages(struct scratch *s, u64 array, u32 n, u32 moved)
{
	struct messages m = { .array = array, .moved = moved };

	if (!s)
		return 0;
	m.s = s;
	m.sk = s->op.sk;
	m.svc = s->op.svc;
	m.way = s->op.way;
	if (n > MAX_SEGMENTS)
		n = MAX_SEGMENTS;
	if (moved)
		bpf_loop(n, add_message, &m, 0);
	bpf_loop(n, take_message, &m, 0);
	return 0;
}

SEC("tp_btf/sys_enter")
int BPF_PROG(tp_sys_enter, struct pt_regs *regs, long nr)
{
	u32 kind = call_kind(nr), svc;
	struct task_struct *task;
	struct scratch *s;
	struct conn *c;
	u64 sk, len;

	if (kind == CALL_NONE || kind >= CALL_SENDFILE)
		return 0;
	svc = watched();
	if (!svc)
		return 0;
	task = bpf_get_current_task_btf();
	if (is_32bit(task))
		return 0;
	sk = sock_of_fd(task, ARG1(regs));
	if (!sk)
		return 0;
	c = get_conn(sk);
	if (!sends_matter(c, kind == CALL_WRITE ? ARG3(regs) : SLOW_SEND + 1))
		return 0;
	s = get_scratch(SLOT_SEND_ENTER);
	if (!s)
		return 0;
	if (kind == CALL_SENDMMSG) {
		describe_op(s, sk, svc, SENT, 0, 0);
		take_messages(s, ARG2(regs), ARG3(regs), 0);
		return 0;
	}
	if (kind == CALL_WRITE) {
		flat(&s->op.buf, ARG2(regs));
		len = ARG3(regs);
	} else {
		if (kind == CALL_WRITEV)
			vector(&s->op.buf, ARG2(regs), ARG3(regs));
		else if (!message(&s->op.buf, ARG2(regs)))
			return 0;
		len = iov_total(s->op.buf.base, s->op.buf.segments);
	}
	on_send_enter(s, c, sk, svc, len, 0);
	return 0;
}

static __always_inline int sent(u32 kind, struct pt_regs *regs, struct task_struct *task, u32 svc, long ret)
{
	u64 sk = sock_of_fd(task, kind == CALL_SPLICE ? ARG3(regs) : ARG1(regs));
	struct scratch *s;
	struct conn *c;

	if (!sk || ret <= 0)
		return 0;
	c = get_conn(sk);
	if (!returns_matter(c) || (kind != CALL_SENDMMSG && is_body(c, SENT, sent_seq(sk) - ret, ret)))
		return 0;
	s = get_scratch(SLOT_SEND_EXIT);
	if (!s)
		return 0;
	switch (kind) {
	case CALL_SENDMMSG:
		describe_op(s, sk, svc, SENT, 0, 0);
		return take_messages(s, ARG2(regs), ret, 1);
	case CALL_WRITE:
		flat(&s->op.buf, ARG2(regs));
		break;
	case CALL_WRITEV:
		vector(&s->op.buf, ARG2(regs), ARG3(regs));
		break;
	case CALL_SENDMSG:
		if (!message(&s->op.buf, ARG2(regs)))
			s->op.buf.kind = BUF_NONE;
		break;
	default:
		s->op.buf.kind = BUF_NONE;
	}
	on_send_exit(s, c, sk, ret, 0);
	return 0;
}

static __always_inline int received(u32 kind, struct pt_regs *regs, struct task_struct *task, u32 svc, long ret)
{
	u64 sk = sock_of_fd(task, ARG1(regs));
	u32 flags = kind == CALL_RECVFROM || kind == CALL_RECVMMSG ? ARG4(regs) : kind == CALL_RECVMSG ? ARG3(regs) : 0;
	struct scratch *s;
	struct conn *c;

	if (!sk || ret < 0 || flags & (MSG_PEEK | MSG_ERRQUEUE))
		return 0;
	c = get_conn(sk);
	if (!ret) {
		on_end_of_stream(c);
		return 0;
	}
	if (c && c->kind == KIND_OTHER)
		return 0;
	if (c) { /* for the response: on_send_exit */
		c->tgid = current_tgid();
		c->svc = svc;
	}
	if (kind != CALL_RECVMMSG && is_body(c, RECEIVED, received_seq(sk) - ret, ret))
		return 0;
	s = get_scratch(SLOT_RECV);
	if (!s)
		return 0;
	s->op.at_once = flags & MSG_DONTWAIT || SYSCALL_NR(regs) == NR_preadv2; /* which may have RWF_NOWAIT */
	if (kind == CALL_RECVMMSG) {
		describe_op(s, sk, svc, RECEIVED, 0, 0);
		return take_messages(s, ARG2(regs), ret, 1);
	}
	if (kind == CALL_READ || kind == CALL_RECVFROM)
		flat(&s->op.buf, ARG2(regs));
	else if (kind == CALL_READV)
		vector(&s->op.buf, ARG2(regs), ARG3(regs));
	else if (!message(&s->op.buf, ARG2(regs)))
		return 0;
	if (flags & MSG_TRUNC)
		s->op.buf.kind = BUF_NONE;
	on_receive(s, c, sk, svc, ret);
	return 0;
}

SEC("tp_btf/sys_exit")
int BPF_PROG(tp_sys_exit, struct pt_regs *regs, long ret)
{
	u32 kind = call_kind(SYSCALL_NR(regs)), svc;
	struct task_struct *task;

	if (kind == CALL_NONE)
		return 0;
	svc = watched();
	if (!svc)
		return 0;
	task = bpf_get_current_task_btf();
	if (is_32bit(task))
		return 0;
	return kind < CALL_READ ? sent(kind, regs, task, svc, ret) : received(kind, regs, task, svc, ret);
}

