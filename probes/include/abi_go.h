/* SPDX-License-Identifier: (Apache-2.0 OR GPL-2.0-only) */
/* What probes on Go's functions are told besides enum tls_call; a part of abi.h. */
#ifndef STINGLESS_ABI_GO_H
#define STINGLESS_ABI_GO_H

/* The cookie's upper half of TLS_GO_SERVE: flags, and from bit 16 on where runtime.g.goid is; 0: not known. */
enum go_serve {
	GO_RELEASE_1_22 = 1, /* patterns are where 1.22 has them */
	GO_NO_PATTERN = 2,   /* requests have none */
	GO_ROUTED = 4,       /* the program has a router with a probe of its own */
};

/* And of TLS_GO_ROUTER: what is at the offset in its lower 16 bits; a string, if it is none of these. */
enum go_router {
	GO_POINTER = 0x10000, /* to a struct that begins with a string */
	GO_STRINGS = 0x20000, /* a slice: patterns of routers within one another */
	GO_POOLED = 0x40000,  /* the struct goes on to other requests, and is as the last one left it */
};

/* And of TLS_GO_ASK and TLS_GO_BORN: where runtime.g.goid is, and from bit 16 on where runtime.m.curg is. */
#define GO_HIGH 16

#define GO_STACK_MAX 48 /* frames */

enum go_stack_verdict {
	STACK_ASKED = 0,
	STACK_ONCE = 1,    /* no frame is in a loop: what its goroutine does was what it was begun for */
	STACK_REPEATS = 2, /* it may do one thing after the other, of whomever */
};

/* go_stacks: hash -> this. The kernel makes the entry, Python gives the verdict. */
struct go_stack {
	unsigned int verdict; /* enum go_stack_verdict */
	unsigned int frames;
	unsigned long long pcs[GO_STACK_MAX]; /* return addresses but for the first, the innermost one */
};

#endif
