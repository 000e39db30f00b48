# SPDX-License-Identifier: Apache-2.0
"""HTTP/2 connections: events of both halves become one finished exchange for each stream.

In: `Event`s (http2_events.py), each half's in order, with times. Out: `Exchange`s as they finish. The rule: every
request that was seen ends in exactly one exchange, and what is lost on one connection touches no other.

- It is over when both halves have ended (RFC 9113, 8.1), or at RST_STREAM, GOAWAY, or the connection's end. A response
  that was whole is COMPLETE whatever came after it.
- Server push (8.4) and responses whose request was not seen are no exchanges; the latter are counted.
- What is held is bounded: streams of a connection, and connections. What must go ends as UNREADABLE, counted.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, Final

from instrumenter.bpf.abi import Direction, Outcome
from instrumenter.protocols.http2_events import (
    Data,
    Event,
    Gap,
    GoAway,
    Half,
    Headers,
    NotHttp2,
    Promise,
    Reset,
    TableSize,
    Upgrade,
)
from instrumenter.protocols.http2_headers import FieldDecoder, FieldList
from instrumenter.protocols.http2_streams import (
    NOWHERE,
    REQUEST_FIELDS,
    RESPONSE_FIELDS,
    Exchange,
    Framed,
    Origin,
    Request,
    Stream,
)
from instrumenter.protocols.http2_table import Field

MAX_STREAMS: Final = 1024  # of a connection; peers commonly allow each other 100 to 256
MAX_CONNECTIONS: Final = 4096
_RECENT: Final = 256  # streams that ended early and may still be heard of
_REFUSED_STREAM: Final = 0x7


@dataclass(slots=True)
class Counts:
    """What happened on all connections that share it; the same names in instrumenter/telemetry.py."""

    exchanges: int = 0
    unanswered: int = 0  # responses that ended whose request was not seen
    undecodable: int = 0  # blocks that could not be of their half's encoder
    nameless: int = 0  # requests whose method or path is unknown
    gaps: int = 0
    not_http2: int = 0
    streams_evicted: int = 0
    connections_evicted: int = 0
    unfollowed: int = 0  # records of connections that had to go


class Connection:
    """One connection. direction: the watched process's side; joined: its beginning was not seen."""

    def __init__(
        self,
        direction: Direction,
        counts: Counts | None = None,
        *,
        joined: bool = False,
        max_streams: int = MAX_STREAMS,
    ) -> None:
        self.direction = direction
        self.counts = counts if counts is not None else Counts()
        self.is_http2 = True
        self.origin: Origin = NOWHERE  # of what is handed in next
        self._decoders = (
            FieldDecoder(REQUEST_FIELDS, joined=joined), FieldDecoder(RESPONSE_FIELDS, joined=joined),
        )  # fmt: skip
        self._open: dict[int, Stream] = {}  # in the order of their requests
        self._max_streams = max_streams
        self._highest = 0  # the newest request's stream
        self._last_allowed = (1 << 31) - 1  # by the server's GOAWAY
        self._unsure = joined  # requests may have begun unseen
        self._recent: deque[int] = deque(maxlen=_RECENT)
        self._done: list[Exchange] = []

    def __len__(self) -> int:
        """Streams that run."""
        return len(self._open)

    def handle(self, half: Half, event: Event, begin_ns: int, end_ns: int) -> list[Exchange]:
        """begin_ns, end_ns: when the event's first and last byte passed."""
        if self.is_http2:
            _HANDLERS[type(event)](self, half, event, begin_ns, end_ns)
        return self.take()

    def close(self, outcome: Outcome, time_ns: int) -> list[Exchange]:
        """The connection ended as `outcome` says (PEER_CLOSED, RESET, LOCAL_CLOSED)."""
        for stream in list(self._open.values()):
            self._give_up(stream, Outcome.UNREADABLE if stream.is_lost else outcome, time_ns)
        return self.take()

    def expire(self, before_ns: int) -> list[Exchange]:
        """Ends streams whose end may have passed unseen in a gap, and of which nothing was heard since."""
        for stream in list(self._open.values()):
            if stream.is_lost and stream.last_ns < before_ns:
                self._give_up(stream, Outcome.UNREADABLE, stream.last_ns)
        return self.take()

    def take(self) -> list[Exchange]:
        """What has finished since the last time."""
        if not self._done:
            return self._done
        done, self._done = self._done, []
        return done

    def _finish(self, stream: Stream, outcome: Outcome, end_ns: int, reset_code: int | None = None) -> None:
        del self._open[stream.number]
        self.counts.exchanges += 1
        self._done.append(stream.finished(self.direction, outcome, end_ns, reset_code))

    def _complete(self, stream: Stream) -> None:
        self._finish(stream, Outcome.COMPLETE, max(stream.request_end, stream.response_end))

    def _give_up(self, stream: Stream, outcome: Outcome, time_ns: int, reset_code: int | None = None) -> None:
        """It ends without the ends of both halves."""
        if not stream.response_end:
            self._recent.append(stream.number)
            self._finish(stream, outcome, time_ns, reset_code)
        else:  # its request was still on the way, and nobody waits for it any more
            self._finish(stream, Outcome.COMPLETE, stream.response_end, reset_code)

    def _decode(self, half: Half, block: bytes, cut: bool) -> FieldList:
        decoder = self._decoders[half]
        failed = decoder.failed
        fields = decoder.decode(block, cut)
        self.counts.undecodable += decoder.failed - failed
        return fields

    def headers(
        self, half: Half, number: int, block: bytes, end_stream: bool, cut: bool, begin_ns: int, end_ns: int
    ) -> None:
        """As `Headers` says; what came of it is in `take`."""
        fields = self._decode(half, block, cut)
        stream = self._open.get(number)
        if half is Half.REQUEST:
            if stream is None and self._is_request(number, end_stream, fields):
                self._begin(number, Request.of(fields), begin_ns)
        elif stream is not None:
            stream.respond(fields, begin_ns, end_stream)
            if stream.is_tunnel:
                self._recent.append(number)
                self._finish(stream, Outcome.COMPLETE, end_ns)
                return
        self._passed(half, number, end_stream, end_ns)

    def _is_request(self, number: int, end_stream: bool, fields: FieldList) -> bool:
        """Whether a block of a stream that does not run begins one; else it is the trailers of an unseen request."""
        if number % 2 == 0 or number <= self._highest:
            return False
        return not self._unsure or fields.has_pseudo or not end_stream

    def _begin(self, number: int, request: Request, begin_ns: int) -> Stream:
        if len(self._open) >= self._max_streams:
            oldest = next(iter(self._open.values()))
            self.counts.streams_evicted += 1
            self._give_up(oldest, Outcome.UNREADABLE, begin_ns)
        self.counts.nameless += not (isinstance(request.method, bytes) and isinstance(request.path, bytes))
        self._highest = number
        stream = self._open[number] = Stream(number, begin_ns, request, begin_ns, origin=self.origin)
        return stream

    def _passed(self, half: Half, number: int, end_stream: bool, time_ns: int) -> None:
        """Bytes of a stream passed, perhaps its last ones."""
        stream = self._open.get(number)
        if stream is None:
            if end_stream and half is Half.RESPONSE and number % 2 and number not in self._recent:
                self.counts.unanswered += 1
            return
        stream.last_ns = time_ns
        if end_stream:
            stream.end(half, time_ns)
        if stream.is_whole:
            self._complete(stream)
        elif number > self._last_allowed:
            self._give_up(stream, Outcome.RESET, time_ns, _REFUSED_STREAM)

    def data(self, half: Half, number: int, framed: Framed, end_stream: bool, end_ns: int) -> None:
        """A DATA frame, once its last byte has passed."""
        stream = self._open.get(number)
        if stream is not None:
            stream.bodies[half].add_frame(framed)
        self._passed(half, number, end_stream, end_ns)

    def _data(self, half: Half, event: Data, _: int, end_ns: int) -> None:
        stream = self._open.get(event.stream)
        if stream is not None:
            stream.bodies[half].add(event.size, event.messages)
        self._passed(half, event.stream, event.end_stream, end_ns)

    def promise(self, half: Half, block: bytes, cut: bool) -> None:
        """PUSH_PROMISE: its block moves the half's table."""
        self._decode(half, block, cut)

    def reset(self, number: int, code: int, end_ns: int) -> None:
        """RST_STREAM, of either half."""
        stream = self._open.get(number)
        if stream is not None:
            self._give_up(stream, Outcome.RESET, end_ns, code)

    def go_away(self, half: Half, last_stream: int, end_ns: int) -> None:
        """The server will not look at streams above the last (RFC 9113, 6.8); a client's is about pushed ones."""
        if half is Half.REQUEST:
            return
        self._last_allowed = min(self._last_allowed, last_stream)
        for stream in [s for s in self._open.values() if s.number > self._last_allowed]:
            self._give_up(stream, Outcome.RESET, end_ns, _REFUSED_STREAM)

    def table_size(self, half: Half, size: int) -> None:
        """SETTINGS_HEADER_TABLE_SIZE as this half announces it."""
        self._decoders[half.other].limit(size)

    def upgrade(self, request: Request, body: int, begin_ns: int, end_ns: int) -> None:
        """The request that asked for HTTP/2 is stream 1, and is over (RFC 7540, 3.2)."""
        if not self._highest:
            self._begin(1, request, begin_ns).bodies[Half.REQUEST].add(body, 0)
            self._passed(Half.REQUEST, 1, True, end_ns)

    def gap(self, half: Half) -> None:
        """Frames of a half passed unseen, nobody knows which."""
        self.counts.gaps += 1
        self._decoders[half].forget()
        self._unsure |= half is Half.REQUEST
        for stream in list(self._open.values()):
            stream.miss(half)
            if stream.is_whole:
                self._complete(stream)

    def _not_http2(self, _: Half, __: NotHttp2, ___: int, end_ns: int) -> None:
        self.counts.not_http2 += 1
        self.is_http2 = False
        for stream in list(self._open.values()):
            self._give_up(stream, Outcome.UNREADABLE, end_ns)


_HANDLERS: Final[dict[type[Any], Callable[[Connection, Half, Any, int, int], None]]] = {
    Headers: lambda c, half, e, begin, end: c.headers(half, e.stream, e.block, e.end_stream, e.cut, begin, end),
    Data: Connection._data,
    Promise: lambda c, half, e, _, __: c.promise(half, e.block, e.cut),
    Reset: lambda c, _, e, __, end: c.reset(e.stream, e.code, end),
    GoAway: lambda c, half, e, _, end: c.go_away(half, e.last_stream, end),
    TableSize: lambda c, half, e, _, __: c.table_size(half, e.size),
    Upgrade: lambda c, _, e, begin, end: c.upgrade(Request.of(_http1_fields(e.head)), e.body, begin, end),
    Gap: lambda c, half, _, __, ___: c.gap(half),
    NotHttp2: Connection._not_http2,
}


def _http1_fields(head: bytes) -> FieldList:
    """An HTTP/1.1 request's head as HTTP/2 would have it (RFC 9113, 8.3.1)."""
    first, *lines = head.split(b"\r\n")
    method, _, target = first.rpartition(b" ")[0].partition(b" ")
    fields = [Field(b":method", method), Field(b":scheme", b"http"), Field(b":path", target)]
    for line in lines:
        name, colon, value = line.partition(b":")
        if colon and name.lower() in REQUEST_FIELDS:
            fields.append(Field(name.lower(), value.strip(b" \t")))
    return FieldList(tuple(fields), has_pseudo=True)


class Connections:
    """The connections that are followed, by any key; of too many, the one that was quiet the longest goes."""

    def __init__(self, counts: Counts | None = None, max_connections: int = MAX_CONNECTIONS) -> None:
        self.counts = counts if counts is not None else Counts()
        self._max = max_connections
        self._known: OrderedDict[Hashable, Connection] = OrderedDict()

    def __len__(self) -> int:
        return len(self._known)

    def open(self, key: Hashable, direction: Direction, time_ns: int) -> list[Exchange]:
        """A connection of which everything will be told. What is known under the key is of an older one."""
        done = self.close(key, Outcome.UNREADABLE, time_ns)
        return done + self._add(key, Connection(direction, self.counts), time_ns)

    def handle(
        self, key: Hashable, direction: Direction, half: Half, event: Event, begin_ns: int, end_ns: int
    ) -> list[Exchange]:
        """An event of a connection; of one that was not opened, or had to go, as one that is joined now."""
        connection = self._known.get(key)
        done: list[Exchange] = []
        if connection is None:
            connection = Connection(direction, self.counts, joined=True)
            done = self._add(key, connection, end_ns)
        self._known.move_to_end(key)
        return done + connection.handle(half, event, begin_ns, end_ns)

    def close(self, key: Hashable, outcome: Outcome, time_ns: int) -> list[Exchange]:
        connection = self._known.pop(key, None)
        return connection.close(outcome, time_ns) if connection is not None else []

    def expire(self, before_ns: int) -> list[Exchange]:
        """As Connection.expire, of all."""
        return [exchange for connection in self._known.values() for exchange in connection.expire(before_ns)]

    def _add(self, key: Hashable, connection: Connection, time_ns: int) -> list[Exchange]:
        done: list[Exchange] = []
        if len(self._known) >= self._max:
            _, oldest = self._known.popitem(last=False)
            self.counts.connections_evicted += 1
            done = oldest.close(Outcome.UNREADABLE, time_ns)
        self._known[key] = connection
        return done
