/* SPDX-License-Identifier: (Apache-2.0 OR GPL-2.0-only) */
/*
 * An exchange from its request to its record: begun by the request half, held until its response ends, then counted,
 * sampled and emitted. Requests and responses pair in order (RFC 9112, 9.3.2). The first request waits in conn.slot,
 * pipelined ones in `pending`. One thread writes a half at a time, so `begun` has one writer and `answered` another.
 */
#ifndef STINGLESS_EXCHANGE_H
#define STINGLESS_EXCHANGE_H

#include "red.h"
#include "head.h"
#include "route.h"
#include "endpoints.h"
#include "parents.h"

/* The ids go on from those before on this CPU: the kernel's generator is asked only for the first ones. */
static __always_inline void make_ids(struct held *h, struct scratch *s)
{
	const struct head *head = &s->head;
	struct exchange *x = &h->e.x;
	u64 seed = s->seed;

	if (!seed)
		seed = (u64)bpf_get_prandom_u32() << 32 | bpf_get_prandom_u32();
	seed = mix(mix(seed, x->start_ns), x->connection);
	s->seed = seed;
	*(u64 *)x->span_id = mix(seed, 1) | 1;
	*(u64 *)x->parent_id = x->trace_flags = x->rule = 0;
	if (head->has_trace) {
		__builtin_memcpy(x->trace_id, head->trace_id, 16);
		__builtin_memcpy(x->parent_id, head->parent_id, 8);
		x->trace_flags = head->trace_flags;
		x->flags |= FLAG_TRACEPARENT;
		x->rule = RULE_HEADER;
		return;
	}
	((u64 *)x->trace_id)[0] = mix(seed, x->connection) | 1;
	((u64 *)x->trace_id)[1] = seed;
}

/* What conn.slot has no room for. */
static __always_inline void hold(struct scratch *s, struct conn *c, struct message_key *key, bool long_text)
{
	struct scratch *own = get_scratch(s->slot); /* the same, as the map's memory: older verifiers insert no other */

	if (!own)
		return;
	if (long_text && bpf_map_update_elem(&long_texts, key, own->text, BPF_ANY))
		count_loss(s->op.svc, LOSS_PIPELINE_FULL);
	if (c->slot_of != key->number + 1 && bpf_map_update_elem(&pending, key, &own->held, BPF_ANY))
		count_loss(s->op.svc, LOSS_PIPELINE_FULL);
}

/* A request's head is whole: from scratch into conn.slot or `pending`. */
__noinline int begin_exchange(struct scratch *s, struct conn *c)
{
	struct message_key key = {};
	struct exchange *x;
	struct held *h;

	if (!s || !c)
		return 0;
	key.sk = c->sk;
	key.number = c->begun;
	h = c->slot_of ? &s->held : &c->slot;
	if (!c->slot_of)
		c->slot_of = key.number + 1;
	else
		c->pipelined = 1;
	x = &h->e.x;
	x->flags &= FLAG_IPV6;
	if (h != &c->slot || x->connection != sock_of(c->sk)) { /* else they are there, from the connection's last exchange */
		read_endpoints(x, sock_of(c->sk));
		x->tls_version = tls_version(c);
	}
	if (!s->head.host_len && is_plaintext(c->sk))
		x->flags |= name_by_tls(s, c);
	x->key.route = route_hash(s, s->head.method_len, s->head.target_len);
	x->key.svc = s->op.svc;
	x->key.peer = c->direction == DIRECTION_CLIENT ? s->head.peer : 0;
	x->key.method = s->head.method;
	x->key.protocol = s->head.protocol;
	x->key.direction = c->direction;
	x->key.tls = is_plaintext(c->sk);
	x->start_ns = c->half[HALF_REQUEST].begin_ns;
	x->connection = sock_of(c->sk);
	x->request_seq = s->head.seq;
	x->tgid = s->op.tgid;
	x->tid = s->op.tid;
	x->target_full = s->head.target_full;
	x->target_len = s->head.target_len;
	x->method_len = s->head.method_len;
	x->host_len = s->head.host_len;
	x->agent_len = s->head.agent_len;
	x->state_len = s->head.has_trace ? s->head.state_len : 0;
	x->text_len = s->head.text_len;
	x->host_off = s->head.host_off;
	x->agent_off = s->head.agent_off;
	x->state_off = s->head.state_off;
	if (s->head.cut)
		x->flags |= FLAG_TARGET_CUT;
	if (s->head.chunked)
		x->flags |= FLAG_CHUNKED_REQUEST;
	x->request_bytes = s->head.chunked ? 0 : s->head.content_length;
	h->is_head = s->head.is_head;
	h->is_connect = s->head.is_connect;
	if (settings.spans) {
		make_ids(h, s);
		find_parent(s, c, h);
	}
	h->has_long_text = s->head.text_len > TEXT_SHORT;
	if (!h->has_long_text)
		copy_text(h->e.text, s->text, s->head.text_len);
	if (c->slot_of != key.number + 1 || h->has_long_text)
		hold(s, c, &key, h->has_long_text);
	c->begun = key.number + 1;
	return 0;
}

static __always_inline bool is_sampled(const struct exchange *x)
{
	u64 low = bpf_be64_to_cpu(((const u64 *)x->trace_id)[1]);

	if (settings.parent_based && x->flags & (FLAG_TRACEPARENT | FLAG_DECIDED))
		return x->trace_flags & 1;
	if (settings.sampler == SAMPLER_RATIO)
		return low < settings.ratio_bound;
	return settings.sampler == SAMPLER_ALWAYS_ON;
}

static __always_inline bool is_worth_keeping(const struct exchange *x)
{
	if (settings.keep_errors && (x->key.outcome != OUTCOME_COMPLETE || x->key.status >= 500 ||
				     (x->key.status >= 400 && x->key.direction == DIRECTION_CLIENT)))
		return true;
	return settings.slow_ns && x->end_ns - x->start_ns >= settings.slow_ns;
}

static __always_inline void count_and_emit(struct held *h, const struct message_key *key)
{
	struct exchange *x = &h->e.x;
	struct red *r = red_of(x);
	struct long_text *text;
	bool up;

	if (r) {
		count_exchange(r, x);
		if (!r->learned)
			x->flags |= FLAG_FIRST;
	} else {
		count_loss(x->key.svc, LOSS_RED_FULL);
	}
	if (settings.spans && is_sampled(x)) {
		x->flags |= FLAG_SAMPLED;
		if (!(x->flags & (FLAG_TRACEPARENT | FLAG_DECIDED)))
			x->trace_flags = 1;
	}
	if (x->flags & (FLAG_SAMPLED | FLAG_FIRST) || !r || (settings.spans && is_worth_keeping(x))) {
		text = h->has_long_text ? bpf_map_lookup_elem(&long_texts, key) : NULL;
		up = text ? emit_long(h, text, x->key.svc) : emit_short(h, x->key.svc);
		if (r && up)
			r->learned = 1;
	} else {
		__sync_fetch_and_add(&r->sampled_out, 1);
	}
	if (h->has_long_text)
		bpf_map_delete_elem(&long_texts, key);
}

/* Bytes of the current message's body that have passed; `whole` once it has ended or if it has none. */
static __always_inline u64 body_bytes(const struct half *h, u64 whole)
{
	switch (h->phase) {
	case PHASE_BODY:
	case PHASE_UNTIL_CLOSE:
		return h->pos < h->next ? h->pos - h->body_start : h->next - h->body_start;
	case PHASE_CHUNK:
	case PHASE_TRAILER:
		return h->body;
	default:
		return h->body ? h->body : whole;
	}
}

/* What a client sent by sendfile or splice passed no hook; the socket counts it all the same. */
static __always_inline u64 sent_body_bytes(const struct conn *c, u64 whole)
{
	const struct half *h = &c->half[HALF_REQUEST];
	u64 end = h->pos;
	s32 unseen;

	if (h->phase != PHASE_BODY || c->direction != DIRECTION_CLIENT || is_plaintext(c->sk))
		return body_bytes(h, whole);
	unseen = PEEK(struct tcp_sock, c->sk, write_seq) - h->seq;
	if (unseen > 0)
		end += unseen;
	return (end < h->next ? end : h->next) - h->body_start;
}

/* The oldest request's response is over: by completion, or as `outcome` says. */
__noinline int finish_exchange(struct conn *c, u32 outcome, u64 end_ns)
{
	struct message_key key = {};
	struct exchange *x;
	struct held *h;

	if (!c || c->begun == c->answered)
		return 0;
	key.sk = c->sk;
	key.number = c->answered;
	h = c->slot_of == key.number + 1 ? &c->slot : bpf_map_lookup_elem(&pending, &key);
	if (h) {
		x = &h->e.x;
		x->key.status = c->status;
		x->key.outcome = outcome;
		x->first_ns = c->resp_first_ns;
		x->end_ns = end_ns > x->start_ns ? end_ns : x->start_ns;
		x->response_bytes = c->response_bytes;
		if (key.number + 1 == c->begun) /* its body may still be on the way */
			x->request_bytes = sent_body_bytes(c, x->request_bytes);
		if (c->response_chunked)
			x->flags |= FLAG_CHUNKED_RESPONSE;
		if (c->upgrade)
			x->flags |= FLAG_UPGRADE;
		count_and_emit(h, &key);
	}
	if (c->slot_of == key.number + 1)
		c->slot_of = 0;
	else
		bpf_map_delete_elem(&pending, &key);
	c->status = c->response_begun = c->response_chunked = 0;
	c->resp_first_ns = c->response_bytes = 0;
	c->answered = key.number + 1;
	return 0;
}

#endif
