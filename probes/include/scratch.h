/* SPDX-License-Identifier: (Apache-2.0 OR GPL-2.0-only) */
/* Work space: what one call is about, and what has been read of it. None of it outlives the call but `partial`s. */
#ifndef STINGLESS_SCRATCH_H
#define STINGLESS_SCRATCH_H

#include "state.h"

enum skip { /* inside a line too long to keep: to be ignored until its end */
	SKIP_NONE,
	SKIP_FIELD,
	SKIP_TARGET, /* the first line: only its length matters, and the version at its end */
};

struct head { /* what a head says, as far as it has been read */
	u64 content_length;
	u8 trace_id[16];
	u8 parent_id[8];
	u32 peer;
	u32 target_full;
	u32 seq; /* TCP sequence number of its first byte */
	u16 status;
	u16 text_len;
	u16 target_len;
	u16 host_off;
	u16 agent_off;
	u16 state_off;
	u16 state_len;
	u8 method_len;
	u8 host_len;
	u8 agent_len;
	u8 method; /* place in settings.methods */
	u8 protocol;
	u8 started; /* the first line was read */
	u8 has_length;
	u8 chunked;
	u8 has_trace;
	u8 trace_flags;
	u8 is_head;
	u8 is_connect;
	u8 is_response;
	u8 bad;  /* not HTTP */
	u8 done; /* the empty line was read */
	u8 skip; /* enum skip */
	u8 cut;
	u8 h2c; /* Upgrade: h2c */
	u8 pad[2];
};

struct partial {
	struct head head;
	u32 have;
	u32 pad;
	u8 text[TEXT_LONG];
	u8 bytes[CARRY_MAX];
};

enum buf_kind {
	BUF_NONE, /* bytes passed that cannot be read: sendfile, splice */
	BUF_FLAT,
	BUF_IOV_KERNEL,
	BUF_IOV_USER,
};

struct buf { /* memory of the watched process */
	u64 base; /* FLAT: address; IOV: address of the first struct iovec */
	u64 skip; /* bytes to leave out at the start */
	u32 segments;
	u32 kind;
};

struct sending { /* of a thread */
	u64 sk;
	u64 left; /* bytes, at the beginning */
	struct buf buf;
	u32 seq; /* of the first */
	u32 pad;
};

struct call {
	u64 sk;
	u64 msg;
	u32 way; /* SENT or RECEIVED */
	u32 flags;
	u32 pad;
	u32 seq; /* where it began: after it, the socket must stand as many bytes further as it moved */
};

struct op { /* one socket call, seen from one half */
	struct buf buf;
	u64 sk;
	u64 pos; /* of the call's first byte */
	u64 len;
	u64 now;
	u32 seq;
	u32 svc;
	u32 tgid;
	u32 tid;
	u8 response; /* the half: HALF_* */
	u8 way;      /* SENT or RECEIVED */
	u8 at_once;  /* a read that does not wait */
	u32 other;   /* TLS: as seq, of the other way */
};

/* Where read_bytes() is, over several segments. */
struct gather {
	struct iovec v;
	u64 skip; /* bytes still to leave out */
	u32 at;   /* where in win the next ones go */
	u32 end;
};

/* Where route_hash() is. Here and not on the stack, as everything that a loop changes: the verifier follows what is on
 * the stack value by value, and would walk each turn. */
struct route {
	u64 hash;
	u64 kept;    /* hash before the last segment that may be folded */
	u64 segment; /* hash of the segment so far */
	u32 at;      /* in text */
	u32 end;
	u32 length;  /* of the segment so far */
	u32 count;   /* segments ended */
	u8 not_digits;
	u8 not_hex;
	u8 digit;
	u8 not_uuid;
	u8 pad[4];
};

struct known_route {
	u64 raw; /* hash of the target; no target has 0 */
	u64 route;
};

struct scratch {
	struct op op;
	struct head head;
	u32 have;    /* bytes in win */
	u32 line;    /* start of the line not yet read */
	u32 scan;    /* where the search for its end goes on */
	u64 off;     /* into the call: where the next bytes are read */
	u32 want;    /* how many */
	u32 before;  /* bytes in win before the last read */
	u32 mode;
	u32 leaving_to; /* kind */
	u32 slot; /* which scratch this is */
	u32 busy; /* uprobes may be preempted: one is at work here */
	u32 hello_goes_on; /* look_for_hello(): in a later call */
	u32 pad;
	u64 found_sk; /* find_by_random() */
	u64 seed; /* of the last ids; 0: none yet */
	u64 told; /* the last pattern that Python knows: tell_route() */
	u64 fit_at;    /* HTTP/2: how far the call's bytes are frames */
	u32 fit;
	u8 frame[24];  /* HTTP/2: a frame's head */
	struct {
		struct frames f;
		u8 bytes[2 * FRAMES_ROOM + 64];
	} out;
	struct route route;
	struct known_route routes[KNOWN_ROUTES];
	struct gather gather;
	struct pair_key pair;
	struct go_stack stack;
	struct event event; /* the stack has no room for it */
	struct held held;
	u8 text[TEXT_LONG + 256]; /* room for one more piece than fits */
	u8 win[WIN_SIZE + 64];
	struct partial partial;
};

enum scratch_slot { /* one per program that parses */
	SLOT_SEND_ENTER,
	SLOT_SEND_EXIT,
	SLOT_RECV,
	SLOT_SENDPAGE,
	SLOT_STATE,
	SLOT_OTHER,
	SLOT_TLS, /* and the next ones: uprobes may be preempted by one another */
	SCRATCH_SLOTS = SLOT_TLS + 3,
};

#endif
