# SPDX-License-Identifier: Apache-2.0
"""The contract of probes/include/abi.h as NumPy dtypes and enums.

In: nothing. Out: what every stage reads the kernel's bytes with. The one rule: a dtype has exactly the size, the
names and the offsets of its C struct, and is little-endian whatever the machine; tests/test_abi.py compares each
with the BTF of the built objects. Times are nanoseconds of CLOCK_MONOTONIC; addresses 16 bytes in network order.
"""

from __future__ import annotations

from enum import IntEnum, IntFlag
from typing import Any

import numpy as np

TEXT_SHORT = 240
TEXT_LONG = 2048
TARGET_MAX = 1472
METHOD_MAX = 32
HOST_MAX = 128
AGENT_MAX = 128
STATE_MAX = 256
FRAME_KEPT = 65536
SETTINGS_KEPT = 240
IN_PREFIX = 0xFFFF_FFFF  # of data_frame: inside of a message's prefix
DURATION_BOUNDS = 256
DURATION_BUCKETS = 264
SIZE_BOUNDS = 96
SIZE_BUCKETS = 104
KNOWN_METHODS = 32

UNUSED_BOUND = 0xFFFF_FFFF_FFFF_FFFF  # what unused places at the end of settings.*_bounds hold
FIRST_KERNEL_SVC = 1 << 20  # the kernel numbers services from here up; Python has 1 .. FIRST_KERNEL_SVC - 1


class Direction(IntEnum):
    UNKNOWN = 0
    SERVER = 1
    CLIENT = 2


class Protocol(IntEnum):
    UNKNOWN = 0
    HTTP_1_0 = 1
    HTTP_1_1 = 2
    HTTP_2 = 3  # this and those below are made by Python
    GRPC = 4  # status: 1000 + grpc-status; below: the HTTP status of a call without one


class Outcome(IntEnum):
    """How an exchange ended; all but COMPLETE leave the response partial or missing."""

    COMPLETE = 0
    PEER_CLOSED = 1
    RESET = 2
    LOCAL_CLOSED = 3
    UNREADABLE = 4


class Verdict(IntEnum):
    UNDECIDED = 0
    WATCH = 1
    IGNORE = 2


class EventKind(IntEnum):
    NONE = 0
    EXEC = 1
    FORK = 2
    EXIT = 3
    LISTEN = 4
    SEEN = 5
    TLS = 6
    ROUTE = 7
    BORN = 8
    STACK = 9


class Loss(IntEnum):
    """Why something was not recorded; telemetry.SENTENCES has one sentence for each."""

    NONE = 0
    RING_FULL = 1
    RED_FULL = 2
    CONNECTIONS_FULL = 3
    PIPELINE_FULL = 4
    UNREADABLE = 5
    GAP = 6
    MALFORMED = 7
    EVENT_FULL = 8
    PROCESSES_FULL = 9
    RETURN_MISSED = 10
    SERIES_FOLDED = 11
    UNANSWERED_RESPONSE = 12
    TLS_UNLINKED = 13
    TLS_AMBIGUOUS = 14
    FRAMES_FULL = 15
    TLS_PREEMPTED = 16
    MAX = 17


class TlsCall(IntEnum):
    """A TLS library's function, by its arguments and result; | RETURN at its return. The cookie of a uprobe."""

    READ = 1
    READ_EX = 2
    WRITE = 3
    WRITE_EX = 4
    WRITE_EX2 = 5
    SENDFILE = 6
    OTHER = 7
    FREE = 8
    GO_READ = 9
    GO_WRITE = 10
    GO_SERVE = 11
    GO_ROUTER = 12
    PEER = 13
    GO_ASK = 14
    GO_BORN = 15
    RETURN = 64
    MAYBE = 128


class Flag(IntFlag):
    """exchange.flags"""

    FIRST = 1
    TARGET_CUT = 2
    TRACEPARENT = 4
    CHUNKED_REQUEST = 8
    CHUNKED_RESPONSE = 16
    UPGRADE = 32
    SAMPLED = 64
    FOLDED = 128
    IPV6 = 256
    SERVER_NAME = 512
    DECIDED = 1024


class Rule(IntEnum):
    """What chose an exchange's parent."""

    NONE = 0
    HEADER = 1
    JOINED = 2
    AMBIGUOUS = 3
    THREAD = 4
    GOROUTINE = 5
    UPSTREAM = 6


class FramesKind(IntEnum):
    """What a record of the `frames` ring is."""

    NONE = 0
    BEGIN = 1
    BYTES = 2
    END = 3
    UPGRADE = 4


class FramesFlag(IntFlag):
    """frames.flags"""

    JOINED = 1
    GAP = 2
    TLS = 4


class Sampler(IntEnum):
    ALWAYS_ON = 0
    ALWAYS_OFF = 1
    RATIO = 2


def _struct(*fields: tuple[Any, ...]) -> np.dtype[np.void]:
    return np.dtype(list(fields))


RED_KEY = _struct(
    ("route", "<u8"),
    ("svc", "<u4"),
    ("peer", "<u4"),
    ("status", "<u2"),
    ("method", "u1"),
    ("protocol", "u1"),
    ("direction", "u1"),
    ("outcome", "u1"),
    ("tls", "u1"),
    ("pad", "u1"),
)

RED = _struct(
    ("count", "<u8"),
    ("sum_ns", "<u8"),
    ("request_bytes", "<u8"),
    ("response_bytes", "<u8"),
    ("sampled_out", "<u8"),
    ("learned", "<u4"),
    ("likely_size", "<u2"),
    ("likely_duration", "<u2"),
    ("duration", "<u4", (DURATION_BUCKETS,)),
    ("request_size", "<u4", (SIZE_BUCKETS,)),
    ("response_size", "<u4", (SIZE_BUCKETS,)),
)

EXCHANGE = _struct(
    ("key", RED_KEY),
    ("start_ns", "<u8"),
    ("first_ns", "<u8"),
    ("end_ns", "<u8"),
    ("request_bytes", "<u8"),
    ("response_bytes", "<u8"),
    ("connection", "<u8"),
    ("trace_id", "u1", (16,)),
    ("span_id", "u1", (8,)),
    ("parent_id", "u1", (8,)),
    ("local_addr", "u1", (16,)),
    ("remote_addr", "u1", (16,)),
    ("local_port", "<u2"),
    ("remote_port", "<u2"),
    ("request_seq", "<u4"),
    ("tgid", "<u4"),
    ("tid", "<u4"),
    ("target_full", "<u4"),
    ("request_messages", "<u4"),
    ("response_messages", "<u4"),
    ("flags", "<u2"),
    ("target_len", "<u2"),
    ("method_len", "u1"),
    ("host_len", "u1"),
    ("agent_len", "u1"),
    ("trace_flags", "u1"),
    ("state_len", "<u2"),
    ("text_len", "<u2"),
    ("host_off", "<u2"),
    ("agent_off", "<u2"),
    ("state_off", "<u2"),
    ("tls_version", "<u2"),
    ("rule", "<u2"),
    ("pad", "<u2", (3,)),
)

EXCHANGE_SHORT = _struct(("x", EXCHANGE), ("text", "u1", (TEXT_SHORT,)))
EXCHANGE_LONG = _struct(("x", EXCHANGE), ("text", "u1", (TEXT_LONG,)))

# Of variable size in the ring: this and `len` bytes.
FRAMES = _struct(
    ("connection", "<u8"),
    ("time_ns", "<u8"),
    ("number", "<u4"),
    ("svc", "<u4"),
    ("tgid", "<u4"),
    ("tid", "<u4"),
    ("len", "<u2"),
    ("rest", "<u2"),
    ("kind", "u1"),
    ("flags", "u1"),
    ("half", "u1"),
    ("direction", "u1"),
    ("outcome", "u1"),
    ("pad", "u1", (7,)),
)

ENDPOINTS = _struct(
    ("local_addr", "u1", (16,)),
    ("remote_addr", "u1", (16,)),
    ("local_port", "<u2"),
    ("remote_port", "<u2"),
    ("flags", "<u2"),
    ("tls_version", "<u2"),
)

DATA_FRAME = _struct(("before", "<u4"), ("after", "<u4"), ("messages", "<u2"), ("unknown", "u1"), ("padding", "u1"))

EVENT = _struct(
    ("time_ns", "<u8"),
    ("cgroup_id", "<u8"),
    ("route", "<u8"),
    ("kind", "<u4"),
    ("tgid", "<u4"),
    ("parent_tgid", "<u4"),
    ("svc", "<u4"),
    ("port", "<u4"),
    ("pad", "<u4"),
    ("comm", "S16"),
    ("filename", "S128"),
)

PROCESS = _struct(("svc", "<u4"), ("verdict", "<u4"))

LOSS_KEY = _struct(("svc", "<u4"), ("reason", "<u4"))

SETTINGS = _struct(
    ("ratio_bound", "<u8"),
    ("slow_ns", "<u8"),
    ("sampler", "<u4"),
    ("parent_based", "<u4"),
    ("keep_errors", "<u4"),
    ("default_verdict", "<u4"),
    ("service_keys", "<u4"),
    ("total_keys", "<u4"),
    ("self_tgid", "<u4"),
    ("spans", "<u4"),
    ("direct_loads", "<u4"),
    ("tick_ns", "<u4"),
    ("methods", "S8", (KNOWN_METHODS,)),
    ("duration_bounds", "<u8", (DURATION_BOUNDS,)),
    ("size_bounds", "<u8", (SIZE_BOUNDS,)),
)
