# SPDX-License-Identifier: Apache-2.0
"""One HTTP/2 stream from its request to what is said of it: `Stream` while it runs, `Exchange` when it is over.

In: decoded blocks, byte counts, ends. Out: an `Exchange`. The rule: what passed unseen makes a field unknown, never
absent. RFC 9113, 8.1 (a message: interim blocks, a head, DATA, trailers), 8.3 (pseudo-header fields).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, NamedTuple

from instrumenter.bpf.abi import AGENT_MAX, HOST_MAX, IN_PREFIX, METHOD_MAX, STATE_MAX, TARGET_MAX, Direction, Outcome
from instrumenter.protocols.http2_events import Half
from instrumenter.protocols.http2_headers import UNKNOWN, FieldList, Unknown, Value
from instrumenter.protocols.rpc import is_grpc

REQUEST_FIELDS: Final = frozenset((
    b":method", b":scheme", b":authority", b":path", b"host", b"user-agent", b"traceparent", b"tracestate",
    b"content-type",
))  # fmt: skip
RESPONSE_FIELDS: Final = frozenset((b":status", b"content-type", b"grpc-status"))
_SHORT: Final = 128  # bytes kept of what is short if it is anything


class Request(NamedTuple):
    """The request's fields, cut to the lengths of bpf/abi.py. path_full: length on the wire; 0: unknown."""

    method: Value
    scheme: Value
    authority: Value
    path: Value
    path_full: int
    user_agent: Value
    traceparent: Value
    tracestate: Value
    content_type: Value

    @classmethod
    def of(cls, fields: FieldList) -> Request:
        """The same for the same list."""
        if fields.made is None:
            fields.made = cls._of(fields)
        made: Request = fields.made
        return made

    @classmethod
    def _of(cls, fields: FieldList) -> Request:
        get = fields.get
        path, authority = get(b":path"), get(b":authority")
        state = fields.joined(b"tracestate")
        return cls(
            _cut(get(b":method"), METHOD_MAX), _cut(get(b":scheme"), _SHORT),
            _cut(get(b"host") if authority is None else authority, HOST_MAX),
            _cut(path, TARGET_MAX), len(path) if isinstance(path, bytes) else 0,
            _cut(get(b"user-agent"), AGENT_MAX), _cut(get(b"traceparent"), _SHORT),
            None if isinstance(state, bytes) and len(state) > STATE_MAX else state,
            _cut(get(b"content-type"), _SHORT),
        )  # fmt: skip


class Answer(NamedTuple):
    """What is wanted of a response's block, whichever it is."""

    status: int | Unknown | None
    content_type: Value
    grpc_status: Value

    @classmethod
    def of(cls, block: FieldList) -> Answer:
        get = block.get
        return cls(_status(get(b":status")), _cut(get(b"content-type"), _SHORT), _cut(get(b"grpc-status"), _SHORT))


class Framed(NamedTuple):
    """A DATA frame's body, and the gRPC messages in it, if it is that: struct data_frame of probes/include/abi.h."""

    size: int
    before: int
    after: int
    messages: int
    unknown: bool


class Origin(NamedTuple):
    """Where a request was read or written: service number, process, thread, TCP sequence number of its first byte."""

    svc: int
    tgid: int
    tid: int
    seq: int


NOWHERE: Final = Origin(0, 0, 0, 0)


@dataclass(frozen=True, slots=True)
class Exchange:
    """A finished stream. Fields are known, absent (None) or UNKNOWN.

    Times in ns; first_ns 0: the response's head was not seen. partial: bytes passed unseen while it ran, so sizes are
    at least so much. messages: of gRPC; None: not counted. reset_code: RST_STREAM's error code (RFC 9113, 7).
    """

    stream: int
    direction: Direction
    outcome: Outcome
    start_ns: int
    first_ns: int
    end_ns: int
    request: Request
    status: int | Unknown | None
    response_type: Value
    grpc_status: Value
    request_bytes: int
    response_bytes: int
    request_messages: int | None
    response_messages: int | None
    partial: bool
    reset_code: int | None
    origin: Origin = NOWHERE

    @property
    def grpc(self) -> bool | Unknown:
        """Whether it was a gRPC call: as a content type says, the request's first; else by a grpc-status."""
        asked = is_grpc(self.request.content_type)
        if not isinstance(asked, Unknown):
            return asked
        answered = is_grpc(self.response_type)
        if answered is True or (answered is UNKNOWN and isinstance(self.grpc_status, bytes)):
            return True
        return UNKNOWN


@dataclass(slots=True)
class Body:
    """What passed of one half's DATA."""

    size: int = 0
    messages: int | None = 0

    left: int = 0  # of a gRPC message, still to come; IN_PREFIX: its prefix is not whole

    def add_frame(self, framed: Framed) -> None:
        """Whoever walks the frames knows only the last stream's messages; here every stream's are known."""
        self.size += framed.size
        if framed.size <= self.left != IN_PREFIX:  # nothing but the rest of a message
            self.left -= framed.size
        elif framed.unknown or framed.before != self.left or self.messages is None:
            self.messages, self.left = None, 0
        else:
            self.messages += framed.messages
            self.left = framed.after

    def add(self, size: int, messages: int | None) -> None:
        self.size += size
        self.messages = None if messages is None or self.messages is None else self.messages + messages


@dataclass(slots=True)
class Stream:
    """A stream that runs. request_end, response_end: when a half ended; 0: it has not, or nobody saw it."""

    number: int
    start_ns: int
    request: Request
    last_ns: int = 0
    request_end: int = 0
    response_end: int = 0
    first_ns: int = 0
    status: int | Unknown | None = None
    response_type: Value = None
    grpc_status: Value = None
    bodies: tuple[Body, Body] = field(default_factory=lambda: (Body(), Body()))
    request_lost: bool = False  # events of the half were lost while it ran
    response_lost: bool = False
    origin: Origin = NOWHERE

    def miss(self, half: Half) -> None:
        """Events of a half were lost."""
        self.bodies[half].messages = None
        if half is Half.REQUEST:
            self.request_lost = True
            return
        self.response_lost = True
        self.grpc_status = UNKNOWN
        if not self.first_ns:
            self.status = self.response_type = UNKNOWN

    def respond(self, block: FieldList, begin_ns: int, end_stream: bool) -> None:
        """A block of the response: interim, head, trailers, or head and trailers in one (gRPC's trailers-only)."""
        if block.made is None:
            block.made = Answer.of(block)
        answer: Answer = block.made
        status = answer.status
        if isinstance(status, int) and status < 200 and not end_stream:
            return
        if self._is_head(status, end_stream):
            self.status, self.first_ns = status, begin_ns
            self.response_type = answer.content_type
        if answer.grpc_status is not None or (end_stream and isinstance(self.grpc_status, Unknown)):
            self.grpc_status = answer.grpc_status

    def _is_head(self, status: int | Unknown | None, end_stream: bool) -> bool:
        if status is None or isinstance(self.status, int):
            return False
        if isinstance(status, int) or not end_stream:
            return True  # of two blocks that do not end the stream, the first was interim
        return not self.first_ns and not self.response_lost  # else it may be the trailers

    def end(self, half: Half, time_ns: int) -> None:
        if half is Half.REQUEST:
            self.request_end = self.request_end or time_ns
        else:
            self.response_end = self.response_end or time_ns

    @property
    def is_whole(self) -> bool:
        """Its response has ended, and its request, as far as anybody can tell."""
        return bool(self.response_end and (self.request_end or self.request_lost))

    @property
    def is_lost(self) -> bool:
        """Its end may have passed unseen."""
        return self.request_lost or self.response_lost

    @property
    def is_tunnel(self) -> bool:
        """CONNECT was accepted: what follows is no HTTP (RFC 9113, 8.5; RFC 8441)."""
        return self.request.method == b"CONNECT" and isinstance(self.status, int) and self.status < 300

    def finished(self, direction: Direction, outcome: Outcome, end_ns: int, reset_code: int | None) -> Exchange:
        sent, received = self.bodies
        return Exchange(
            self.number, direction, outcome, self.start_ns, self.first_ns, max(end_ns, self.start_ns), self.request,
            self.status, self.response_type, self.grpc_status, sent.size, received.size, sent.messages,
            received.messages, self.is_lost, reset_code, self.origin,
        )  # fmt: skip


def _status(value: Value) -> int | Unknown | None:
    if not isinstance(value, bytes):
        return value
    return int(value) if len(value) == 3 and value.isdigit() else UNKNOWN


def _cut(value: Value, most: int) -> Value:
    return value[:most] if isinstance(value, bytes) else value
