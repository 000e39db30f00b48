/* SPDX-License-Identifier: (Apache-2.0 OR GPL-2.0-only) */
/* The only way out of the kernel: records that fit are submitted, what does not fit is counted. */
#ifndef STINGLESS_EMIT_H
#define STINGLESS_EMIT_H

#include "maps.h"

static __always_inline void count_loss(u32 svc, u32 reason)
{
	struct loss_key key = { .svc = svc, .reason = reason };
	u64 one = 1, *n = bpf_map_lookup_elem(&losses, &key);

	if (!n && bpf_map_update_elem(&losses, &key, &one, BPF_NOEXIST) == 0)
		return;
	if (!n) { /* made by another CPU meanwhile, or the map is full: then it goes to the service-less counter */
		n = bpf_map_lookup_elem(&losses, &key);
		if (!n) {
			key.svc = 0;
			n = bpf_map_lookup_elem(&losses, &key);
		}
	}
	if (n)
		__sync_fetch_and_add(n, 1);
}

/* Of TEXT_SHORT bytes as much as is text, rounded up. */
static __always_inline void copy_text(u8 *to, const u8 *from, u32 n)
{
#pragma clang loop unroll(disable)
	for (u32 i = 0; i < TEXT_SHORT; i += 16) {
		if (i >= n)
			break;
		*(u64 *)(to + i) = *(const u64 *)(from + i);
		*(u64 *)(to + i + 8) = *(const u64 *)(from + i + 8);
	}
}

enum { BPF_RB_PROD_POS = 3, RECORD_HEADER = 8 }; /* flags: include/uapi/linux/bpf.h */

/* The reader comes on its own clock, and is woken by the record that crosses a quarter of the ring. Another CPU's record
 * may come between and take that moment away; then it is woken a quarter later. */
static __always_inline u64 wakeup(void *ring, u32 size)
{
	u64 end = bpf_ringbuf_query(ring, BPF_RB_PROD_POS), quarter = ((struct bpf_map *)ring)->max_entries / 4;
	bool crossed = (end & (quarter - 1)) < size + RECORD_HEADER;

	return crossed ? BPF_RB_FORCE_WAKEUP : BPF_RB_NO_WAKEUP;
}

/* Both return whether the record found room. The first is a function of its own for the stack's sake. */
__noinline int emit_short(const struct held *h, u32 svc)
{
	struct exchange_short *e = h ? bpf_ringbuf_reserve(&exchanges, sizeof(*e), 0) : NULL;

	if (!h)
		return false;
	if (!e) {
		count_loss(svc, LOSS_RING_FULL);
		return false;
	}
	__builtin_memcpy(&e->x, &h->e.x, sizeof(e->x));
	copy_text(e->text, h->e.text, h->e.x.text_len);
	bpf_ringbuf_submit(e, wakeup(&exchanges, sizeof(*e)));
	return true;
}

static __always_inline bool emit_long(const struct held *h, const struct long_text *t, u32 svc)
{
	struct exchange_long *e = bpf_ringbuf_reserve(&long_exchanges, sizeof(*e), 0);

	if (!e) {
		count_loss(svc, LOSS_RING_FULL);
		return false;
	}
	__builtin_memcpy(&e->x, &h->e.x, sizeof(e->x));
	bpf_probe_read_kernel(e->text, sizeof(e->text), t->text);
	bpf_ringbuf_submit(e, wakeup(&long_exchanges, sizeof(*e)));
	return true;
}

/* Returns whether it found room. */
static __always_inline bool emit_event(const struct event *from)
{
	struct event *e = bpf_ringbuf_reserve(&events, sizeof(*e), 0);

	if (!e) {
		count_loss(from->svc, LOSS_EVENT_FULL);
		return false;
	}
	__builtin_memcpy(e, from, sizeof(*e));
	bpf_ringbuf_submit(e, 0);
	return true;
}

#endif
