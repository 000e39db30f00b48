/* SPDX-License-Identifier: (Apache-2.0 OR GPL-2.0-only) */
/* Part of the contract with Python, beside abi.h: how an exchange got its parent. */
#ifndef STINGLESS_ABI_PARENTS_H
#define STINGLESS_ABI_PARENTS_H

/* What chose an exchange's parent. */
enum parent_rule {
	RULE_NONE = 0,      /* nothing: the exchange begins a trace */
	RULE_HEADER = 1,    /* its own `traceparent` */
	RULE_JOINED = 2,    /* the client's exchange at the other end of its connection */
	RULE_AMBIGUOUS = 3, /* a rule applied, but what it found was not certain: no parent */
	RULE_THREAD = 4,    /* a client's: the request that its thread has read and works for */
	RULE_GOROUTINE = 5, /* likewise of Go: its goroutine, or one that this one came from */
	RULE_UPSTREAM = 6,  /* a client's: the request for which nginx said to want its connection */
};

#endif
