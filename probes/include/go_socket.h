/* SPDX-License-Identifier: (Apache-2.0 OR GPL-2.0-only) */
/* The socket under a net.Conn of a Go program: read, not guessed. */
#ifndef STINGLESS_GO_SOCKET_H
#define STINGLESS_GO_SOCKET_H

#include "socket.h"
#include "syscalls.h"

/* Go's calling convention (cmd/compile/abi-internal.md): the first integers of arguments and of results. */
#if defined(__TARGET_ARCH_x86)
#define GO_FIRST(ctx) ((ctx)->ax)
#define GO_SECOND(ctx) ((ctx)->bx)
#define GO_THIRD(ctx) ((ctx)->cx)
#define GO_GOROUTINE(ctx) ((ctx)->r14)
#elif defined(__TARGET_ARCH_arm64)
#define GO_FIRST(ctx) ((ctx)->regs[0])
#define GO_SECOND(ctx) ((ctx)->regs[1])
#define GO_THIRD(ctx) ((ctx)->regs[2])
#define GO_GOROUTINE(ctx) ((ctx)->regs[28])
#endif

#define WRAPPED 3 /* a net.Conn within a net.Conn, as first field */
#define SOCK_STREAM 1
#define FD_CLOSED 1  /* in the first word of internal/poll.fdMutex */
#define SK_CLOSED 1ULL /* in place of a socket: there was one */

/* The same in every release that instrumenter/binaries/go_tls.py lets through. */
struct go_interface {
	u64 type;
	u64 data;
};
struct go_net_fd { /* net.netFD */
	u64 mutex[2];
	s64 fd;
	u64 poll[4];
	s64 family;
	s64 type;
};

static __always_inline u64 sock_of_net_fd(u64 at)
{
	struct go_net_fd n;
	u64 sk;

	if (bpf_probe_read_user(&n, sizeof(n), (void *)at) || n.type != SOCK_STREAM ||
	    (n.family != AF_INET && n.family != AF_INET6))
		return 0;
	if (n.mutex[0] & FD_CLOSED) /* its number may be another's by now */
		return SK_CLOSED;
	if (n.fd < 0 || n.fd >> 31)
		return 0;
	sk = sock_of_fd(bpf_get_current_task_btf(), n.fd);
	return sk && is_tcp(sk) ? sk : 0;
}

/* The socket under a tls.Conn, whose first field is a net.Conn: a *net.TCPConn, whose first field is a *netFD, or a struct
 * around another net.Conn. Into s->op.sk, or SK_CLOSED; 0: it is something else, for which a netFD of a TCP socket cannot
 * be taken. */
__noinline int find_go_socket(struct scratch *s, u64 at)
{
	struct go_interface conn;
	u64 fd;

	if (!s)
		return 0;
	s->op.sk = 0;

#pragma clang loop unroll(disable)
	for (u32 i = 0; i < WRAPPED; i++) {
		if (bpf_probe_read_user(&conn, sizeof(conn), (void *)at) ||
		    bpf_probe_read_user(&fd, sizeof(fd), (void *)conn.data))
			return 0;
		s->op.sk = sock_of_net_fd(fd);
		if (s->op.sk)
			return 0;
		at = conn.data;
	}
	return 0;
}

/* The connection of that socket, made if nothing was seen on it yet. NULL: s->op.sk says why, or there is no room. */
static __always_inline struct conn *conn_of_go(struct scratch *s, u64 at, u32 svc)
{
	struct conn *c;
	u64 sk;

	find_go_socket(s, at);
	sk = s->op.sk;
	if (!sk || sk == SK_CLOSED)
		return NULL;
	c = get_conn(sk);
	if (c)
		return c;
	describe_op(s, sk, svc, SENT, 0, 0);
	return new_conn(s);
}

#endif
