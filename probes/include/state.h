/* SPDX-License-Identifier: (Apache-2.0 OR GPL-2.0-only) */
/*
 * What the kernel side remembers between hooks. None of it is read by Python.
 *
 * A connection has two halves: the request half carries requests (a server reads it, a client writes it), the response
 * half the other way. Each half is a stream of bytes with 64-bit positions, kept in step with the socket's own TCP
 * sequence numbers (tcp_sock.copied_seq, .write_seq): bytes that no hook saw move the position all the same, and a byte
 * seen twice (MSG_PEEK, a write tried again) is known by its position. `next` is the position of the next byte that
 * means something; everything before it is body and is never read.
 */
#ifndef STINGLESS_STATE_H
#define STINGLESS_STATE_H

#include "kernel.h"
#include "abi.h"

#define WINDOW 4096       /* bytes of work space for one stretch of a head */
#define WIN_SIZE 8192     /* the next power of two behind that and a carried line */
#define WINDOW_FIRST 512  /* read at first: most heads are shorter */
#define WINDOW_READ 2048  /* read at once, at most */
#define CARRY_MAX 2048    /* unfinished line that is kept */
#define TAIL 16           /* of a longer line */
#define KNOWN_ROUTES 64   /* a power of 2 */
#define MAX_TURNS 65536   /* lines, chunks and messages handled in one call */
#define FIRST_SERVICE (1 << 20)
#define NOWHERE (~0ULL)
#define ORIGIN (1ULL << 32) /* position of the first byte seen, so that earlier ones are positive too */

enum phase {
	PHASE_HEAD,       /* next: start of a message, or of the part of its head not yet read */
	PHASE_BODY,       /* next: end of the body */
	PHASE_CHUNK,      /* next: a chunk's size line */
	PHASE_TRAILER,    /* next: a trailer line */
	PHASE_UNTIL_CLOSE /* next: nowhere */
};

enum mode {
	MODE_NEXT,  /* find out what comes */
	MODE_FILL,  /* read a stretch of a head */
	MODE_LINES, /* take its lines */
	MODE_LEAVING, /* end what is outstanding */
};

enum kind {
	KIND_SEEK,  /* not known to be HTTP (yet, or any more) */
	KIND_OTHER, /* given up for good, or its plaintext is followed elsewhere */
	KIND_TLS,   /* carries TLS records, and whose they are is not known yet */
	KIND_HTTP,
};

enum { HALF_REQUEST = 0, HALF_RESPONSE = 1 };
enum { SENT = 0, RECEIVED = 1 }; /* which way a call moved bytes */

struct half {
	u64 pos;        /* position that `seq` stands for, the furthest seen */
	u64 next;
	u64 body_start; /* position of the body's first byte */
	u64 body;       /* chunked: decoded bytes so far */
	u64 chunk;      /* chunked: size read so far on this size line */
	u64 begin_ns;   /* when the first byte of the head was seen; 0: no head begun */
	u32 seq;
	u8 phase;
	u8 line;    /* chunked: where in a line */
	u8 carried; /* a `carry` entry holds the beginning of this head */
	u8 pad;
};

struct held { /* a request that waits for its response */
	struct exchange_short e;
	u8 is_head;
	u8 is_connect;
	u8 has_long_text;
	u8 pad[5];
};

struct conn {
	u64 sk;  /* its key: the socket, of a TLS connection's plaintext with bit 0 set */
	u64 ssl; /* of TLS records: whose they are; while KIND_TLS, what a first sign says */
	u64 go_http; /* Go: the net/http.conn that serves it; bit 0: of 1.22 */
	struct half half[2];
	u64 resp_first_ns;
	u64 response_bytes;
	u32 begun;    /* requests begun: only the request half writes it */
	u32 answered; /* responses ended: only the response half writes it */
	u32 slot_of;  /* number of the request in `slot`, plus 1; 0: free */
	u16 status;
	u8 kind;
	u8 direction;
	u8 misses;
	u8 last_way;
	u8 peer_closed;
	u8 response_begun; /* a final response head was read */
	u8 response_chunked;
	u8 upgrade;
	u8 ended_by; /* outcome + 1: the connection is over, and what came before is not all read */
	u8 tls; /* carries TLS records: the plaintext may have a connection of its own */
	u32 tgid; /* process that read here last, and its service */
	u32 svc;
	struct held slot;
};

struct message_key {
	u64 sk;
	u32 number;
	u32 half;
};

struct long_text {
	u8 text[TEXT_LONG];
};

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
	u8 pad[3];
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
	u32 other;   /* TLS: as seq, of the other way */
};

/* Where read_bytes() is, over several segments. */
struct gather {
	struct iovec v;
	u64 skip; /* bytes still to leave out */
	u32 at;   /* where in win the next ones go */
	u32 end;
};

/* Where route_hash() is. Not on the stack, which the verifier follows value by value: it would walk each turn. */
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
	u32 mode, leaving_to; /* enum mode; enum kind */
	u32 slot; /* which scratch this is */
	u32 busy; /* uprobes may be preempted: one is at work here */
	struct route route;
	struct known_route routes[KNOWN_ROUTES];
	struct gather gather;
	struct event event;
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
