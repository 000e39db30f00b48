/* SPDX-License-Identifier: (Apache-2.0 OR GPL-2.0-only) */
/* The two halves of a connection: where a message begins and ends (RFC 9112, 6), and what is done when a half is lost. */
#ifndef STINGLESS_MESSAGE_H
#define STINGLESS_MESSAGE_H

#include "conns.h"
#include "frames.h"
#include "go_router.h"

#define PREFACE_LEN 24

static __always_inline u64 half_position(struct half *h, u32 seq)
{
	s32 forward = seq - h->seq;
	u64 pos = h->pos + forward;

	if (forward > 0) {
		h->pos = pos;
		h->seq = seq;
	}
	return pos;
}

static __always_inline void start_half(struct half *h, u32 seq)
{
	__builtin_memset(h, 0, sizeof(*h));
	h->pos = h->next = ORIGIN;
	h->seq = seq;
}

static __always_inline void drop_carry(struct conn *c, u32 half)
{
	struct message_key key = { .sk = c->sk, .half = half };
	bool apart = c->half[half & 1].carried == CARRIED_APART;

	c->half[half & 1].carried = c->half[half & 1].first_bytes = 0;
	if (apart)
		bpf_map_delete_elem(&carry, &key);
}

static __always_inline void drop_carries(struct conn *c)
{
	if (c->half[0].carried)
		drop_carry(c, 0);
	if (c->half[1].carried)
		drop_carry(c, 1);
}

struct ending {
	struct conn *c;
	u64 now;
	u32 outcome;
};

static long finish_one(u32 i, struct ending *e)
{
	struct conn *c = e->c;

	if (c->begun == c->answered)
		return 1;
	finish_exchange(c, e->outcome, e->now);
	return 0;
}

/* Everything outstanding ends as `outcome` at `now`; the first one may have had a part of its response. */
__noinline int finish_all(struct conn *c, u32 outcome, u64 now)
{
	struct ending e = { .c = c, .now = now, .outcome = outcome };

	if (!c)
		return 0;
	if (c->response_begun && c->writing != WRITTEN)
		c->response_bytes = body_bytes(&c->half[HALF_RESPONSE], 0);
	c->writing = NOT_WRITING;
	bpf_loop(MAX_TURNS, finish_one, &e, 0);
	drop_carries(c);
	return 0;
}

/* The response that was written is sent. */
static __always_inline void end_written(struct conn *c, u64 now)
{
	c->writing = NOT_WRITING;
	finish_exchange(c, OUTCOME_COMPLETE, now);
}

/* The stream can't be followed any more, or has left HTTP: `turn` ends what is outstanding as unreadable, then the
 * connection is of `kind`. */
static __always_inline long leave(struct scratch *s, struct conn *c, u32 kind)
{
	if (c->response_begun)
		c->response_bytes = body_bytes(&c->half[HALF_RESPONSE], 0);
	s->mode = MODE_LEAVING;
	s->leaving_to = kind;
	return 0;
}

static __always_inline long lose_track(struct scratch *s, struct conn *c, u32 reason)
{
	if (reason)
		count_loss(s->op.svc, reason);
	return leave(s, c, KIND_SEEK);
}

static __always_inline long go_on_leaving(struct scratch *s, struct conn *c)
{
	if (c->writing == WRITTEN)
		end_written(c, c->written_ns);
	if (c->begun != c->answered) {
		finish_exchange(c, OUTCOME_UNREADABLE, s->op.now);
		return 0;
	}
	drop_carries(c);
	conn_changed();
	c->kind = s->leaving_to;
	c->last_way = s->op.way + 1;
	return 1;
}

static __always_inline void end_response(struct conn *c, u64 now)
{
	struct half *h = &c->half[HALF_RESPONSE];

	c->response_bytes = h->phase == PHASE_BODY ? h->next - h->body_start : h->body;
	h->phase = PHASE_HEAD;
	h->body = h->begin_ns = 0;
	if (c->writing == WRITING) {
		c->writing = WRITTEN;
		c->written_ns = now;
	} else {
		finish_exchange(c, OUTCOME_COMPLETE, now);
	}
}

static __always_inline void end_request(struct half *h)
{
	h->phase = PHASE_HEAD;
	h->begin_ns = 0;
}

static __always_inline void end_message(struct scratch *s, struct conn *c, struct half *h)
{
	if (s->op.response)
		end_response(c, s->op.now);
	else
		end_request(h);
}

static __always_inline void start_body(struct scratch *s, struct conn *c, struct half *h, u32 phase, u64 length)
{
	h->body_start = h->next;
	h->body = h->chunk = h->line = 0;
	h->phase = phase;
	if (phase == PHASE_BODY)
		h->next += length;
	if (phase == PHASE_UNTIL_CLOSE)
		h->next = NOWHERE;
	if (phase == PHASE_BODY && !length)
		end_message(s, c, h);
}

static __always_inline void start_frames(struct half *h, u64 next, u8 phase)
{
	h->next = next;
	h->phase = phase;
	h->line = h->gap = 0;
	h->frame = h->message_stream = h->message_left = h->records = h->keep = h->prefix = 0;
}

/* From here on the connection is of HTTP/2: where each half's first frame begins. The rest of the call is not HTTP/1. */
static __always_inline void speak_http2(struct scratch *s, struct conn *c, u64 request, u64 response)
{
	start_frames(&c->half[HALF_REQUEST], request, PHASE_FRAME);
	start_frames(&c->half[HALF_RESPONSE], response, PHASE_FRAME);
	c->kind = KIND_HTTP2;
	s->mode = MODE_OVER;
}

/* 101 with `Upgrade: h2c` (RFC 7540, 3.2): the request goes up as it is; behind it the client sends its preface. */
static __always_inline bool upgrade_http2(struct scratch *s, struct conn *c)
{
	struct half *request = &c->half[HALF_REQUEST];

	if (c->begun != c->answered + 1 || c->slot_of != c->begun || request->phase > PHASE_BODY)
		return false;
	upgrade_frames(s, c);
	c->answered = c->begun;
	c->slot_of = 0;
	speak_http2(s, c, request->next + PREFACE_LEN, c->half[HALF_RESPONSE].next);
	return true;
}

static __always_inline void on_request(struct scratch *s, struct conn *c, struct half *h)
{
	begin_exchange(s, c);
	if (s->head.chunked)
		start_body(s, c, h, PHASE_CHUNK, 0);
	else
		start_body(s, c, h, PHASE_BODY, s->head.is_connect ? 0 : s->head.content_length);
}

static __always_inline void name_route(struct scratch *s, struct conn *c, struct held *r)
{
	u64 route = registered_route(s, c, r->e.x.start_ns);

	if (route)
		r->e.x.key.route = route;
}

static __always_inline void on_response(struct scratch *s, struct conn *c, struct half *h)
{
	struct message_key key;
	u32 status = s->head.status;
	struct held *r;

	if (c->writing == WRITTEN)
		end_written(c, c->written_ns);
	if (c->begun == c->answered) {
		lose_track(s, c, LOSS_UNANSWERED_RESPONSE);
		return;
	}
	if (status < 200 && status != 101) { /* interim (RFC 9110, 15.2): the final one follows */
		c->resp_first_ns = h->begin_ns = 0;
		return;
	}
	if (status == 101 && s->head.h2c && upgrade_http2(s, c))
		return;
	r = &c->slot;
	if (c->slot_of != c->answered + 1) {
		key = (struct message_key){ .sk = c->sk, .number = c->answered };
		r = bpf_map_lookup_elem(&pending, &key);
	}
	if (c->go_http && r)
		name_route(s, c, r);
	if (r && c->direction == DIRECTION_SERVER)
		judge_answer(s, c, &r->e.x);
	c->status = status;
	c->response_begun = 1;
	if (!c->resp_first_ns)
		c->resp_first_ns = h->begin_ns;
	if (status == 101 || (r && r->is_connect && status < 300)) {
		c->upgrade = 1;
		start_body(s, c, h, PHASE_BODY, 0);
		leave(s, c, status == 101 ? KIND_OTHER : KIND_SEEK); /* TLS may follow a CONNECT */
	} else if (status == 204 || status == 304 || (r && r->is_head)) {
		start_body(s, c, h, PHASE_BODY, 0);
	} else if (s->head.chunked) {
		c->response_chunked = 1;
		start_body(s, c, h, PHASE_CHUNK, 0);
	} else if (s->head.has_length) {
		start_body(s, c, h, PHASE_BODY, s->head.content_length);
	} else {
		start_body(s, c, h, PHASE_UNTIL_CLOSE, 0);
	}
}

#endif
