/* SPDX-License-Identifier: (Apache-2.0 OR GPL-2.0-only) */
/*
 * The first message of each way of a TLS connection, in plain on the socket: the client's says which server it asks for
 * (server_name, RFC 6066, 3), the server's which version was chosen (RFC 8446, 4.1.3 and 4.2.1; before 1.3 RFC 5246,
 * 7.4.1.3). It is read from one call, or from two where a library reads the record's header apart. What is no such message
 * says nothing, nor does a client's that is cut, or has an encrypted one inside: its name is not the server's.
 */
#ifndef STINGLESS_HELLO_H
#define STINGLESS_HELLO_H

#include "h2_format.h"

#define RECORD_HEAD 5 /* type, version, length (RFC 8446, 5.1) */
#define RECORD_HANDSHAKE 22
#define HELLO_SESSION 38 /* into the message: type, length (3), version (2), random (32) */
#define MAX_EXTENSIONS 64

enum { CLIENT_HELLO = 1, SERVER_HELLO = 2 };
enum { EXTENSION_SERVER_NAME = 0, EXTENSION_SUPPORTED_VERSIONS = 43, EXTENSION_ENCRYPTED_HELLO = 0xfe0d };
enum { HELLO_PASSED = 1, HELLO_BEGUN = 4, HELLO_BOTH = 3 }; /* conn.hello: << SENT or RECEIVED */

static __always_inline u32 two_bytes(struct scratch *s, u32 at)
{
	const u8 *p = win_at(s, at);

	return (u32)p[0] << 8 | p[1];
}

/* The extension at h->at; further ones behind it. */
static long take_extension(u32 i, struct scratch **ctx)
{
	struct scratch *s = *ctx;
	struct hello *h = &s->hello;
	u32 at = h->at, type = two_bytes(s, at), length = two_bytes(s, at + 2);

	if (at + 4 > h->end || at + 4 + length > h->end)
		return 1;
	h->at = at + 4 + length;
	if (type == EXTENSION_SUPPORTED_VERSIONS && h->type == SERVER_HELLO && length == 2)
		h->version = two_bytes(s, at + 4);
	if (type == EXTENSION_ENCRYPTED_HELLO)
		h->hidden = 1;
	if (type == EXTENSION_SERVER_NAME && h->type == CLIENT_HELLO && length > 5 && !*win_at(s, at + 6) &&
	    two_bytes(s, at + 7) == length - 5) { /* a list of one host_name, as all send it */
		h->name = at + 9;
		h->name_len = length - 5;
	}
	return 0;
}

/* Where the extensions begin, in a message at win[at]; 0: it has none. */
static __always_inline u32 extensions_at(struct scratch *s, u32 at)
{
	struct hello *h = &s->hello;

	at += HELLO_SESSION;
	at += 1 + *win_at(s, at);
	if (h->type == CLIENT_HELLO) {
		at += 2 + two_bytes(s, at); /* cipher suites */
		if (at >= h->end)
			return 0;
		at += 1 + *win_at(s, at); /* compression methods */
	} else {
		at += 3;
	}
	return at + 2 <= h->end && two_bytes(s, at) ? at + 2 : 0;
}

/* The message at win[at .. have), which is in a record of `room` bytes. */
__noinline int read_hello(struct scratch *s, u32 at, u32 have, u32 room)
{
	struct scratch *ctx = s;
	struct hello *h;
	u32 whole;

	if (!s || at > RECORD_HEAD || have > WINDOW_READ)
		return 0;
	h = &s->hello;
	h->version = h->name_len = h->hidden = 0;
	h->type = *win_at(s, at);
	whole = at + 4 + (big_endian(win_at(s, at)) & 0xffffff);
	if ((h->type != CLIENT_HELLO && h->type != SERVER_HELLO) || whole > at + room || have < at + HELLO_SESSION + 4 ||
	    *win_at(s, at + 4) != 3)
		return 0;
	h->end = whole < have ? whole : have;
	h->at = extensions_at(s, at);
	if (h->at)
		bpf_loop(MAX_EXTENSIONS, take_extension, &ctx, 0);
	if (whole > have || (h->at && h->at != whole) || h->hidden)
		h->name_len = 0;
	else if (!h->version)
		h->version = two_bytes(s, at + 4); /* of a server: no newer one was chosen */
	return 0;
}

static __always_inline void keep_hello(struct scratch *s, struct conn *c)
{
	struct hello *h = &s->hello;
	u32 n = h->name_len;

	if (h->type == SERVER_HELLO && h->version >= 0x300 && h->version <= 0x304)
		c->tls_version = h->version;
	barrier_var(n);
	if (h->type != CLIENT_HELLO || !n || n > HOST_MAX)
		return;
	c->name_len = n;
	bpf_probe_read_kernel(c->slot.e.text, n, win_at(s, h->name)); /* nothing waits in the slot of TLS records */
}

/* A call on a connection with TLS records, s->op. */
__noinline int look_for_hello(struct scratch *s, struct conn *c)
{
	u32 n, at = 0, room = 16384;
	u8 passed, begun;

	if (!s || !c)
		return 0;
	passed = HELLO_PASSED << (s->op.way & 1);
	begun = HELLO_BEGUN << (s->op.way & 1);
	if (c->hello & passed)
		return 0;
	n = s->op.len < WINDOW_READ ? s->op.len : WINDOW_READ;
	if (n < RECORD_HEAD || read_bytes(s, 0, 0, n)) {
		c->hello |= passed;
		return 0;
	}
	if (!(c->hello & begun)) {
		at = RECORD_HEAD;
		room = two_bytes(s, 3);
		if (n == RECORD_HEAD && s->win[0] == RECORD_HANDSHAKE) { /* the rest comes by the next call */
			c->hello |= begun;
			return 0;
		}
	}
	c->hello |= passed;
	if (at && s->win[0] != RECORD_HANDSHAKE)
		return 0;
	read_hello(s, at, n, room);
	keep_hello(s, c);
	return 0;
}

#endif
