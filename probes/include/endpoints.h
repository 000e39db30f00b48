/* SPDX-License-Identifier: (Apache-2.0 OR GPL-2.0-only) */
/* What a record says of its connection: the two ends, and of TLS what its hellos said (hello.h). */
#ifndef STINGLESS_ENDPOINTS_H
#define STINGLESS_ENDPOINTS_H

#include <bpf/bpf_endian.h>
#include "conns.h"
#include "peek.h"

static __always_inline void read_endpoints(struct exchange *x, u64 sk)
{
	u16 family = PEEK(struct sock_common, sk, skc_family);
	u32 *local = (u32 *)x->local_addr, *remote = (u32 *)x->remote_addr;

	x->flags = 0;
	x->local_port = PEEK(struct sock_common, sk, skc_num);
	x->remote_port = bpf_ntohs(PEEK(struct sock_common, sk, skc_dport));
	if (family == AF_INET6) {
		struct sock_common *c = (void *)sk;

		BPF_CORE_READ_INTO(&x->local_addr, c, skc_v6_rcv_saddr);
		BPF_CORE_READ_INTO(&x->remote_addr, c, skc_v6_daddr);
		x->flags |= FLAG_IPV6;
		return;
	}
	*(u64 *)local = *(u64 *)remote = 0;
	local[2] = remote[2] = bpf_htonl(0xffff);
	local[3] = PEEK(struct sock_common, sk, skc_rcv_saddr);
	remote[3] = PEEK(struct sock_common, sk, skc_daddr);
}

/* What is known of the TLS under a connection of plaintext. */
static __always_inline struct conn *records_of(const struct conn *c)
{
	u64 sk = sock_of(c->sk);

	return is_plaintext(c->sk) ? get_conn(sk) : NULL;
}

static __always_inline u16 tls_version(const struct conn *c)
{
	struct conn *records = records_of(c);

	return records ? records->tls_version : 0;
}

/* The server's name that the client asked TLS for, to[0 .. HOST_MAX): its length, 0 if none was seen. */
static __always_inline u32 copy_server_name(const struct conn *c, u8 *to)
{
	struct conn *records = records_of(c);
	u32 n = records ? records->name_len : 0;

	barrier_var(n);
	if (!records || !n || n > HOST_MAX)
		return 0;
	bpf_probe_read_kernel(to, n, records->slot.e.text);
	return n;
}

/* The head at hand names no host: TLS's server name stands for it. Returns the flag that says so, or 0. */
__noinline int name_by_tls(struct scratch *s, struct conn *c)
{
	u32 to, n;

	if (!s || !c)
		return 0;
	to = s->head.text_len;
	barrier_var(to);
	if (to > TEXT_LONG - HOST_MAX)
		return 0;
	n = copy_server_name(c, s->text + to);
	if (!n)
		return 0;
	s->head.host_off = to;
	s->head.host_len = n;
	s->head.text_len = to + n;
	return FLAG_SERVER_NAME;
}

#endif
