/* SPDX-License-Identifier: (Apache-2.0 OR GPL-2.0-only) */
/*
 * All state of the kernel side, but of TLS (tls_state.h). Python sets the sizes that
 * stand here as 1 before it loads (instrumenter/bpf/program.py).
 */
#ifndef STINGLESS_MAPS_H
#define STINGLESS_MAPS_H

#include "kernel.h"
#include <bpf/bpf_helpers.h>
#include "abi.h"
#include "scratch.h"
#include "tls_state.h"

const volatile struct settings settings SEC(".rodata");

/* Never read: so that the object's BTF describes what is only ever in a ring (tests/test_abi.py). */
const struct event *const volatile abi_event SEC(".rodata");
const struct exchange_long *const volatile abi_exchange_long SEC(".rodata");
const struct frames *const volatile abi_frames SEC(".rodata");
const struct endpoints *const volatile abi_endpoints SEC(".rodata");
const struct data_frame *const volatile abi_data_frame SEC(".rodata");

/* Inserted by exec, fork and the first socket call of an unknown process, and by Python for those running before;
 * read at every watched hook; deleted at exit of the process's last thread. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, u32);
	__type(value, struct process);
} procs SEC(".maps");

/* What `procs` says of a process, service or 0, without a hash: tgid << 32 | service, at the tgid's last bits. Written
 * by who looked a process up where nothing is known; every change of `procs`, Python's too, puts NOT_KNOWN there after
 * it, with a number of its own, so that a look-up of before cannot be written any more. Two processes of one place: the
 * second is looked up each time. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, KNOWN_PROCESSES);
	__type(key, u32);
	__type(value, u64);
} known SEC(".maps");

u64 forgotten = 0; /* numbers given out with NOT_KNOWN */

/* Requests that wait behind another on their connection (pipelining). Inserted when a request begins while conn.slot is
 * taken; deleted when its response ends or its connection does. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct message_key);
	__type(value, struct held);
} pending SEC(".maps");

/* Texts longer than TEXT_SHORT of requests that wait for their response; lives as long as its request. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct message_key);
	__type(value, struct long_text);
} long_texts SEC(".maps");

/* Ends of plaintext connections that find each other. Inserted at a connection's first exchange; the LRU replaces: who has
 * found the other end keeps it in its `conn`, and what is out of date there no sequence number fits. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 1);
	__type(key, struct pair_key);
	__type(value, struct pair);
} pairs SEC(".maps");

/* Heads that came in more than one piece, keyed by socket and half. Inserted when a call ends inside a head; deleted
 * when the head is whole, unreadable, or its connection ends. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct message_key);
	__type(value, struct partial);
} carry SEC(".maps");

/* The metrics. Inserted at the first exchange under a key; never deleted here: Python reads, and deletes keys of
 * services that are gone. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_HASH);
	__uint(max_entries, 1);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct red_key);
	__type(value, struct red);
} red SEC(".maps");

/* As `red`, for all CPUs in common: keys that the kernel would not take there. It may have no per-CPU memory at hand
 * when many come at once (ENOMEM), or be in the middle of that map on this CPU (EBUSY). */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct red_key);
	__type(value, struct red);
} red_shared SEC(".maps");

/* Zeros, to insert: too large for the stack. Nobody writes it. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct red);
} empty_red SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct conn);
} empty_conn SEC(".maps");

/* Metric keys in use, by service; under 0 in all. Inserted with a service's first key; Python deletes with the keys. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, u32);
	__type(value, u32);
} service_keys SEC(".maps");

/* What could not be recorded, and why. Inserted at the first loss of its kind; Python reads. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct loss_key);
	__type(value, u64);
} losses SEC(".maps");

/* One bit per TCP port: who listens there is watched. Written by Python. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1024);
	__type(key, u32);
	__type(value, u64);
} ports SEC(".maps");

/* Arguments between a call's entry and its return, for kprobes, keyed by thread. A thread that dies in the call leaves
 * its entry, which the thread's next call or the map's LRU replaces. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 16384);
	__type(key, u64);
	__type(value, struct call);
} calls SEC(".maps");

/* Keyed by the hash of a pattern that Python was told. Inserted when it is; the LRU replaces, then it is told again. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 4096);
	__type(key, u64);
	__type(value, u32);
} routes_told SEC(".maps");

/* The send that a thread is in, for the socket tracepoints: the end of it is told without the message. Inserted at a
 * thread's first send on a server's connection; freed with the thread. */
struct {
	__uint(type, BPF_MAP_TYPE_TASK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct sending);
} sendings SEC(".maps");

/* Work space, one per program that parses: a program never runs twice at once on a CPU, but two may interleave. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, SCRATCH_SLOTS);
	__type(key, u32);
	__type(value, struct scratch);
} scratch SEC(".maps");

static __always_inline struct scratch *get_scratch(u32 slot)
{
	struct scratch *s = bpf_map_lookup_elem(&scratch, &slot);

	if (s)
		s->slot = slot;
	return s;
}

/* The next service number, from FIRST_SERVICE up; smaller ones are Python's. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, u32);
} next_service SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 4096);
} exchanges SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 4096);
} long_exchanges SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 4096);
} events SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 4096);
} frames SEC(".maps");

#endif
