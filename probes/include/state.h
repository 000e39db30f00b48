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
#define CARRY_HERE 8      /* bytes of a head that a half has room for itself; Go's net/http reads ahead just one */
#define CARRIED_APART 255
#define KNOWN_ROUTES 64   /* a power of 2 */
#define FRAME_HEAD 9
#define MESSAGE_PREFIX 5
#define FRAMES_ROOM 2048 /* bytes of frames in one record */
#define FRAME_LEAST 24   /* of which a frame takes at once at most so many */
#define MAX_TURNS 65536   /* lines, chunks and messages handled in one call */
#define FIRST_SERVICE (1 << 20)
#define KNOWN_PROCESSES 16384 /* a power of 2 */
#define NOT_KNOWN (1ULL << 63)
#define NEAR_CONNS 4096 /* a power of 2 */
#define BEING_MADE 2ULL /* with a key, which has this bit 0: not to be found yet */
#define MAKING_TURNS 4096
#define NOWHERE (~0ULL)
#define ORIGIN (1ULL << 32) /* position of the first byte seen, so that earlier ones are positive too */

enum phase {
	PHASE_HEAD,       /* next: start of a message, or of the part of its head not yet read */
	PHASE_BODY,       /* next: end of the body */
	PHASE_CHUNK,      /* next: a chunk's size line */
	PHASE_TRAILER,    /* next: a trailer line */
	PHASE_UNTIL_CLOSE, /* next: nowhere */
	PHASE_FRAME, /* HTTP/2. next: a frame's head, or the rest of it */
	PHASE_KEEP,  /* next: of a payload, what is to be copied */
	PHASE_DATA,  /* next: of a DATA frame, what may be a gRPC message; or the frame's end */
	PHASE_FIRST, /* next: nowhere yet. The next call begins with a frame */
	PHASE_LOST,  /* next: nowhere. Where a frame begins is not known any more */
};

enum mode {
	MODE_NEXT,  /* find out what comes */
	MODE_FILL,  /* read a stretch of a head */
	MODE_LINES, /* take its lines */
	MODE_LEAVING, /* end what is outstanding */
	MODE_OVER,  /* the rest of the call is not HTTP/1 */
};

enum kind {
	KIND_SEEK,  /* not known to be HTTP (yet, or any more) */
	KIND_OTHER, /* given up for good, or its plaintext is followed elsewhere */
	KIND_TLS,   /* carries TLS records, and whose they are is not known yet */
	KIND_TIED,  /* as OTHER; but not both hellos have passed */
	KIND_HTTP,
	KIND_HTTP2,
};

enum writing { /* what is written is taken before it is on the socket: Go's crypto/tls */
	NOT_WRITING,
	WRITING, /* it is being taken */
	WRITTEN, /* a response ended in it, which is over when its records are sent */
};

enum { HALF_REQUEST = 0, HALF_RESPONSE = 1 };
enum { SENT = 0, RECEIVED = 1 }; /* which way a call moved bytes */

struct half {
	u64 pos;        /* position that `seq` stands for, the furthest seen */
	u64 next;
	union {
		u64 body_start; /* position of the body's first byte */
		u64 frame_end;  /* HTTP/2: position behind the frame at hand */
	};
	union {
		u64 body;    /* chunked: decoded bytes so far */
		struct {     /* HTTP/2: the gRPC message that a DATA frame ended in */
			u32 message_stream;
			u32 message_left; /* or, while its prefix is read, what was read of it */
		};
	};
	union {
		u64 chunk;   /* chunked: size read so far on this size line */
		u64 first_bytes; /* of a head, before its first line is whole */
		struct {     /* HTTP/2: the DATA frame at hand, as in struct data_frame */
			u32 before;
			u16 messages;
			u8 unknown;
			u8 padding;
		};
	};
	union {
		u64 begin_ns; /* when the first byte of the head was seen; 0: no head begun */
		u64 frame;    /* HTTP/2: a frame's head as far as it was read, without its first byte */
	};
	u32 seq;
	u8 phase;
	u8 line;    /* chunked: where in a line; HTTP/2: bytes of the frame's head that were read */
	u8 carried; /* of this head: so many bytes are in `first_bytes`; or CARRIED_APART, a `carry` entry has its beginning */
	u8 gap;     /* HTTP/2: frames passed unseen since the last record */
	u32 records; /* HTTP/2: of this half, so far */
	u32 keep : 24;  /* HTTP/2: bytes of the payload still to be copied */
	u32 prefix : 8; /* HTTP/2: bytes of a gRPC message's prefix that were read; 0 too if all were */
};

struct held { /* a request that waits for its response */
	struct exchange_short e;
	u8 is_head;
	u8 is_connect;
	u8 has_long_text;
	u8 pad[5];
};

enum caller_flag { /* of a process */
	CALLS = 1,      /* it has sent a request */
	ANSWERS = 2,    /* threads have answered what they read, ENOUGH_ANSWERS times */
	HANDS_OVER = 4, /* another thread has */
	SHARES = 8,     /* a thread that began for a connection has read another one's request */
	PROXIES = 16,   /* it says for which request it takes a connection (upstream.h) */
};

#define ONE_ANSWER 256 /* above the flags they are counted */
#define ENOUGH_ANSWERS 8

enum cause_kind {
	CAUSE_THREAD,
	CAUSE_GOROUTINE,
	CAUSE_CONNECTION, /* who: the socket of a client, for its next request */
};

struct cause_key {
	u64 who;
	u32 tgid;
	u32 kind;
};

enum cause_flag {
	CAUSE_SEVERAL = 1, /* when it was read another one was open: which is worked for is not known */
	CAUSE_SERVES = 2,  /* a goroutine serves that connection: it works for the exchange in hand there, whichever */
	CAUSE_BORN = 4,    /* a goroutine was begun by one that worked for it */
};

struct cause { /* a server's exchange */
	u64 sk;
	u64 span;
	u32 number;
	u32 flags;
};

struct conn {
	u64 sk;  /* its key: the socket, of a TLS connection's plaintext with bit 0 set */
	u64 ssl; /* of TLS records: whose they are; while KIND_TLS, what a first sign says */
	u64 go_http; /* Go: the net/http.conn that serves it; in its lowest bits enum go_serve */
	u64 goroutine; /* in which it does */
	u64 goid; /* its number; 0: not known */
	struct cause asked; /* Go: what the client's next request is for; sk 0: nothing */
	u64 written_ns; /* WRITTEN: when the response ended */
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
	u8 told;     /* HTTP/2: its BEGIN is in the ring */
	u8 hello;    /* of TLS records: which first messages have passed (hello.h) */
	u8 name_len; /* of TLS records: of the server's name, which is in the slot's text */
	u8 writing;  /* enum writing */
	u8 pipelined; /* a request has come before the one before it was answered */
	u8 awaited;   /* of TLS records: a response is being sent in them */
	u32 awaited_seq; /* TCP sequence number behind its last byte */
	u32 tgid; /* process that read here last, and its service */
	u32 svc;
	u16 tls_version; /* of TLS records: the chosen one; 0: not seen */
	u32 ahead; /* by so much are the partner's requests numbered higher */
	u64 partner; /* of a server: the watched client's end of the same connection, as it was found; 0: none */
	u32 caller_tgid; /* what was known of this process at that change (cause.h) */
	u32 caller_changed;
	u32 caller; /* enum caller_flag */
	u32 thread; /* that began for this connection and read its first bytes; 0: none */
	struct held slot;
};

struct message_key {
	u64 sk;
	u32 number;
	u32 half;
};

/* A connection, of which both ends may be on this node. */
struct pair_key {
	u8 client_addr[16];
	u8 server_addr[16];
	u64 net; /* of loopback addresses, which each network namespace has: which one */
	u16 client_port;
	u16 server_port;
	u32 pad;
};

struct pair { /* sockets; 0: not seen (yet) */
	u64 client;
	u64 server;
};

struct long_text {
	u8 text[TEXT_LONG];
};

#endif
