// SPDX-License-Identifier: (Apache-2.0 OR GPL-2.0-only)
/*
 * Socket calls by kprobes: kernels without trampolines. A return probe has a limited number of calls under way at once, so
 * what was read is learnt from the function that every read calls at its end, not from the read's return.
 */
#include "socket.h"
#include <bpf/bpf_tracing.h>

static __always_inline void remember(u64 sk, u64 msg, u32 way, u32 flags)
{
	u64 thread = bpf_get_current_pid_tgid();
	struct call call = { .sk = sk, .msg = msg, .way = way, .flags = flags };

	call.seq = way == SENT ? sent_seq(sk) : PEEK(struct tcp_sock, sk, copied_seq);
	bpf_map_update_elem(&calls, &thread, &call, BPF_ANY);
}

static __always_inline struct call *recall(u32 way)
{
	u64 thread = bpf_get_current_pid_tgid();
	struct call *call = bpf_map_lookup_elem(&calls, &thread);

	return call && call->way == way ? call : NULL;
}

static __always_inline void forget(void)
{
	u64 thread = bpf_get_current_pid_tgid();

	bpf_map_delete_elem(&calls, &thread);
}

static __always_inline u64 iter_of(u64 msg)
{
	return msg + bpf_core_field_offset(struct msghdr, msg_iter);
}

SEC("kprobe/tcp_sendmsg")
int BPF_KPROBE(kprobe_send, struct sock *sk, struct msghdr *msg, size_t size)
{
	struct conn *c = get_conn((u64)sk);
	struct scratch *s;
	u32 svc;

	if (returns_matter(c)) {
		if (recall(SENT)) /* of an earlier call, whose return was not seen */
			count_loss(c->svc, LOSS_RETURN_MISSED);
		remember((u64)sk, (u64)msg, SENT, 0);
	}
	if (!sends_matter(c, size))
		return 0;
	svc = watched();
	if (!svc)
		return 0;
	s = get_scratch(SLOT_SEND_ENTER);
	if (!s)
		return 0;
	buf_of_iter(&s->op.buf, iter_of((u64)msg));
	on_send_enter(s, c, (u64)sk, svc, size, 0);
	return 0;
}

static __always_inline int kprobe_sent(u32 slot, int bytes)
{
	struct call *at = recall(SENT), call;
	struct scratch *s;
	struct conn *c;
	u32 seq;

	if (!at)
		return 0;
	call = *at;
	forget();
	c = get_conn(call.sk);
	if (bytes <= 0 || !returns_matter(c))
		return 0;
	seq = sent_seq(call.sk) - bytes;
	if (seq != call.seq) {
		count_loss(c->svc, LOSS_RETURN_MISSED);
		return 0;
	}
	if (is_body(c, SENT, seq, bytes))
		return 0;
	s = get_scratch(slot);
	if (!s)
		return 0;
	if (call.msg)
		buf_of_moved_iter(&s->op.buf, iter_of(call.msg), bytes);
	else
		s->op.buf.kind = BUF_NONE;
	on_send_exit(s, c, call.sk, bytes, 0);
	return 0;
}

SEC("kretprobe/tcp_sendmsg")
int BPF_KRETPROBE(kretprobe_send, int bytes)
{
	return kprobe_sent(SLOT_SEND_EXIT, bytes);
}

/* Since 5.19 the flags are the fourth argument; before, that was `nonblock`, and a peek is not known as one. */
SEC("kprobe/tcp_recvmsg")
int BPF_KPROBE(kprobe_recv, struct sock *sk, struct msghdr *msg, size_t len, int flags)
{
	struct conn *c = get_conn((u64)sk);

	if (!(flags & (MSG_PEEK | MSG_ERRQUEUE)) && (c ? c->kind != KIND_OTHER : watched()))
		remember((u64)sk, (u64)msg, RECEIVED, flags);
	return 0;
}

/* Has all been read, the peer's FIN too? Then the read returns 0. */
static __always_inline bool is_at_end(u64 sk)
{
	return PEEK(struct sock_common, sk, skc_flags) & 1 << SOCK_DONE &&
	       PEEK(struct tcp_sock, sk, copied_seq) == PEEK(struct tcp_sock, sk, rcv_nxt);
}

/* Called by a read before it returns, and before it waits for more; `copied` is all that it has read so far. What it
 * told before has a position before `next`. Other ways to read (splice) call it too: they do not begin where ours did. */
SEC("kprobe/__tcp_cleanup_rbuf")
int BPF_KPROBE(kprobe_read, struct sock *sk, int copied)
{
	struct call *call = recall(RECEIVED);
	struct scratch *s;
	struct conn *c;
	u32 svc, seq;

	if (!call || call->sk != (u64)sk || copied < 0)
		return 0;
	c = get_conn((u64)sk);
	seq = received_seq((u64)sk) - copied;
	if (seq != call->seq)
		return 0;
	if (!copied) {
		if (is_at_end((u64)sk))
			on_end_of_stream(c);
		return 0;
	}
	svc = reader(c, current_tgid());
	if (!svc || (c && c->kind == KIND_OTHER) || is_body(c, RECEIVED, seq, copied))
		return 0;
	s = get_scratch(SLOT_RECV);
	if (!s)
		return 0;
	buf_of_moved_iter(&s->op.buf, iter_of(call->msg), copied);
	if (call->flags & MSG_TRUNC)
		s->op.buf.kind = BUF_NONE;
	s->op.at_once = !!(call->flags & MSG_DONTWAIT);
	on_receive(s, c, (u64)sk, svc, copied);
	return 0;
}

/* sendfile and splice before 6.5; later they come through tcp_sendmsg. */
SEC("?kprobe/tcp_sendpage")
int BPF_KPROBE(kprobe_sendpage, struct sock *sk)
{
	if (returns_matter(get_conn((u64)sk)))
		remember((u64)sk, 0, SENT, 0);
	return 0;
}

SEC("?kretprobe/tcp_sendpage")
int BPF_KRETPROBE(kretprobe_sendpage, int bytes)
{
	return kprobe_sent(SLOT_SENDPAGE, bytes);
}
