/* SPDX-License-Identifier: (Apache-2.0 OR GPL-2.0-only) */
/*
 * Plaintext of TLS libraries: calls of their functions become ops on a connection whose key is the socket's with bit 0
 * set. Its positions count the object's plaintext. As with sockets, a client's request is taken before the call, a
 * server's response after it. Plaintext of an object that is tied to no socket is counted as lost, once.
 */
#ifndef STINGLESS_TLS_H
#define STINGLESS_TLS_H

#include "socket.h"
#include <bpf/bpf_tracing.h>

#define TLS_KIND (TLS_RETURN - 1)

static __always_inline bool writes(u32 kind)
{
	return kind >= TLS_WRITE && kind <= TLS_SENDFILE;
}

/* Work space that no program which this one preempted is using; NULL: they have it all. */
static __always_inline struct scratch *take_scratch(void)
{
	struct scratch *s;

#pragma clang loop unroll(full)
	for (u32 slot = SLOT_TLS; slot < SCRATCH_SLOTS; slot++) {
		s = get_scratch(slot);
		if (s && !__sync_lock_test_and_set(&s->busy, 1))
			return s;
	}
	return NULL;
}

static __always_inline void describe_plaintext(struct scratch *s, struct tls_link *link, struct tls_thread *t, u32 svc,
					       u8 way, u64 len)
{
	describe_op(s, link->sk | 1, svc, way, way == SENT ? link->sent : link->received, len);
	s->op.other = way == SENT ? link->received : link->sent;
	s->op.buf.kind = t->kind == TLS_SENDFILE ? BUF_NONE : BUF_FLAT;
	s->op.buf.base = t->buf;
	s->op.buf.skip = 0;
	s->op.at_once = 0;
}

/* The object's link, if the client's random ties it. */
static __always_inline struct tls_link *tie_by_random(struct scratch *s, struct tls_link *link, u64 ssl)
{
	struct conn *sign;

	if (!s || !link || link->tries >= OBJECT_TRIES)
		return NULL;
	link->tries++;
	find_by_random(s, ssl);
	if (!s->found_sk)
		return NULL;
	sign = link->sign != s->found_sk ? get_conn(link->sign) : NULL;
	if (sign && sign->kind == KIND_TLS && sign->ssl == ssl) /* a neighbour in the thread, no more */
		sign->ssl = 0;
	tie(get_conn(s->found_sk), ssl);
	return get_link(ssl);
}

/* The call's arguments, and whether the object is tied. */
static __always_inline struct tls_link *note_call(struct scratch *s, struct tls_thread *t, struct pt_regs *ctx, u32 call,
						  u32 kind)
{
	u64 ssl = PT_REGS_PARM1(ctx), fourth = PT_REGS_PARM4(ctx), fifth = PT_REGS_PARM5(ctx);
	struct tls_link *link = get_link(ssl);

	barrier_var(fourth); /* or the compiler chooses between their addresses, which the verifier does not take */
	barrier_var(fifth);
	if (!link) /* in its first call nothing has passed yet: that one is looked at when it returns */
		link = tie_by_random(s, any_link(ssl), ssl);
	if (!link && t->received) {
		suppose(t->received, ssl);
		t->received = 0;
		link = get_link(ssl);
	}
	t->ssl = ssl;
	t->kind = kind;
	t->maybe = !!(call & TLS_MAYBE);
	t->buf = PT_REGS_PARM2(ctx);
	t->len = PT_REGS_PARM3(ctx);
	t->out = kind == TLS_WRITE_EX2 ? fifth : fourth;
	t->begin_ns = bpf_ktime_get_ns();
	t->late = !link;
	return link;
}

/* A program may write before the handshake is over, and must try again then. */
static __always_inline bool shakes_hands(struct tls_link *link)
{
	struct conn *records = get_conn(link->sk);

	return records && records->kind == KIND_TIED;
}

/* Whether the op in *s is to be processed. What comes too early, or finds no work space, is taken at the return instead. */
static __always_inline bool enter_call(struct scratch *s, struct pt_regs *ctx, u32 call, u32 svc)
{
	u32 kind = call & TLS_KIND;
	struct tls_thread *t = get_thread();
	struct tls_link *link;
	struct conn *c;

	if (!t)
		return false;
	link = note_call(s, t, ctx, call, kind);
	if (!link || !writes(kind) || kind == TLS_SENDFILE)
		return false;
	c = get_conn(link->sk | 1);
	if (!sends_matter(c, t->len) || is_closed(link->sk))
		return false;
	if (kind == TLS_WRITE)
		t->len = (u32)t->len; /* an int */
	if (!s || (!c && shakes_hands(link))) {
		t->late = 1;
		return false;
	}
	describe_plaintext(s, link, t, svc, SENT, t->len);
	return true;
}

/* Bytes that the call moved. */
static __always_inline s64 moved(struct tls_thread *t, struct pt_regs *ctx)
{
	s64 bytes = PT_REGS_RC(ctx);

	if (t->kind == TLS_READ || t->kind == TLS_WRITE)
		return (s32)bytes;
	if (t->kind == TLS_SENDFILE)
		return bytes;
	if (t->kind == TLS_OTHER || (s32)bytes != 1 || bpf_probe_read_user(&bytes, sizeof(bytes), (void *)t->out))
		return -1;
	return bytes;
}

/* Plaintext of a connection whose socket is not known: the same connection is counted once. */
static __always_inline void lose_plaintext(u64 ssl, u32 svc)
{
	struct tls_link *link = make_link(ssl);

	if (!link || link->lost)
		return;
	link->lost = 1;
	count_loss(svc, LOSS_TLS_UNLINKED);
}

/* There is no work space: the plaintext moves the object's position all the same, so that it is a gap, nothing worse. */
static __always_inline bool pass_plaintext(u32 svc)
{
	count_loss(svc, LOSS_TLS_PREEMPTED);
	return false;
}

static __always_inline bool plaintext_sent(struct scratch *s, struct tls_link *link, struct tls_thread *t, u32 svc,
					   u64 bytes)
{
	struct conn *c = get_conn(link->sk | 1);
	bool matters = returns_matter(c) || (t->late && (!c || c->kind != KIND_OTHER));

	if (matters && is_body(c, SENT, link->sent, bytes)) {
		matters = false;
	} else if (matters && !s) {
		matters = pass_plaintext(svc);
	} else if (matters) {
		describe_plaintext(s, link, t, returns_matter(c) ? c->svc : svc, SENT, bytes);
		if (t->late)
			s->op.now = t->begin_ns;
	}
	link->sent += bytes;
	return matters;
}

static __always_inline bool plaintext_received(struct scratch *s, struct tls_link *link, struct tls_thread *t, u64 bytes)
{
	struct conn *c = get_conn(link->sk | 1);
	bool matters = !c || c->kind != KIND_OTHER;
	u32 svc = reader(c, current_tgid());

	matters = matters && svc && !is_body(c, RECEIVED, link->received, bytes);
	if (matters && !s)
		matters = pass_plaintext(svc);
	else if (matters)
		describe_plaintext(s, link, t, svc, RECEIVED, bytes);
	link->received += bytes;
	return matters;
}

/* Whether the op in *s is to be processed. */
static __always_inline bool leave_call(struct scratch *s, struct pt_regs *ctx, u32 svc)
{
	struct tls_thread *t = get_thread();
	struct tls_link *link;
	s64 bytes;
	u64 ssl;

	if (!t || !t->ssl)
		return false;
	ssl = t->ssl;
	t->ssl = 0;
	bytes = moved(t, ctx);
	link = get_link(ssl);
	if (!link && !t->maybe)
		link = tie_by_random(s, make_link(ssl), ssl);
	t->worked = link ? 0 : ssl;
	if (!link && bytes > 0 && !t->maybe)
		lose_plaintext(ssl, svc);
	if (!link || bytes < 0)
		return false;
	if (bytes)
		return writes(t->kind) ? plaintext_sent(s, link, t, svc, bytes) : plaintext_received(s, link, t, bytes);
	if (t->kind == TLS_READ)
		on_end_of_stream(get_conn(link->sk | 1));
	return false;
}

static __always_inline void on_tls_call(struct pt_regs *ctx, u32 call, u32 svc)
{
	struct scratch *s = take_scratch();
	bool some = call & TLS_RETURN ? leave_call(s, ctx, svc) : enter_call(s, ctx, call, svc);

	if (!s)
		return;
	if (some)
		process(s, get_conn(s->op.sk));
	s->busy = 0;
}

static __always_inline void on_tls_free(u64 ssl)
{
	struct tls_key key;

	tls_key(&key, ssl);
	bpf_map_delete_elem(&tls_links, &key);
}

#endif
