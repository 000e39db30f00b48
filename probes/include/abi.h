/* SPDX-License-Identifier: (Apache-2.0 OR GPL-2.0-only) */
/*
 * The only contract between the kernel side and Python (instrumenter/bpf/abi.py).
 *
 * Every struct here is fixed-size, explicitly padded and read by Python as a NumPy structured dtype;
 * tests/test_abi.py compares each dtype with the BTF of the built object, field by field.
 * Times are nanoseconds of CLOCK_MONOTONIC. Addresses are 16 bytes in network order, an IPv4 address as
 * IPv4-mapped IPv6 (RFC 4291, 2.5.5.2). Ports are in host order.
 */
#ifndef STINGLESS_ABI_H
#define STINGLESS_ABI_H

#define TEXT_SHORT 240   /* bytes of text in an exchange of the `exchanges` ring */
#define TEXT_LONG 2048   /* bytes of text in an exchange of the `long_exchanges` ring */
#define TARGET_MAX 1472  /* bytes of the request target that are kept */
#define METHOD_MAX 32    /* bytes of the method that are kept */
#define HOST_MAX 128     /* bytes of the Host header that are kept */
#define AGENT_MAX 128    /* bytes of the User-Agent header that are kept */
#define STATE_MAX 256    /* bytes of the tracestate header that are kept */

#define DURATION_BOUNDS 256  /* upper bounds, inclusive; bucket i is the first with value <= bound[i] */
#define DURATION_BUCKETS 264 /* DURATION_BOUNDS + overflow, padded to a multiple of 8 */
#define SIZE_BOUNDS 96
#define SIZE_BUCKETS 104
#define KNOWN_METHODS 32     /* places in the table of methods that metrics name */

#include "abi_frames.h"
#include "abi_go.h"
#include "abi_parents.h"
#include "abi_tls.h"

enum direction {
	DIRECTION_UNKNOWN = 0,
	DIRECTION_SERVER = 1, /* the watched process received the request */
	DIRECTION_CLIENT = 2, /* the watched process sent the request */
};

enum protocol {
	PROTOCOL_UNKNOWN = 0,
	PROTOCOL_HTTP_1_0 = 1,
	PROTOCOL_HTTP_1_1 = 2,
	PROTOCOL_HTTP_2 = 3, /* this and those below: made by Python, of what the `frames` ring holds */
	PROTOCOL_GRPC = 4,   /* status: 1000 + grpc-status; below: the HTTP status of a call without one */
};

/* How an exchange ended. Everything but COMPLETE leaves the response partial or missing. */
enum outcome {
	OUTCOME_COMPLETE = 0,
	OUTCOME_PEER_CLOSED = 1,  /* the other end hung up (FIN) before the response was whole */
	OUTCOME_RESET = 2,        /* the connection was reset (RST) or timed out */
	OUTCOME_LOCAL_CLOSED = 3, /* the watched process closed before the response was whole */
	OUTCOME_UNREADABLE = 4,   /* the response's head could not be read, so its status is unknown */
};

enum verdict {
	VERDICT_UNDECIDED = 0, /* traced until Python decides, so that no first request is missed */
	VERDICT_WATCH = 1,
	VERDICT_IGNORE = 2,
};

enum event_kind {
	EVENT_NONE = 0,
	EVENT_EXEC = 1,   /* a process image began: `svc` is new */
	EVENT_FORK = 2,   /* a process was born: `svc` is its parent's */
	EVENT_EXIT = 3,   /* the last thread of a process ended */
	EVENT_LISTEN = 4, /* a process began to listen on `port` */
	EVENT_SEEN = 5,   /* a process that was running before was first seen on a socket: `svc` is new */
	EVENT_TLS = 6,    /* a process has a connection with TLS records, and no probe knows its plaintext (yet) */
	EVENT_ROUTE = 7,  /* a pattern that a program registered, and the hash that stands for it in red_key.route */
	EVENT_BORN = 8,   /* a Go server sends requests in goroutines of which nothing is known: who begins them is to be seen */
	EVENT_STACK = 9,  /* a goroutine's stack that nobody has judged yet: go_stacks has it, under `route` */
};

/* Why something was not recorded; instrumenter/telemetry.py has one sentence for each. */
enum loss {
	LOSS_NONE = 0,
	LOSS_RING_FULL = 1,        /* an exchange was counted but its record found no room in the ring */
	LOSS_RED_FULL = 2,         /* an exchange found no room in the metric map, not even under `other` */
	LOSS_CONNECTIONS_FULL = 3, /* a connection could not be tracked: the map of connections is full */
	LOSS_PIPELINE_FULL = 4,    /* a pipelined request could not be held: the map of requests is full */
	LOSS_UNREADABLE = 5,       /* the bytes of a message's head could not be read from memory */
	LOSS_GAP = 6,              /* bytes passed unseen where a message's head was expected */
	LOSS_MALFORMED = 7,        /* bytes on an HTTP connection that are not HTTP */
	LOSS_EVENT_FULL = 8,       /* a process event found no room in the ring */
	LOSS_PROCESSES_FULL = 9,   /* a process could not be tracked: the map of processes is full */
	LOSS_RETURN_MISSED = 10,   /* a return probe did not fire */
	LOSS_SERIES_FOLDED = 11,   /* not a loss: an exchange counted under `other`, its service has too many keys */
	LOSS_UNANSWERED_RESPONSE = 12, /* a response whose request was not seen (attached mid-exchange) */
	LOSS_TLS_UNLINKED = 13,  /* plaintext of a TLS connection was seen, but not on which socket */
	LOSS_TLS_AMBIGUOUS = 14, /* signs of two TLS objects for one socket: neither was believed */
	LOSS_FRAMES_FULL = 15,     /* frames of an HTTP/2 connection found no room in the ring */
	LOSS_TLS_PREEMPTED = 16,   /* plaintext of a TLS connection passed while all work space of its CPU was in use */
	LOSS_MAX = 17,
};

/* exchange.flags */
enum exchange_flag {
	FLAG_FIRST = 1,            /* the first exchange of its metric key on this CPU: teaches the labels */
	FLAG_TARGET_CUT = 2,       /* the target was longer than what is kept */
	FLAG_TRACEPARENT = 4,      /* trace_id, parent_id and trace_flags come from a `traceparent` header */
	FLAG_CHUNKED_REQUEST = 8,
	FLAG_CHUNKED_RESPONSE = 16,
	FLAG_UPGRADE = 32,         /* the connection left HTTP after this exchange (101, CONNECT) */
	FLAG_SAMPLED = 64,         /* chosen by the sampler; unset: kept for its error, slowness or novelty */
	FLAG_FOLDED = 128,         /* counted under its service's `other` key */
	FLAG_IPV6 = 256,           /* the socket's family is AF_INET6 */
	FLAG_SERVER_NAME = 512,    /* the request named no host: in its place stands TLS's server name (SNI) */
	FLAG_DECIDED = 1024,       /* trace_flags are of a `traceparent` that came in further up the trace */
};

/* What metrics are counted by. route: hash of the templated path, 0 for `other`; peer: hash of Host (client only). */
struct red_key {
	unsigned long long route;
	unsigned int svc;
	unsigned int peer;
	unsigned short status; /* 0: no response was seen */
	unsigned char method;  /* place in settings.methods, from 1; 0: any other method */
	unsigned char protocol;
	unsigned char direction;
	unsigned char outcome;
	unsigned char tls;
	unsigned char pad;
};

/* One CPU's counts under a red_key; never reset, so a reader loses nothing. u32 buckets wrap: read deltas modulo 2^32. */
struct red {
	unsigned long long count;
	unsigned long long sum_ns;
	unsigned long long request_bytes;
	unsigned long long response_bytes;
	unsigned long long sampled_out;
	unsigned int learned; /* 1 once an exchange under this key went up on this CPU */
	unsigned short likely_size; /* buckets of the last exchange: the next one's are mostly the same or near */
	unsigned short likely_duration;
	unsigned int duration[DURATION_BUCKETS];
	unsigned int request_size[SIZE_BUCKETS];
	unsigned int response_size[SIZE_BUCKETS];
};

/*
 * A finished exchange, followed in the ring by its text: the method (method_len bytes), at once behind it the target
 * (target_len), then, where their offsets into the text say, in the order they arrived in: Host (host_off, host_len),
 * User-Agent (agent_off, agent_len), tracestate (state_off, state_len). A length of 0 means absent.
 */
struct exchange {
	struct red_key key;
	unsigned long long start_ns; /* request's first byte: read by a server, written by a client */
	unsigned long long first_ns; /* response's first byte; 0 if none */
	unsigned long long end_ns;   /* response's last byte, or the end of the connection */
	unsigned long long request_bytes;  /* body, decoded length of chunks */
	unsigned long long response_bytes; /* body */
	unsigned long long connection;     /* the socket, unique while it lives */
	unsigned char trace_id[16];
	unsigned char span_id[8];
	unsigned char parent_id[8]; /* zero: none */
	unsigned char local_addr[16];
	unsigned char remote_addr[16];
	unsigned short local_port;
	unsigned short remote_port;
	unsigned int request_seq;   /* TCP sequence number of the request's first byte */
	unsigned int tgid;          /* process that received or sent the request */
	unsigned int tid;
	unsigned int target_full;   /* length of the target on the wire */
	unsigned int request_messages;  /* of gRPC, plus 1; 0: not counted */
	unsigned int response_messages;
	unsigned short flags;       /* enum exchange_flag */
	unsigned short target_len;
	unsigned char method_len;
	unsigned char host_len;
	unsigned char agent_len;
	unsigned char trace_flags;  /* of traceparent, or 1 if sampled here */
	unsigned short state_len;
	unsigned short text_len;    /* bytes of text in all */
	unsigned short host_off;
	unsigned short agent_off;
	unsigned short state_off;
	unsigned short tls_version; /* as the server chose it: 0x0304 is TLS 1.3; 0: not seen */
	unsigned short rule;        /* enum parent_rule */
	unsigned short pad[3];
};

/* What goes through the rings: the header and room for text, always the whole struct. */
struct exchange_short {
	struct exchange x;
	unsigned char text[TEXT_SHORT];
};

struct exchange_long {
	struct exchange x;
	unsigned char text[TEXT_LONG];
};

/* Life of processes, through the `events` ring. */
struct event {
	unsigned long long time_ns;
	unsigned long long cgroup_id;
	unsigned long long route; /* ROUTE: its hash; STACK: likewise */
	unsigned int kind; /* enum event_kind */
	unsigned int tgid;
	unsigned int parent_tgid;
	unsigned int svc;
	unsigned int port;
	unsigned int pad;
	char comm[16];
	char filename[128]; /* EXEC: the executable as given to execve, cut; ROUTE: the pattern */
};

/* procs: tgid -> this. Python sets the verdict; the kernel makes the entry. */
struct process {
	unsigned int svc;     /* one number per executed image and its forks; never used twice */
	unsigned int verdict; /* enum verdict */
};

struct loss_key {
	unsigned int svc; /* 0: no service known */
	unsigned int reason;
};

enum sampler {
	SAMPLER_ALWAYS_ON = 0,
	SAMPLER_ALWAYS_OFF = 1,
	SAMPLER_RATIO = 2,
};

/* Fixed before load (read-only data). */
struct settings {
	unsigned long long ratio_bound; /* RATIO: sampled if the last 8 bytes of the trace id, big-endian, are below */
	unsigned long long slow_ns;     /* keep everything that took at least this; 0: off */
	unsigned int sampler;           /* enum sampler, for roots */
	unsigned int parent_based;      /* 1: an incoming traceparent's sampled flag decides */
	unsigned int keep_errors;       /* 1: keep failed exchanges whatever the sampler says */
	unsigned int default_verdict;   /* enum verdict of a process nobody decided on */
	unsigned int service_keys;      /* metric keys per service before `other` */
	unsigned int total_keys;        /* metric keys in all before `other` */
	unsigned int self_tgid;         /* the agent: never watched */
	unsigned int spans;             /* 0: metrics only; then only first exchanges go up */
	unsigned int direct_loads;      /* 1: the kernel has bpf_rdonly_cast */
	unsigned int tick_ns;           /* what one of the kernel's jiffies lasts */
	unsigned char methods[KNOWN_METHODS][8]; /* zero-padded tokens; place i+1 is red_key.method */
	unsigned long long duration_bounds[DURATION_BOUNDS]; /* ns; unused ones at the end are ~0 */
	unsigned long long size_bounds[SIZE_BOUNDS];         /* bytes; likewise */
};

#endif
