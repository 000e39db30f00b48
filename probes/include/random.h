/* SPDX-License-Identifier: (Apache-2.0 OR GPL-2.0-only) */
/*
 * The client's random (RFC 8446, 4.1.2) as a sign of its own. It passes on the socket in plain (hello.h), and OpenSSL keeps
 * it within its object for the connection; in 1.1 behind a pointer there. Sixteen bytes that are equal are no accident, so
 * that one sign is enough, whatever other connections the thread worked on in between. It is looked for: where it is
 * differs by version.
 */
#ifndef STINGLESS_RANDOM_H
#define STINGLESS_RANDOM_H

#include "conns.h"
#include "line.h"
#include "tls_state.h"

#define RANDOM_AT 14     /* of the second quarter, in a hello: type, length (3), version (2), 8 bytes that may be a clock */
#define OBJECT_READ 1024 /* bytes of an object that are looked at */
#define OBJECT_TRIES 8   /* in so many calls at most */
#define BEHIND_POINTER 192 /* OpenSSL 1.1, ssl3_state_st: that quarter of client_random */

/* As the first hello of a connection passed. It is also kept with the connection: its socket's address may have a new one. */
static __always_inline void note_random(struct scratch *s, struct conn *c, u32 at)
{
	struct random_key key = { .tgid = s->op.tgid, .way = s->op.way };
	u64 sk = c->sk;

	key.words[0] = word_at(win_at(s, at + RANDOM_AT));
	key.words[1] = word_at(win_at(s, at + RANDOM_AT + 8));
	__builtin_memcpy(c->slot.e.x.trace_id, key.words, sizeof(key.words));
	bpf_map_update_elem(&randoms, &key, &sk, BPF_ANY);
}

/* A connection of which that is the random, and whose records are not known to be another object's; else 0. */
static __always_inline u64 with_random(struct random_key *key)
{
	u64 *sk = bpf_map_lookup_elem(&randoms, key), at = sk ? *sk : 0;
	struct conn *c = at ? get_conn(at) : NULL;
	const u64 *own;

	if (!c || c->kind != KIND_TLS)
		return 0;
	own = (const u64 *)c->slot.e.x.trace_id;
	return own[0] == key->words[0] && own[1] == key->words[1] ? at : 0;
}

/* Two words of the object. Pointers and lengths are small, and not asked about. A process that talks to itself has a random
 * twice: then it says nothing. */
static long try_words(u32 i, struct scratch **ctx)
{
	struct scratch *s = *ctx;
	struct random_key key = { .tgid = bpf_get_current_pid_tgid() >> 32, .way = SENT };
	u64 sent, received, first = word_at(win_at(s, i * 8));

	key.words[0] = first;
	key.words[1] = word_at(win_at(s, i * 8 + 8));
	if (!(first >> 48) && first >> 16 &&
	    bpf_probe_read_user(key.words, sizeof(key.words), (void *)first + BEHIND_POINTER))
		return 0;
	if (!(key.words[0] >> 48) || !(key.words[1] >> 48))
		return 0;
	sent = with_random(&key);
	key.way = RECEIVED;
	received = with_random(&key);
	if (!sent && !received)
		return 0;
	s->found_sk = sent && received ? 0 : sent | received;
	return 1;
}

/* The socket of a connection whose random is in the object, into s->found_sk; 0: none. */
__noinline int find_by_random(struct scratch *s, u64 object)
{
	struct scratch *ctx = s;

	if (!s)
		return 0;
	s->found_sk = 0;
	if (!bpf_probe_read_user(s->win, OBJECT_READ, (void *)object))
		bpf_loop(OBJECT_READ / 8 - 1, try_words, &ctx, 0);
	return 0;
}

#endif
