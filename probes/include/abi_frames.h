/* SPDX-License-Identifier: (Apache-2.0 OR GPL-2.0-only) */
/* The part of abi.h that is about HTTP/2. */
#ifndef STINGLESS_ABI_FRAMES_H
#define STINGLESS_ABI_FRAMES_H

/* What a record of the `frames` ring is. */
enum frames_kind {
	FRAMES_NONE = 0,
	FRAMES_BEGIN = 1,  /* a connection speaks HTTP/2 from here on: struct endpoints and TLS's server name follow */
	FRAMES_BYTES = 2,  /* of one half, in order */
	FRAMES_END = 3,    /* the connection is over, as `outcome` says */
	FRAMES_UPGRADE = 4, /* the HTTP/1.1 request that became stream 1: struct exchange and its text follow */
};

enum frames_flag {
	FRAMES_JOINED = 1, /* BEGIN: the connection's beginning was not seen */
	FRAMES_GAP = 2,    /* BYTES: frames of this half passed unseen before it */
	FRAMES_TLS = 4,
};

/*
 * HTTP/2 (RFC 9113) as far as Python wants it, through the `frames` ring: records of variable size, each this header and
 * `len` bytes. BYTES: frames one behind the other, cut anywhere; of each its head (9 bytes) and then
 *   HEADERS, PUSH_PROMISE, CONTINUATION: the TCP sequence number of its first byte (4 bytes, little-endian), the payload
 *     up to FRAME_KEPT bytes;
 *   SETTINGS: the payload up to SETTINGS_KEPT bytes; RST_STREAM, GOAWAY: 4 and 8 bytes of it;
 *   DATA: struct data_frame, when its last byte has passed.
 * Other frames, and acknowledgements, are left out.
 */
#define FRAME_KEPT 65536
#define SETTINGS_KEPT 240

struct frames {
	unsigned long long connection; /* the socket, unique while it lives */
	unsigned long long time_ns;
	unsigned int number; /* of this half's BYTES records; one that is wanting was lost */
	unsigned int svc;
	unsigned int tgid;
	unsigned int tid;
	unsigned short len;
	unsigned short rest; /* BYTES: so many of them belong to a frame that began in an earlier record */
	unsigned char kind;  /* enum frames_kind */
	unsigned char flags; /* enum frames_flag */
	unsigned char half;  /* 0: of requests */
	unsigned char direction;
	unsigned char outcome;
	unsigned char pad[7];
};

struct endpoints {
	unsigned char local_addr[16];
	unsigned char remote_addr[16];
	unsigned short local_port;
	unsigned short remote_port;
	unsigned short flags; /* enum exchange_flag: FLAG_IPV6 */
	unsigned short tls_version; /* as in struct exchange */
};

#define IN_PREFIX 4294967295U

/* gRPC's messages in a DATA frame, if it is that: each has a prefix, a compressed-flag and a length. */
struct data_frame {
	unsigned int before; /* bytes of the frame that were taken for the rest of a message begun before; IN_PREFIX: it
			      * begins inside of a prefix */
	unsigned int after;  /* bytes of the last message that are still to come; IN_PREFIX: it ends inside of a prefix */
	unsigned short messages; /* whose prefix ends in it */
	unsigned char unknown; /* they could not be followed */
	unsigned char padding; /* pad length, of a PADDED frame */
};

#endif
