/* SPDX-License-Identifier: (Apache-2.0 OR GPL-2.0-only) */
/*
 * What every set of stubs calls, whatever hook it hangs on:
 *   on_send_enter  bytes are about to be written: a client's requests begin here, before the peer can see them
 *   on_send_exit   bytes were written: a server's responses are read here, when the memory is certainly there
 *   on_receive     bytes were read
 *   on_state       the connection moved on (tracepoint sock:inet_sock_set_state)
 *   on_destroy     the socket goes (tracepoint tcp:tcp_destroy_sock)
 */
#ifndef STINGLESS_SOCKET_H
#define STINGLESS_SOCKET_H

#include "process.h"
#include "buffer.h"
#include "stream.h"

#define SLOW_SEND 16384 /* bytes that a socket's buffer may not take at once */
#define GIVE_UP 8 /* changes of direction that did not look like HTTP */

static __always_inline struct conn *get_conn(u64 sk)
{
	return bpf_map_lookup_elem(&conns, &sk);
}

static __always_inline bool is_tcp(u64 sk)
{
	u16 family = PEEK(struct sock_common, sk, skc_family);

	return (family == AF_INET || family == AF_INET6) && PEEK(struct sock, sk, sk_protocol) == IPPROTO_TCP;
}

/* No call can move it any further, and no tracepoint will tell of its end: nothing is to be remembered of it. */
static __always_inline bool is_closed(u64 sk)
{
	return PEEK(struct sock_common, sk, skc_state) == TCP_CLOSE;
}

static __always_inline u32 sent_seq(u64 sk)
{
	return PEEK(struct tcp_sock, sk, write_seq);
}

/* Behind the last byte read. A read that meets the peer's FIN counts it too: one number more, not a byte. */
static __always_inline u32 received_seq(u64 sk)
{
	u32 seq = PEEK(struct tcp_sock, sk, copied_seq);
	u8 state = PEEK(struct sock_common, sk, skc_state);

	if (state == TCP_ESTABLISHED || state == TCP_FIN_WAIT1 || state == TCP_FIN_WAIT2)
		return seq;
	if (!(PEEK(struct sock_common, sk, skc_flags) & 1 << SOCK_DONE)) /* closed by a reset */
		return seq;
	return seq == PEEK(struct tcp_sock, sk, rcv_nxt) ? seq - 1 : seq;
}

/* Could win[0 .. n) begin a request line? Also when it is only the first part of one. */
static __always_inline bool like_request(struct scratch *s, u32 n)
{
	u32 i;
	u8 c = 0;

	for (i = 0; i < 16; i++) {
		c = s->win[i];
		if (i >= n || !is_tchar(c))
			break;
	}
	if (i == 0)
		return n >= 2 && s->win[0] == '\r' && s->win[1] == '\n';
	if (i >= n || i == 16)
		return true;
	if (c != ' ')
		return false;
	if (i + 1 >= n)
		return true;
	c = s->win[(i + 1) & 31];
	return c == '/' || c == '*' || (c | 0x20) == 'h' ||
	       (i == 7 && (word_at(s->win) & ~(0xffULL << 56)) == WORD('C', 'O', 'N', 'N', 'E', 'C', 'T', 0));
}

static __always_inline bool like_response(struct scratch *s, u32 n)
{
	return n >= 8 && (word_at(s->win) & ~(0xffULL << 56)) == WORD('H', 'T', 'T', 'P', '/', '1', '.', 0);
}

static __always_inline struct conn *new_conn(struct scratch *s)
{
	struct conn *c, *zero;
	u64 sk = s->op.sk;
	u32 first = 0;

	zero = bpf_map_lookup_elem(&empty_conn, &first);
	if (!zero)
		return NULL;
	bpf_map_update_elem(&conns, &sk, zero, BPF_NOEXIST);
	c = get_conn(sk);
	if (c) {
		c->sk = sk;
		c->tgid = s->op.tgid;
		c->svc = s->op.svc;
	}
	return c;
}

/*
 * A connection of which nothing is known yet, or no longer. A request can only begin where the direction changes, so
 * only there the bytes are looked at. Returns whether the call begins a request (or what may be one).
 */
__noinline int seek(struct scratch *s)
{
	struct conn *c;
	u32 n;
	bool request;

	if (!s)
		return 0;
	c = get_conn(s->op.sk);
	if (c && c->last_way == s->op.way + 1)
		return 0;
	n = s->op.len < 32 ? s->op.len : 32;
	if (!n || read_bytes(s, 0, 0, n))
		return 0;
	request = like_request(s, n);
	if (!c) {
		if (!is_tcp(s->op.sk) || is_closed(s->op.sk))
			return 0;
		c = new_conn(s);
		if (!c) {
			if (request)
				count_loss(s->op.svc, LOSS_CONNECTIONS_FULL);
			return 0;
		}
	}
	c->last_way = s->op.way + 1;
	if (request) {
		c->kind = KIND_HTTP;
		c->direction = s->op.way == RECEIVED ? DIRECTION_SERVER : DIRECTION_CLIENT;
		start_half(&c->half[HALF_REQUEST], s->op.seq);
		start_half(&c->half[HALF_RESPONSE], s->op.way == RECEIVED ? sent_seq(s->op.sk) : received_seq(s->op.sk));
		return 1;
	}
	if (like_response(s, n))
		c->misses = 0;
	else
		c->misses += is_tchar(s->win[0]) ? 1 : 4;
	if (c->misses >= GIVE_UP)
		c->kind = KIND_OTHER;
	return 0;
}

/*
 * The other end speaks before the first bytes taken for a request made a head: they were none, only looked like the
 * beginning of one (as the rest of a body does where the agent began to watch), or were given up.
 */
static __always_inline void doubt(struct scratch *s, struct conn *c)
{
	bool response = (c->direction == DIRECTION_SERVER) != (s->op.way == RECEIVED);

	if (c->kind != KIND_HTTP || !response || !c->half[HALF_REQUEST].carried || c->begun != c->answered)
		return;
	drop_carries(c);
	c->kind = KIND_SEEK;
}

static __always_inline int process(struct scratch *s, struct conn *c)
{
	if (c)
		doubt(s, c);
	if (!c || c->kind == KIND_SEEK) {
		if (!seek(s))
			return 0;
		c = get_conn(s->op.sk);
		if (!c)
			return 0;
	}
	s->op.response = (c->direction == DIRECTION_SERVER) != (s->op.way == RECEIVED);
	return advance(s, c);
}

/* The current process's service, 0 if it is not watched, for a read on `c`. Mostly the process that read here last.
 * A client is asked about each time, as for its writes: else it would be seen to get answers to nothing. */
static __always_inline u32 reader(struct conn *c)
{
	u32 tgid = bpf_get_current_pid_tgid() >> 32, svc;

	if (c && c->tgid == tgid && c->direction == DIRECTION_SERVER)
		return c->svc;
	svc = watched();
	if (c) {
		c->tgid = tgid;
		c->svc = svc;
	}
	return svc;
}

static __always_inline void describe_op(struct scratch *s, u64 sk, u32 svc, u8 way, u32 seq, u64 len)
{
	u64 id = bpf_get_current_pid_tgid();

	s->op.sk = sk;
	s->op.svc = svc;
	s->op.way = way;
	s->op.seq = seq;
	s->op.len = len;
	s->op.now = bpf_ktime_get_ns();
	s->op.tgid = id >> 32;
	s->op.tid = id;
}

/* Must a write be looked at before it happens? A server's need not; but one that may block says when it begins. */
static __always_inline bool sends_matter(struct conn *c, u64 len)
{
	if (!c)
		return true;
	if (c->kind != KIND_HTTP || c->direction != DIRECTION_SERVER)
		return c->kind != KIND_OTHER;
	if (len > SLOW_SEND && !c->resp_first_ns && c->begun != c->answered)
		c->resp_first_ns = bpf_ktime_get_ns();
	return false;
}

static __always_inline bool returns_matter(struct conn *c)
{
	return c && c->kind == KIND_HTTP && c->direction == DIRECTION_SERVER;
}

/* s->op.buf is set; `before` bytes of the same call went ahead. */
static __always_inline void on_send_enter(struct scratch *s, struct conn *c, u64 sk, u32 svc, u64 len, u32 before)
{
	if (is_closed(sk)) /* the call will fail */
		return;
	describe_op(s, sk, svc, SENT, sent_seq(sk) + before, len);
	process(s, c);
}

/* `after`: bytes of the same call that were sent behind these. */
static __always_inline void on_send_exit(struct scratch *s, struct conn *c, u64 sk, u64 sent, u32 after)
{
	describe_op(s, sk, c ? c->svc : 0, SENT, sent_seq(sk) - after - sent, sent);
	process(s, c);
}

static __always_inline void on_receive(struct scratch *s, struct conn *c, u64 sk, u32 svc, u64 received)
{
	describe_op(s, sk, svc, RECEIVED, received_seq(sk) - received, received);
	process(s, c);
}

/* read() returned 0: the response that lasts until the connection closes is whole. */
static __always_inline void on_end_of_stream(struct conn *c)
{
	if (c && c->kind == KIND_HTTP && c->direction == DIRECTION_CLIENT &&
	    c->half[HALF_RESPONSE].phase == PHASE_UNTIL_CLOSE && c->response_begun)
		finish_all(c, OUTCOME_COMPLETE, bpf_ktime_get_ns());
}

static __always_inline u32 outcome_at_close(struct conn *c, struct sock *sk, int new_state)
{
	int error = BPF_CORE_READ(sk, sk_err);

	if (error && new_state == TCP_CLOSE)
		return OUTCOME_RESET;
	if (PEEK(struct sock_common, (u64)sk, skc_flags) & 1 << SOCK_DONE) /* the peer's FIN is in, whatever state it met */
		c->peer_closed = 1;
	if (c->half[HALF_RESPONSE].phase == PHASE_UNTIL_CLOSE && c->response_begun &&
	    (c->direction == DIRECTION_SERVER || c->peer_closed))
		return OUTCOME_COMPLETE;
	return c->peer_closed ? OUTCOME_PEER_CLOSED : OUTCOME_LOCAL_CLOSED;
}

/* Is the connection over, but bytes that came before that are still to be read? */
static __always_inline bool to_be_read(struct sock *sk)
{
	u64 key = (u64)sk;

	return !(PEEK(struct sock_common, key, skc_flags) & 1 << SOCK_DEAD) &&
	       PEEK(struct tcp_sock, key, copied_seq) != PEEK(struct tcp_sock, key, rcv_nxt);
}

static __always_inline void on_state(struct sock *sk, int new_state)
{
	u64 key = (u64)sk;
	struct conn *c = get_conn(key);
	bool ours; /* the watched process will write no more, and, unless it is a half-closing client, read no more */

	if (!c)
		return;
	if (new_state == TCP_CLOSE_WAIT)
		c->peer_closed = 1;
	ours = new_state == TCP_FIN_WAIT1 || new_state == TCP_LAST_ACK;
	if (ours && c->direction == DIRECTION_CLIENT && BPF_CORE_READ(sk, sk_shutdown) != SHUTDOWN_MASK)
		ours = false;
	if (!ours && new_state != TCP_CLOSE)
		return;
	if (new_state == TCP_CLOSE && c->kind == KIND_HTTP && to_be_read(sk)) {
		c->ended_by = outcome_at_close(c, sk, new_state) + 1;
		return; /* to on_destroy */
	}
	if (c->kind == KIND_HTTP)
		finish_all(c, outcome_at_close(c, sk, new_state), bpf_ktime_get_ns());
	if (new_state == TCP_CLOSE)
		bpf_map_delete_elem(&conns, &key);
	else if (c->direction == DIRECTION_CLIENT)
		c->kind = KIND_OTHER;
}

/* The socket goes. Only connections that were read from after their end are still here. */
static __always_inline void on_destroy(struct sock *sk)
{
	u64 key = (u64)sk;
	struct conn *c = get_conn(key);
	bool fin;

	if (!c)
		return;
	fin = PEEK(struct sock_common, key, skc_flags) & 1 << SOCK_DONE;
	if (c->kind == KIND_HTTP)
		finish_all(c, c->ended_by ? c->ended_by - 1 : fin ? OUTCOME_PEER_CLOSED : OUTCOME_RESET,
			   bpf_ktime_get_ns());
	bpf_map_delete_elem(&conns, &key);
}

#endif
