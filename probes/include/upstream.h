/* SPDX-License-Identifier: (Apache-2.0 OR GPL-2.0-only) */
/*
 * nginx says itself for which request it wants a connection to an upstream server: for each, also where it then takes one
 * that it kept, it calls ngx_event_connect_peer() (src/event/ngx_event_connect.c). The argument's log is that of the
 * client's connection, and leads to it; when the call returns, the argument has the upstream's connection, whose next
 * request is that request's.
 * Where the fields are is believed only of a log whose connection says that this is its log. So it is in builds with TLS
 * or --with-compat, since 1.9.
 */
#ifndef STINGLESS_UPSTREAM_H
#define STINGLESS_UPSTREAM_H

#include "cause.h"
#include "syscalls.h"
#include "tie.h"
#include <bpf/bpf_tracing.h>

enum {
	NGX_PEER_CONNECTION = 0, /* ngx_peer_connection_t.connection, an ngx_connection_t */
	NGX_PEER_LOG = 112,      /* .log, an ngx_log_t */
	NGX_LOG_DATA = 40,       /* ngx_log_t.data: of http an ngx_http_log_ctx_t, whose first field is the connection */
	NGX_CONNECTION_FD = 24,  /* ngx_connection_t.fd */
	NGX_CONNECTION_LOG = 80, /* .log */
};

static __always_inline u64 socket_of_nginx(u64 connection)
{
	s32 fd = -1;

	if (!connection || bpf_probe_read_user(&fd, sizeof(fd), (void *)connection + NGX_CONNECTION_FD) || fd < 0)
		return 0;
	return sock_of_fd(bpf_get_current_task_btf(), fd);
}

/* Of a log of http's the client's connection. */
static __always_inline struct conn *logged_client(u64 log)
{
	u64 connection = log ? user_word(user_word(log + NGX_LOG_DATA)) : 0, sk;
	struct conn *c;

	if (!connection || user_word(connection + NGX_CONNECTION_LOG) != log)
		return NULL;
	sk = socket_of_nginx(connection);
	c = sk ? get_conn(sk) : NULL;
	if (c && c->tls)
		c = get_conn(c->sk | 1); /* a number, not a pointer, to the verifier */
	return c && c->kind == KIND_HTTP && c->direction == DIRECTION_SERVER ? c : NULL;
}

static __always_inline void on_peer_wanted(u64 peer)
{
	struct tls_thread *t = get_thread();

	if (t)
		t->peer = peer;
}

__noinline int on_peer_chosen(u32 tgid)
{
	struct tls_thread *t = get_thread();
	struct cause cause = {};
	struct cause_key key;
	struct held *h;
	struct conn *c;
	u64 sk;

	if (!t || !t->peer)
		return 0;
	sk = socket_of_nginx(user_word(t->peer + NGX_PEER_CONNECTION));
	c = logged_client(user_word(t->peer + NGX_PEER_LOG));
	t->peer = 0;
	if (!sk)
		return 0;
	name_cause(&key, tgid, CAUSE_CONNECTION, sk);
	h = c ? held_of(c, c->answered) : NULL;
	if (!h) {
		bpf_map_delete_elem(&causes, &key);
		return 0;
	}
	cause.sk = c->sk;
	cause.number = c->answered;
	cause.span = *(u64 *)h->e.x.span_id;
	cause.flags = c->pipelined ? CAUSE_SEVERAL : 0;
	bpf_map_update_elem(&causes, &key, &cause, BPF_ANY);
	mark_caller(tgid, PROXIES);
	return 0;
}

#endif
