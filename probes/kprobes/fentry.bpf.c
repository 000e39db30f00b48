// SPDX-License-Identifier: (Apache-2.0 OR GPL-2.0-only)
/* Socket calls by fentry and fexit on tcp_sendmsg and tcp_recvmsg: the cheapest stubs, where the kernel has trampolines. */
#include "socket.h"
#include <bpf/bpf_tracing.h>

/* Its own function, so that the usual send, a server's, saves no registers. */
static __noinline int begin_send(u64 sk, u64 iter, u64 size)
{
	struct conn *c = get_conn(sk);
	struct scratch *s;
	u32 svc;

	if (!sends_matter(c, size))
		return 0;
	svc = watched();
	if (!svc)
		return 0;
	s = get_scratch(SLOT_SEND_ENTER);
	if (!s)
		return 0;
	buf_of_iter(&s->op.buf, iter);
	on_send_enter(s, c, sk, svc, size, 0);
	return 0;
}

SEC("fentry/tcp_sendmsg")
int BPF_PROG(fentry_send, struct sock *sk, struct msghdr *msg, size_t size)
{
	if (!is_served((u64)sk, size))
		begin_send((u64)sk, (u64)&msg->msg_iter, size);
	return 0;
}

SEC("fexit/tcp_sendmsg")
int BPF_PROG(fexit_send, struct sock *sk, struct msghdr *msg, size_t size, int sent)
{
	struct conn *c;
	struct scratch *s;
	u32 seq;

	if (sent <= 0)
		return 0;
	c = get_conn((u64)sk);
	if (!returns_matter(c))
		return 0;
	seq = sent_seq((u64)sk) - sent;
	if (is_body_of(c, HALF_RESPONSE, seq, sent))
		return 0;
	s = get_scratch(SLOT_SEND_EXIT);
	if (!s)
		return 0;
	buf_of_moved_iter(&s->op.buf, (u64)&msg->msg_iter, sent);
	on_send_exit_at(s, c, (u64)sk, seq, sent);
	return 0;
}

static __always_inline int receive(u64 sk, struct msghdr *msg, int flags, long received)
{
	u64 changed;
	struct conn *c;
	struct scratch *s;
	u32 svc, seq;

	if (received < 0 || flags & (MSG_PEEK | MSG_ERRQUEUE)) /* a runtime tries to read where nothing is (EAGAIN), often */
		return 0;
	changed = *(volatile u64 *)&conns_changed;
	c = get_conn(sk);
	if (c && c->kind == KIND_OTHER)
		return 0;
	if (!received) {
		on_end_of_stream(c);
		return 0;
	}
	note_served(c, sk, changed);
	svc = reader(c, current_tgid());
	if (!svc)
		return 0;
	seq = received_seq(sk) - received;
	if (is_body(c, RECEIVED, seq, received))
		return 0;
	s = get_scratch(SLOT_RECV);
	if (!s)
		return 0;
	buf_of_moved_iter(&s->op.buf, (u64)&msg->msg_iter, received);
	if (flags & MSG_TRUNC)
		s->op.buf.kind = BUF_NONE;
	s->op.at_once = !!(flags & MSG_DONTWAIT);
	describe_op(s, sk, svc, RECEIVED, seq, received);
	process(s, c);
	return 0;
}

/* Before 5.19 there was one argument more, `nonblock`, in front of the flags. */
SEC("fexit/tcp_recvmsg")
int fexit_recv(u64 *ctx)
{
	u64 flags = ctx[3], received = ctx[5];

	if (bpf_get_func_arg_cnt(ctx) > 5) {
		flags = ctx[4];
		bpf_get_func_ret(ctx, &received);
	}
	return receive(ctx[0], (struct msghdr *)ctx[1], flags, (int)received);
}

/* sendfile and splice before 6.5; later they come through tcp_sendmsg. */
SEC("?fexit/tcp_sendpage")
int BPF_PROG(fexit_sendpage, struct sock *sk, void *page, int offset, size_t size, int flags, int sent)
{
	struct conn *c;
	struct scratch *s;

	if (sent <= 0)
		return 0;
	c = get_conn((u64)sk);
	if (!returns_matter(c))
		return 0;
	s = get_scratch(SLOT_SENDPAGE);
	if (!s)
		return 0;
	s->op.buf.kind = BUF_NONE;
	on_send_exit(s, c, (u64)sk, sent, 0);
	return 0;
}

