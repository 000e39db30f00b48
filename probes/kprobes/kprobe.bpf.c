// SPDX-License-Identifier: (Apache-2.0 OR GPL-2.0-only)
/* Socket calls by kprobe and kretprobe on tcp_sendmsg and tcp_recvmsg: kernels without trampolines. */
#include "socket.h"
#include <bpf/bpf_tracing.h>

static __always_inline void remember(u64 sk, u64 msg, u64 flags)
{
	u64 thread = bpf_get_current_pid_tgid();
	struct call call = { .sk = sk, .msg = msg, .flags = flags };

	bpf_map_update_elem(&calls, &thread, &call, BPF_ANY);
}

static __always_inline bool recall(struct call *call)
{
	u64 thread = bpf_get_current_pid_tgid();
	struct call *c = bpf_map_lookup_elem(&calls, &thread);

	if (!c)
		return false;
	*call = *c;
	bpf_map_delete_elem(&calls, &thread);
	return true;
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

	if (returns_matter(c))
		remember((u64)sk, (u64)msg, 0);
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
	struct call call;
	struct scratch *s;
	struct conn *c;

	if (!recall(&call) || bytes <= 0)
		return 0;
	c = get_conn(call.sk);
	if (!returns_matter(c) || is_body(c, SENT, sent_seq(call.sk) - bytes, bytes))
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
		remember((u64)sk, (u64)msg, flags);
	return 0;
}

SEC("kretprobe/tcp_recvmsg")
int BPF_KRETPROBE(kretprobe_recv, int bytes)
{
	struct call call;
	struct scratch *s;
	struct conn *c;
	u32 svc;

	if (!recall(&call) || bytes < 0)
		return 0;
	c = get_conn(call.sk);
	if (!bytes) {
		on_end_of_stream(c);
		return 0;
	}
	svc = reader(c);
	if (!svc || is_body(c, RECEIVED, received_seq(call.sk) - bytes, bytes))
		return 0;
	s = get_scratch(SLOT_RECV);
	if (!s)
		return 0;
	buf_of_moved_iter(&s->op.buf, iter_of(call.msg), bytes);
	if (call.flags & MSG_TRUNC)
		s->op.buf.kind = BUF_NONE;
	on_receive(s, c, call.sk, svc, bytes);
	return 0;
}

/* sendfile and splice before 6.5; later they come through tcp_sendmsg. */
SEC("?kprobe/tcp_sendpage")
int BPF_KPROBE(kprobe_sendpage, struct sock *sk)
{
	if (returns_matter(get_conn((u64)sk)))
		remember((u64)sk, 0, 0);
	return 0;
}

SEC("?kretprobe/tcp_sendpage")
int BPF_KRETPROBE(kretprobe_sendpage, int bytes)
{
	return kprobe_sent(SLOT_SENDPAGE, bytes);
}

