// SPDX-License-Identifier: (Apache-2.0 OR GPL-2.0-only)
/*
 * Everything that runs in the kernel, as one translation unit: maps, settings and shared functions exist once, and no
 * linker is needed that older tool chains lack (see docs/decisions/0001-one-object.md).
 */
#include "kprobes/lifecycle.bpf.c"
#include "kprobes/fentry.bpf.c"
#include "kprobes/kprobe.bpf.c"
#include "kprobes/syscalls.bpf.c"
#include "kprobes/tcp.bpf.c"
#include "uprobes/tls.bpf.c"

char LICENSE[] SEC("license") = "Dual BSD/GPL";
