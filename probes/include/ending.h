/* SPDX-License-Identifier: (Apache-2.0 OR GPL-2.0-only) */
/*
 * Ends of connections: what is outstanding then, and of a TLS connection the plaintext's as well.
 *   on_state    the connection moved on (tracepoint sock:inet_sock_set_state)
 *   on_destroy  the socket goes (tracepoint tcp:tcp_destroy_sock)
 */
#ifndef STINGLESS_ENDING_H
#define STINGLESS_ENDING_H

#include "socket.h"

/* Of the response that was written last, what is not sent. */
static __always_inline void leave_out_unsent(struct conn *c)
{
	struct conn *records = get_conn(sock_of(c->sk));
	u32 left = records ? unsent(records) : 0, whole = RECORD_MAX + RECORD_MORE;

	left -= left / whole * RECORD_MORE + (left % whole < RECORD_MORE ? left % whole : RECORD_MORE);
	c->response_bytes -= left < c->response_bytes ? left : c->response_bytes;
}

static __always_inline void end_connection(struct conn *c, u32 outcome)
{
	if (c->writing == WRITTEN)
		leave_out_unsent(c);
	if (c->kind == KIND_HTTP2)
		end_frames(c, outcome);
	else
		finish_all(c, outcome, bpf_ktime_get_ns());
}

static __always_inline u32 outcome_at_close(struct conn *c, u64 sk, u32 new_state)
{
	bool over = is_plaintext(c->sk) && c->peer_closed; /* then a reset only answers the library's alert about that */

	if (PEEK(struct sock, sk, sk_err) && new_state == TCP_CLOSE && !over)
		return OUTCOME_RESET;
	if (PEEK(struct sock_common, sk, skc_flags) & 1 << SOCK_DONE) /* the peer's FIN is in, whatever state it met */
		c->peer_closed = 1;
	if (c->half[HALF_RESPONSE].phase == PHASE_UNTIL_CLOSE && c->response_begun &&
	    (c->direction == DIRECTION_SERVER || c->peer_closed))
		return OUTCOME_COMPLETE;
	return c->peer_closed ? OUTCOME_PEER_CLOSED : OUTCOME_LOCAL_CLOSED;
}

/* The connection is over: is anything to come of it, all the same? Bytes that are still to be read, or that a call has
 * moved whose hook has not run to its end yet. A TLS library may hold some that are read already. */
static __always_inline bool goes_on(struct conn *c, u64 sk)
{
	bool client = c->direction == DIRECTION_CLIENT;

	if (PEEK(struct sock_common, sk, skc_flags) & 1 << SOCK_DEAD)
		return false;
	if (c->kind < KIND_HTTP)
		return c->tls;
	return is_plaintext(c->sk) || PEEK(struct tcp_sock, sk, copied_seq) != PEEK(struct tcp_sock, sk, rcv_nxt) ||
	       c->half[client].seq != received_seq(sk) || c->half[!client].seq != sent_seq(sk);
}

__noinline int conn_moved(u64 key, u32 new_state)
{
	struct conn *c = get_conn(key);
	u64 sk = sock_of(key);
	bool ours; /* the watched process will write no more, and, unless it is a half-closing client, read no more */

	if (!c)
		return 0;
	if (new_state == TCP_CLOSE_WAIT)
		c->peer_closed = 1;
	ours = new_state == TCP_FIN_WAIT1 || new_state == TCP_LAST_ACK;
	if (ours && c->direction == DIRECTION_CLIENT && PEEK(struct sock, sk, sk_shutdown) != SHUTDOWN_MASK)
		ours = false;
	if (!ours && new_state != TCP_CLOSE)
		return 0;
	if (new_state == TCP_CLOSE && goes_on(c, sk)) {
		c->ended_by = outcome_at_close(c, sk, new_state) + 1;
		return 0; /* to on_destroy */
	}
	if (c->kind >= KIND_HTTP)
		end_connection(c, outcome_at_close(c, sk, new_state));
	if (new_state == TCP_CLOSE) {
		end_serving(c);
		delete_conn(key);
	} else if (c->direction == DIRECTION_CLIENT || c->kind == KIND_HTTP2) {
		c->kind = KIND_OTHER;
	}
	return 0;
}

static __always_inline void on_state(struct sock *sk, int new_state)
{
	u64 key = (u64)sk;
	struct conn *c = get_conn(key);

	key = c ? c->sk : 0; /* a number, not a pointer, to the verifier; 0 while another CPU inserts it: then on_destroy */
	if (!key)
		return;
	if (c->tls)
		conn_moved(key | 1, new_state);
	conn_moved(key, new_state);
}

__noinline int conn_gone(u64 key)
{
	struct conn *c = get_conn(key);
	bool fin;

	if (!c)
		return 0;
	fin = PEEK(struct sock_common, sock_of(key), skc_flags) & 1 << SOCK_DONE;
	if (c->kind >= KIND_HTTP)
		end_connection(c, c->ended_by ? c->ended_by - 1 : fin ? OUTCOME_PEER_CLOSED : OUTCOME_RESET);
	end_serving(c);
	delete_conn(key);
	return 0;
}

/*
 * The socket goes, or its memory begins as another one. Only connections that were read from after their end are still
 * here, and those whose end passed unseen: the kernel leaves a program out where it interrupts itself on a CPU (and counts
 * it: recursion_misses); some kernels of microVMs run none while process 1 is the current one, so not for the packets that
 * its interrupts handle either, and do not count it: there an end shows neither TCP_CLOSE nor tcp_destroy_sock.
 */
static __always_inline void on_destroy(struct sock *sk)
{
	u64 key = (u64)sk;
	struct conn *c = get_conn(key);

	key = c ? c->sk : 0;
	if (!key)
		return;
	if (c->tls)
		conn_gone(key | 1);
	conn_gone(key);
}

#endif
