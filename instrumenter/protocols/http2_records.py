# SPDX-License-Identifier: Apache-2.0
"""Records of the kernel's `frames` ring become finished exchanges: the fast way through `http2`.

In: records as they lay in the ring (struct frames of probes/include/abi.h). Out: `Finished`. The rule: a record that is
wanting costs its own connection's half what it held, and says so; nothing of another connection depends on it.

Any bytes are taken. What is held is bounded: connections, and of each half one frame and one field block.
"""

from __future__ import annotations

from collections import OrderedDict
from struct import Struct
from typing import Final, NamedTuple

import numpy as np

from instrumenter.bpf.abi import (
    ENDPOINTS,
    EXCHANGE,
    FRAME_KEPT,
    FRAMES,
    SETTINGS_KEPT,
    Direction,
    Flag,
    FramesFlag,
    FramesKind,
    Outcome,
)
from instrumenter.protocols import http2_format as form
from instrumenter.protocols.http2 import MAX_CONNECTIONS, Connection, Counts
from instrumenter.protocols.http2_events import Half
from instrumenter.protocols.http2_format import MAX_BLOCK
from instrumenter.protocols.http2_streams import Exchange, Framed, Origin, Request

RING_HEADER: Final = 8  # of the ring buffer, before each record: its length, and bits
_LENGTH: Final = 0x3FFF_FFFF
_RECORD: Final = Struct("<I4xQQIIIIHHBBBBB7x")  # that and struct frames
_HEAD: Final = Struct(">HBBBI")  # of a frame: two bytes of its length, one, type, flags, stream
_DATA: Final = Struct("<IIHBB")  # struct data_frame
_SEQ: Final = Struct("<I")
_SETTING: Final = Struct(">HI")
_RESET: Final = Struct(">I")
_HEAD_SIZE: Final = 9
_WITH_SEQ: Final = _HEAD_SIZE + 4
_WITH_DATA: Final = _HEAD_SIZE + _DATA.size
_BEGIN, _BYTES, _END, _UPGRADE = map(int, (FramesKind.BEGIN, FramesKind.BYTES, FramesKind.END, FramesKind.UPGRADE))
_JOINED, _GAP, _TLS = int(FramesFlag.JOINED), int(FramesFlag.GAP), int(FramesFlag.TLS)
_KEPT: Final = {form.SETTINGS: SETTINGS_KEPT, form.RST_STREAM: 4, form.GOAWAY: 8}
_BLOCKS: Final = frozenset((form.HEADERS, form.PUSH_PROMISE, form.CONTINUATION))
_PLAIN: Final = form.END_HEADERS | form.PADDED | form.WITH_PRIORITY
_STREAM_BITS: Final = 0x7FFF_FFFF
MAX_HELD: Final = 8 << 20  # bytes of frames and blocks that go on, of all connections
_HALVES: Final = tuple(Half)
_OUTCOMES: Final = {int(outcome): outcome for outcome in Outcome}
_DIRECTIONS: Final = {int(direction): direction for direction in Direction}
assert _RECORD.size == RING_HEADER + FRAMES.itemsize


class Block:
    """A field block that goes on in CONTINUATION frames."""

    __slots__ = ("begin_ns", "cut", "end_stream", "origin", "promised", "stream", "text")

    def __init__(self, stream: int, promised: bool, end_stream: bool, begin_ns: int, origin: Origin) -> None:
        self.stream, self.promised, self.end_stream = stream, promised, end_stream
        self.begin_ns, self.origin = begin_ns, origin
        self.text, self.cut = b"", False

    def add(self, fragment: bytes, cut: bool) -> None:
        if not self.cut:
            self.text += fragment
            self.cut = cut or len(self.text) > MAX_BLOCK


class Held:
    """Bytes of unfinished frames and blocks, of all connections together."""

    __slots__ = ("bytes", "most")

    def __init__(self, most: int) -> None:
        self.bytes, self.most = 0, most


class HalfBytes:
    """One half of a connection: its bytes, record by record."""

    __slots__ = ("block", "connection", "half", "held", "holds", "next", "rest", "rest_ns")

    def __init__(self, half: Half, connection: Connection, held: Held) -> None:
        self.half, self.connection = half, connection
        self.held, self.holds = held, 0
        self.next = 0  # number of the record that should come
        self.rest = b""  # a frame that goes on in the next record
        self.rest_ns = 0
        self.block: Block | None = None

    def feed(self, number: int, gap: bool, rest: int, data: bytes, origin: Origin, now_ns: int) -> None:
        """A record's bytes. rest: how many belong to a frame that began in an earlier record."""
        if number != self.next or gap:
            self.lose()
        self.next = (number + 1) & 0xFFFF_FFFF
        begin_ns = now_ns
        if self.rest:
            data, begin_ns = self.rest + data, self.rest_ns
        elif rest:
            data = data[rest:]  # of a frame whose beginning was lost
        at, size = 0, len(data)
        while size - at >= _HEAD_SIZE:
            high, low, kind, flags, stream = _HEAD.unpack_from(data, at)
            length = high << 8 | low
            end = at + _HEAD_SIZE + self._kept(kind, length)
            if end > size:
                break
            self._frame(kind, flags, stream & _STREAM_BITS, length, data, at, origin, begin_ns, now_ns)
            at, begin_ns = end, now_ns
        self.rest, self.rest_ns = data[at:], begin_ns
        if self.rest or self.block is not None or self.holds:
            self._weigh()

    def _weigh(self) -> None:
        """Of too much that is unfinished, what came last goes."""
        now = len(self.rest) + (len(self.block.text) if self.block is not None else 0)
        self.held.bytes += now - self.holds
        self.holds = now
        if self.held.bytes > self.held.most:
            self.lose()
            self.close()

    def close(self) -> None:
        """It holds nothing any more."""
        self.held.bytes -= self.holds
        self.holds = 0

    def lose(self) -> None:
        """Frames passed unseen."""
        self.rest, self.block = b"", None
        self.connection.gap(self.half)

    @staticmethod
    def _kept(kind: int, length: int) -> int:
        """What follows a frame's head in a record."""
        if kind == form.DATA:
            return _DATA.size
        if kind in _BLOCKS:
            return _SEQ.size + min(length, FRAME_KEPT)
        return min(length, _KEPT.get(kind, 0))

    def _frame(
        self, kind: int, flags: int, stream: int, length: int, data: bytes, at: int, origin: Origin,
        begin_ns: int, now_ns: int,
    ) -> None:  # fmt: skip
        connection = self.connection
        if kind == form.DATA:
            before, after, messages, unknown, padding = _DATA.unpack_from(data, at + _HEAD_SIZE)
            size = length - padding - 1 if flags & form.PADDED else length
            framed = Framed(max(size, 0), before, after, messages, bool(unknown))
            connection.data(self.half, stream, framed, bool(flags & form.END_STREAM), now_ns)
        elif kind in _BLOCKS:
            self._fields(kind, flags, stream, length, data, at, origin, begin_ns, now_ns)
        elif kind == form.RST_STREAM:
            connection.reset(stream, _RESET.unpack_from(data, at + _HEAD_SIZE)[0], now_ns)
        elif kind == form.GOAWAY:
            connection.go_away(self.half, _RESET.unpack_from(data, at + _HEAD_SIZE)[0] & _STREAM_BITS, now_ns)
        elif kind == form.SETTINGS:
            start = at + _HEAD_SIZE
            for name, value in _SETTING.iter_unpack(data[start : start + min(length, SETTINGS_KEPT)]):
                if name == form.HEADER_TABLE_SIZE:
                    connection.table_size(self.half, value)

    def _fields(
        self, kind: int, flags: int, stream: int, length: int, data: bytes, at: int, origin: Origin,
        begin_ns: int, now_ns: int,
    ) -> None:  # fmt: skip
        start = at + _WITH_SEQ
        end = start + length
        if kind == form.HEADERS and self.block is None and flags & _PLAIN == form.END_HEADERS and length <= FRAME_KEPT:
            self._whole(
                stream, data[start:end], flags, _SEQ.unpack_from(data, at + _HEAD_SIZE)[0], origin, begin_ns, now_ns
            )
            return
        if kind == form.CONTINUATION:
            block = self.block
            if block is None or block.stream != stream:
                return  # of a block whose beginning was lost
        else:
            if flags & form.PADDED and length:
                end -= data[start]
                start += 1
            start += 4 if kind == form.PUSH_PROMISE else 5 if flags & form.WITH_PRIORITY else 0
            origin = origin._replace(seq=_SEQ.unpack_from(data, at + _HEAD_SIZE)[0])
            if self.block is not None:  # broken off by another
                self._deliver(self.block, True, now_ns)
            promised, end_stream = kind == form.PUSH_PROMISE, bool(flags & form.END_STREAM) and kind == form.HEADERS
            block = self.block = Block(stream, promised, end_stream, begin_ns, origin)
        block.add(data[start:end], length > FRAME_KEPT)
        if flags & form.END_HEADERS:
            self._deliver(block, block.cut, now_ns)

    def _whole(
        self, stream: int, text: bytes, flags: int, seq: int, origin: Origin, begin_ns: int, now_ns: int
    ) -> None:
        """A field block in one frame, as most are."""
        connection = self.connection
        if self.half is Half.REQUEST:
            connection.origin = Origin(origin.svc, origin.tgid, origin.tid, seq)
        connection.headers(self.half, stream, text, flags & form.END_STREAM != 0, False, begin_ns, now_ns)

    def _deliver(self, block: Block, cut: bool, now_ns: int) -> None:
        self.block = None
        connection = self.connection
        if block.promised:
            connection.promise(self.half, block.text, cut)
            return
        connection.origin = block.origin
        connection.headers(self.half, block.stream, block.text, block.end_stream, cut, block.begin_ns, now_ns)


class Place(NamedTuple):
    """A connection as its exchanges name it. endpoints: struct endpoints of abi.h. server_name: TLS's; b"": none."""

    key: int
    endpoints: bytes
    tls: bool
    server_name: bytes = b""


class Followed:
    """A connection that is followed."""

    __slots__ = ("connection", "halves", "place")

    def __init__(self, place: Place, direction: int, joined: bool, counts: Counts, held: Held) -> None:
        self.place = place
        self.connection = Connection(_DIRECTIONS.get(direction, Direction.UNKNOWN), counts, joined=joined)
        self.halves = tuple(HalfBytes(half, self.connection, held) for half in _HALVES)


Finished = tuple[Place, Exchange]


class FrameRecords:
    """All connections. Of too many, the one that was quiet the longest is followed no longer."""

    def __init__(self, max_connections: int = MAX_CONNECTIONS) -> None:
        self.counts = Counts()
        self.held = Held(MAX_HELD)
        self.now_ns = 0  # of the newest record
        self._max = max_connections
        self._known: OrderedDict[int, Followed] = OrderedDict()

    def __len__(self) -> int:
        return len(self._known)

    def take(self, raw: bytes) -> list[Finished]:
        """Records, one behind the other, each behind the ring's own header, from multiples of 8 on."""
        done: list[Finished] = []
        at, size, now_ns = 0, len(raw), 0
        while at + _RECORD.size <= size:
            (length, key, now_ns, number, svc, tgid, tid, count, rest, kind, flags, half, direction,
             outcome) = _RECORD.unpack_from(raw, at)  # fmt: skip
            start = at + _RECORD.size
            at += RING_HEADER + ((length & _LENGTH) + 7 & ~7)
            if kind == _BYTES:
                followed = self._known.get(key)
                if followed is None:
                    self.counts.unfollowed += 1
                    continue
                self._known.move_to_end(key)
                origin = Origin(svc, tgid, tid, 0)
                half_bytes = followed.halves[half & 1]
                half_bytes.feed(number, bool(flags & _GAP), rest, raw[start : start + count], origin, now_ns)
                done += [(followed.place, exchange) for exchange in followed.connection.take()]
            elif kind == _BEGIN:
                self._close(key, Outcome.UNREADABLE, now_ns, done)  # of an older one, whose end was lost
                named = start + ENDPOINTS.itemsize
                place = Place(key, raw[start:named], bool(flags & _TLS), raw[named : start + count])
                self._open(Followed(place, direction, bool(flags & _JOINED), self.counts, self.held), now_ns, done)
            elif kind == _UPGRADE:
                if (followed := self._known.get(key)) is not None:
                    _upgrade(followed.connection, raw[start : start + count], Origin(svc, tgid, tid, 0), now_ns)
            elif kind == _END:
                self._close(key, _OUTCOMES.get(outcome, Outcome.UNREADABLE), now_ns, done)
        self.now_ns = max(self.now_ns, now_ns)
        return done

    def expire(self, before_ns: int) -> list[Finished]:
        """Streams whose end may have passed unseen, and of which nothing was heard since."""
        return [(f.place, x) for f in self._known.values() for x in f.connection.expire(before_ns)]

    def _open(self, followed: Followed, now_ns: int, done: list[Finished]) -> None:
        if len(self._known) >= self._max:
            self.counts.connections_evicted += 1
            self._close(next(iter(self._known)), Outcome.UNREADABLE, now_ns, done)
        self._known[followed.place.key] = followed

    def _close(self, key: int, outcome: Outcome, now_ns: int, done: list[Finished]) -> None:
        followed = self._known.pop(key, None)
        if followed is not None:
            for half in followed.halves:
                half.close()
            done += [(followed.place, exchange) for exchange in followed.connection.close(outcome, now_ns)]


def _upgrade(connection: Connection, raw: bytes, origin: Origin, now_ns: int) -> None:
    """The HTTP/1.1 request that became stream 1: struct exchange, and its text."""
    x = np.frombuffer(raw, EXCHANGE, 1)[0]
    text = raw[EXCHANGE.itemsize :]

    def piece(off: int, name: str) -> bytes | None:
        return text[off : off + int(x[name + "_len"])] or None

    parent = None
    if int(x["flags"]) & Flag.TRACEPARENT:
        ids = (x[name].tobytes().hex().encode() for name in ("trace_id", "parent_id"))
        parent = b"00-%b-%b-%02x" % (*ids, int(x["trace_flags"]))
    connection.origin = origin._replace(seq=int(x["request_seq"]))
    request = Request(
        piece(0, "method"), b"http", piece(int(x["host_off"]), "host"), piece(int(x["method_len"]), "target"),
        int(x["target_full"]), piece(int(x["agent_off"]), "agent"), parent, piece(int(x["state_off"]), "state"), None,
    )  # fmt: skip
    connection.upgrade(request, int(x["request_bytes"]), int(x["start_ns"]), now_ns)
