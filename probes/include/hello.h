/* SPDX-License-Identifier: (Apache-2.0 OR GPL-2.0-only) */
/*
 * The first message of each way of a TLS connection, in plain on the socket: the client's says which server it asks for
 * (server_name, RFC 6066, 3), the server's which version was chosen (RFC 8446, 4.1.3 and 4.2.1; before 1.3 RFC 5246,
 * 7.4.1.3). Libraries read it in pieces: the record's header, then the rest, or as much as they have room for. So it is
 * walked, extension by extension; where a piece ends within one, the walk does. What is no such message says nothing, nor
 * does a client's that is not seen whole, or has an encrypted one inside: its name is not the server's.
 */
#ifndef STINGLESS_HELLO_H
#define STINGLESS_HELLO_H

#include "h2_format.h"
#include "random.h"

#define RECORD_HEAD 5 /* type, version, length (RFC 8446, 5.1) */
#define RECORD_HANDSHAKE 22
#define HELLO_SESSION 38 /* into the message: type, length (3), version (2), random (32) */
#define MAX_EXTENSIONS 64
#define NAME_AT 9 /* in its extension: type and length, length of the list, kind of name, length of the name */

enum { CLIENT_HELLO = 1, SERVER_HELLO = 2 };
enum { EXTENSION_SERVER_NAME = 0, EXTENSION_SUPPORTED_VERSIONS = 43, EXTENSION_ENCRYPTED_HELLO = 0xfe0d };
enum { HELLO_PASSED = 1, HELLO_BEGUN = 4, HELLO_BOTH = 3 }; /* conn.hello: << SENT or RECEIVED */

struct hello_walk {
	struct scratch *s;
	struct conn *c;
};

static __always_inline u32 two_bytes(const u8 *p)
{
	return (u32)p[0] << 8 | p[1];
}

/* The message's first part, at win[at]: where its extensions begin and end. Returns whether they can be walked. */
static __always_inline bool hello_head(struct scratch *s, struct conn *c, struct half *h, u32 at)
{
	u32 type = *win_at(s, at), first = at, length = big_endian(win_at(s, at)) & 0xffffff;
	u32 version = two_bytes(win_at(s, at + 4)), have = s->have;

	if ((type != CLIENT_HELLO && type != SERVER_HELLO) || version >> 8 != 3 || length + 4 > h->keep ||
	    at + HELLO_SESSION >= have)
		return false;
	at += HELLO_SESSION;
	at += 1 + *win_at(s, at);
	if (type == CLIENT_HELLO) {
		note_random(s, c, first);
		if (at + 2 > have)
			return false;
		at += 2 + two_bytes(win_at(s, at)); /* cipher suites */
		if (at >= have)
			return false;
		at += 1 + *win_at(s, at); /* compression methods */
	} else {
		at += 3;
	}
	h->line = type;
	h->frame_end = RECORD_HEAD + 4 + length;
	h->next = RECORD_HEAD + at - first;
	h->records = type == SERVER_HELLO ? version : 0;
	if (h->next == h->frame_end) /* before 1.3 there may be none */
		return true;
	h->next += 2;
	return at + 2 <= have && h->next + two_bytes(win_at(s, at)) == h->frame_end;
}

/* The name at win[at], of the extension's `length` bytes: a list of one host_name, as all send it. */
static __always_inline void keep_name(struct scratch *s, struct conn *c, struct half *h, u32 at, u32 length)
{
	u32 n = length - 5;

	barrier_var(n);
	if (length <= 5 || n > HOST_MAX || *win_at(s, at + 6) || two_bytes(win_at(s, at + 7)) != n || at + NAME_AT + n > s->have)
		return;
	bpf_probe_read_kernel(c->slot.e.text, n, win_at(s, at + NAME_AT)); /* nothing waits in the slot of TLS records */
	h->records = n;
}

static __always_inline bool hello_extension(struct scratch *s, struct conn *c, struct half *h, u32 at)
{
	u32 type = two_bytes(win_at(s, at)), length = two_bytes(win_at(s, at + 2));

	if (at + 4 > s->have || h->next + 4 + length > h->frame_end)
		return false;
	h->next += 4 + length;
	if (type == EXTENSION_ENCRYPTED_HELLO)
		h->gap = 1;
	if (type == EXTENSION_SERVER_NAME && h->line == CLIENT_HELLO)
		keep_name(s, c, h, at, length);
	if (type != EXTENSION_SUPPORTED_VERSIONS || h->line != SERVER_HELLO)
		return true;
	if (length != 2 || at + 6 > s->have)
		return false;
	c->tls_version = two_bytes(win_at(s, at + 4));
	return true;
}

/* What c->half says of TLS records, one half for each way: `seq` of the first byte; `next`, where the walk is, and
 * `frame_end`, where the message ends, both from there; `keep`, the record's length; `line`, the message's type; `records`,
 * the server's legacy_version or the length of the client's name; `gap`: that name is not the server's. */
static long hello_step(u32 i, struct hello_walk *w)
{
	struct scratch *s = w->s;
	struct conn *c = w->c;
	struct half *h = &c->half[s->op.way & 1];
	u64 off = h->next - (u32)(s->op.seq - h->seq);
	bool head = h->next == RECORD_HEAD, over = h->next == h->frame_end;
	int at;

	if (over || off >= s->op.len) { /* in a call that follows, unless it passed unseen before this one */
		s->hello_goes_on = !over && (s64)off >= 0;
		return 1;
	}
	at = reach(s, off, head ? WINDOW_FIRST : NAME_AT + HOST_MAX);
	if (at < 0)
		return 1;
	return head ? !hello_head(s, c, h, at) : !hello_extension(s, c, h, at);
}

static __always_inline bool begin_hello(struct scratch *s, struct half *h)
{
	if (s->op.len < RECORD_HEAD || read_bytes(s, 0, 0, RECORD_HEAD) || s->win[0] != RECORD_HANDSHAKE)
		return false;
	h->seq = s->op.seq;
	h->next = RECORD_HEAD;
	h->frame_end = 0;
	h->keep = two_bytes(s->win + 3);
	h->gap = h->line = h->records = 0;
	return true;
}

/* The walk is over. */
static __always_inline void end_hello(struct conn *c, struct half *h)
{
	if (h->next != h->frame_end)
		return;
	if (h->line == SERVER_HELLO && !c->tls_version) /* no newer one was chosen */
		c->tls_version = h->records;
	if (h->line == CLIENT_HELLO && !h->gap)
		c->name_len = h->records;
}

/* A call on a connection with TLS records, s->op. */
__noinline int look_for_hello(struct scratch *s, struct conn *c)
{
	struct hello_walk w = { s, c };
	u8 passed, begun;
	struct half *h;

	if (!s || !c)
		return 0;
	passed = HELLO_PASSED << (s->op.way & 1);
	begun = HELLO_BEGUN << (s->op.way & 1);
	h = &c->half[s->op.way & 1];
	if (c->hello & passed)
		return 0;
	s->hello_goes_on = 0;
	s->off = s->have = 0;
	if (c->hello & begun || begin_hello(s, h)) {
		c->hello |= begun;
		bpf_loop(MAX_EXTENSIONS, hello_step, &w, 0);
		if (s->hello_goes_on)
			return 0;
		end_hello(c, h);
	}
	c->hello |= passed;
	return 0;
}

#endif
