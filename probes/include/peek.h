/* SPDX-License-Identifier: (Apache-2.0 OR GPL-2.0-only) */
/*
 * Reads of kernel memory. Where the kernel has the kfunc bpf_rdonly_cast (6.2+) they are plain loads of a nanosecond;
 * elsewhere each is a helper call of fifteen. settings.direct_loads says which; the other branch is dead code to the
 * verifier.
 */
#ifndef STINGLESS_PEEK_H
#define STINGLESS_PEEK_H

#include <bpf/bpf_core_read.h>
#include "maps.h"

extern void *bpf_rdonly_cast(const void *obj, u32 btf_id) __ksym __weak;

#define CAST(type, addr) ((type *)bpf_rdonly_cast((const void *)(addr), bpf_core_type_id_kernel(type)))
#define PEEK(type, addr, field)                                                                                        \
	({                                                                                                             \
		u64 peek_at = (u64)(addr); /* here, or a read of a struct of ours would be relocated with it */        \
		settings.direct_loads ? CAST(type, peek_at)->field : BPF_CORE_READ((type *)peek_at, field);            \
	})

/* The pointer at an address: loaded as the one member of a struct that is just a pointer. */
static __always_inline u64 peek_pointer(u64 addr)
{
	u64 value = 0;

	if (settings.direct_loads)
		return (u64)CAST(struct hlist_head, addr)->first;
	bpf_probe_read_kernel(&value, sizeof(value), (void *)addr);
	return value;
}

/* Of the process's memory. 0: it cannot be read. */
static __always_inline u64 user_word(u64 at)
{
	u64 word;

	return bpf_probe_read_user(&word, sizeof(word), (void *)at) ? 0 : word;
}

#endif
