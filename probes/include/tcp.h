/* SPDX-License-Identifier: (Apache-2.0 OR GPL-2.0-only) */
/* What a TCP socket says of itself. */
#ifndef STINGLESS_TCP_H
#define STINGLESS_TCP_H

#include "kernel.h"
#include "peek.h"

static __always_inline bool is_tcp(u64 sk)
{
	u16 family = PEEK(struct sock_common, sk, skc_family);

	return (family == AF_INET || family == AF_INET6) && PEEK(struct sock, sk, sk_protocol) == IPPROTO_TCP;
}

/* Nothing can be written any more. What came before may still be read, until the socket goes. */
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

#endif
