/* SPDX-License-Identifier: (Apache-2.0 OR GPL-2.0-only) */
/*
 * A thread's own requests: what it sends while the request that it read is not answered is that one's. Believed only of a
 * thread that cannot be an event loop, nor have work of others:
 *   it began after the connection was there, and has read it from its first byte on: it is the connection's
 *   its reads wait: neither the call nor the file says not to, and no epoll watches the file
 *   of the process, the thread that reads a request was seen to answer it, and never another one
 *   no such thread of the process ever read a request of another connection
 */
#ifndef STINGLESS_THREAD_H
#define STINGLESS_THREAD_H

#include "cause.h"

/* First bytes of a connection were read, by this thread: is it there for the connection? What was accepted has sent
 * nothing until then, so lsndtime is when it came to be. A tick is as exact as that is. */
static __always_inline u32 thread_of_connection(const struct scratch *s, u64 sk)
{
	struct task_struct *task = bpf_get_current_task_btf();
	u32 ticks = (u32)bpf_jiffies64() - PEEK(struct tcp_sock, sk, lsndtime);

	if (s->op.way != RECEIVED || s->op.at_once || task->flags & PF_IO_WORKER)
		return 0;
	return s->op.now - task->start_time <= (u64)(ticks + 1) * settings.tick_ns ? s->op.tid : 0;
}

static __always_inline bool reads_wait(const struct scratch *s, u64 sk)
{
	u64 file = (u64)PEEK(struct socket, PEEK(struct sock, sk, sk_socket), file);

	if (s->op.at_once || !file || !bpf_core_field_exists(struct file, f_ep))
		return false;
	return !(PEEK(struct file, file, f_flags) & (O_NONBLOCK | FASYNC)) && !PEEK(struct file, file, f_ep);
}

static __always_inline bool is_threads_own(const struct scratch *s, const struct conn *c)
{
	const struct conn *first = is_plaintext(c->sk) ? get_conn(sock_of(c->sk)) : c;

	return first && first->thread == s->op.tid;
}

/* Numbers of threads are used again. */
static __always_inline void name_thread(struct cause_key *key, const struct scratch *s)
{
	name_cause(key, s->op.tgid, CAUSE_THREAD, bpf_get_current_task_btf()->start_time ^ (u64)s->op.tid << 40);
}

/* A request's head is whole, which this thread has read. */
__noinline int note_thread(struct scratch *s, struct conn *c, struct held *h)
{
	struct cause_key key;
	struct cause *before;
	bool own, open;

	if (!s || !c || !h)
		return 0;
	name_thread(&key, s);
	before = bpf_map_lookup_elem(&causes, &key);
	own = is_threads_own(s, c);
	open = before && open_exchange(before);
	if (before && (!own || before->sk != c->sk))
		mark_caller(s->op.tgid, SHARES);
	else if (own && reads_wait(s, sock_of(c->sk)))
		note_cause(&key, c, h, open ? CAUSE_SEVERAL : 0);
	return 0;
}

/* A client's request begins. */
__noinline int take_thread(struct scratch *s, struct conn *c, struct held *h)
{
	struct cause_key key;
	bool believed;

	if (!s || !c || !h)
		return 0;
	believed = (caller(c, s->op.tgid) & (ANSWERS | HANDS_OVER | SHARES)) == ANSWERS;
	name_thread(&key, s);
	take_cause(&key, h, believed ? RULE_THREAD : RULE_AMBIGUOUS);
	return 0;
}

#endif
