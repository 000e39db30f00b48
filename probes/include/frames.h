/* SPDX-License-Identifier: (Apache-2.0 OR GPL-2.0-only) */
/*
 * The way out for HTTP/2: what a call's frames say, collected in scratch, as records of the `frames` ring. A connection's
 * BEGIN is there before any of its bytes; a record that found no room is known to Python by its missing number.
 */
#ifndef STINGLESS_FRAMES_H
#define STINGLESS_FRAMES_H

#include "exchange.h"

enum { TOLD = 1, JOINED = 2 }; /* conn.told */

static __always_inline u8 frames_flags(const struct conn *c)
{
	return is_plaintext(c->sk) ? FRAMES_TLS : 0;
}

static __always_inline bool put_frames(void *record, u32 size, u32 svc)
{
	u64 end = bpf_ringbuf_query(&frames, BPF_RB_PROD_POS) + size + RECORD_HEADER;
	u64 quarter = ((struct bpf_map *)&frames)->max_entries / 4;
	bool crossed = (end & (quarter - 1)) < size + RECORD_HEADER;

	if (!bpf_ringbuf_output(&frames, record, size, crossed ? BPF_RB_FORCE_WAKEUP : BPF_RB_NO_WAKEUP))
		return true;
	count_loss(svc, LOSS_FRAMES_FULL);
	return false;
}

static __always_inline void describe_frames(struct scratch *s, struct conn *c, u32 kind)
{
	struct frames *f = &s->out.f;

	f->connection = c->sk;
	f->time_ns = s->op.now;
	f->svc = s->op.svc;
	f->tgid = s->op.tgid;
	f->tid = s->op.tid;
	f->half = s->op.response;
	f->direction = c->direction;
	f->kind = kind;
	f->flags = frames_flags(c);
}

/* The connection and its ends. Takes the place of what was collected: nothing may have been. */
__noinline int begin_frames(struct scratch *s, struct conn *c)
{
	struct exchange *x;
	u32 n;

	if (!s || !c)
		return false;
	x = &s->held.e.x;
	x->flags = 0;
	read_endpoints(x, sock_of(c->sk));
	describe_frames(s, c, FRAMES_BEGIN);
	s->out.f.rest = 0;
	if (c->told & JOINED)
		s->out.f.flags |= FRAMES_JOINED;
	__builtin_memcpy(s->out.bytes, x->local_addr, 32); /* both addresses */
	*(u16 *)(s->out.bytes + 32) = x->local_port;
	*(u16 *)(s->out.bytes + 34) = x->remote_port;
	*(u16 *)(s->out.bytes + 36) = x->flags;
	*(u16 *)(s->out.bytes + 38) = tls_version(c);
	n = sizeof(struct endpoints) + copy_server_name(c, s->out.bytes + sizeof(struct endpoints));
	s->out.f.len = n;
	if (put_frames(&s->out, sizeof(struct frames) + n, s->op.svc))
		c->told |= TOLD;
	s->out.f.len = 0;
	return c->told & TOLD;
}

/* The connection begins with a request of HTTP/1.1, which waits in c->slot. */
__noinline int upgrade_frames(struct scratch *s, struct conn *c)
{
	struct message_key key = {};
	struct long_text *text;
	u32 n = TEXT_SHORT;

	if (!s || !c || !begin_frames(s, c))
		return 0;
	__builtin_memcpy(s->out.bytes, &c->slot.e.x, sizeof(struct exchange));
	bpf_probe_read_kernel(s->out.bytes + sizeof(struct exchange), TEXT_SHORT, c->slot.e.text);
	if (c->slot.has_long_text) {
		key.sk = c->sk;
		key.number = c->begun - 1;
		text = bpf_map_lookup_elem(&long_texts, &key);
		if (text)
			bpf_probe_read_kernel(s->out.bytes + sizeof(struct exchange), TEXT_LONG, text->text);
		bpf_map_delete_elem(&long_texts, &key);
		n = TEXT_LONG;
	}
	describe_frames(s, c, FRAMES_UPGRADE);
	s->out.f.len = sizeof(struct exchange) + n;
	put_frames(&s->out, sizeof(struct frames) + sizeof(struct exchange) + n, s->op.svc);
	s->out.f.len = 0;
	return 0;
}

/* What was collected goes up. */
__noinline int flush_frames(struct scratch *s, struct conn *c)
{
	struct half *h;
	u32 len;

	if (!s || !c)
		return 0;
	len = s->out.f.len;
	if (!len || len > FRAMES_ROOM)
		return 0;
	h = &c->half[s->op.response & 1];
	s->out.f.len = 0;
	if (!(c->told & TOLD)) {
		h->gap = 1;
		return 0;
	}
	s->out.f.len = len;
	describe_frames(s, c, FRAMES_BYTES);
	if (h->gap)
		s->out.f.flags |= FRAMES_GAP;
	h->gap = 0;
	s->out.f.number = h->records++;
	put_frames(&s->out, sizeof(struct frames) + len, s->op.svc);
	s->out.f.len = s->out.f.rest = 0;
	return 0;
}

/* The connection is over for the watched process. */
__noinline int end_frames(struct conn *c, u32 outcome)
{
	struct frames f = { .kind = FRAMES_END };

	if (!c || !(c->told & TOLD))
		return 0;
	f.connection = c->sk;
	f.time_ns = bpf_ktime_get_ns();
	f.svc = c->svc;
	f.tgid = c->tgid;
	f.direction = c->direction;
	f.outcome = outcome;
	f.flags = frames_flags(c);
	put_frames(&f, sizeof(f), c->svc);
	c->told = 0;
	return 0;
}

static __always_inline void make_room(struct scratch *s, struct conn *c)
{
	if (s->out.f.len > FRAMES_ROOM - FRAME_LEAST)
		flush_frames(s, c);
}

/* A frame's head and a few words behind it; FRAME_LEAST bytes at most. */
static __always_inline void collect_frame(struct scratch *s, const u8 *head, u64 one, u32 two, u32 n)
{
	u32 at = s->out.f.len;
	u8 *to;

	barrier_var(at);
	if (at > FRAMES_ROOM - FRAME_LEAST)
		return;
	to = s->out.bytes + at;
	*(u64 *)to = word_at(head);
	to[8] = head[8];
	*(u64 *)(to + FRAME_HEAD) = one;
	*(u32 *)(to + FRAME_HEAD + 8) = two;
	s->out.f.len = at + FRAME_HEAD + n;
}

#endif
