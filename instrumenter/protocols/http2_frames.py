# SPDX-License-Identifier: Apache-2.0
"""HTTP/2 frames out of the bytes of one half: the reference for the kernel's walker; used by replays and tests.

In: bytes as they pass, in pieces of any size. Out: `Seen` events. The rule: any bytes are taken, each is looked at
once, what is held is bounded (MAX_BLOCK, MAX_HEAD, MAX_COUNTED), and how they were cut makes no difference.
RFC 9113: 4.1 frame format, 4.3 field blocks, 6 frames.

A reader has three outcomes: events, nothing yet, or `NotHttp2`. A gap where structure was expected loses the half:
frames have no marks to find again. Whoever knows where a frame begins says `resume()`.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum, auto
from typing import Final

from instrumenter.protocols import http2_format as form
from instrumenter.protocols.http2_events import Data, Event, Gap, GoAway, Half, NotHttp2, Reset, Seen, TableSize
from instrumenter.protocols.http2_format import Block, Frame
from instrumenter.protocols.http2_start import Start
from instrumenter.protocols.rpc import MessageCounter

MAX_COUNTED: Final = 1024  # streams of a half whose messages are counted at a time


class State(Enum):
    START = auto()  # what stands before the frames
    HEAD = auto()  # the nine bytes of a frame
    PAYLOAD = auto()
    LOST = auto()  # after a gap; until resume()
    NOT_HTTP2 = auto()


class Walker:
    """Walks one half. joined: from some frame's first byte on, not from the connection's; messages: count gRPC's."""

    def __init__(self, half: Half, *, joined: bool = False, messages: bool = False) -> None:
        self.half = half
        self.state = State.HEAD if joined else State.START
        self._start = Start(half)
        self._fresh = joined  # no frame since it joined: it may have joined inside a field block
        self._first = not joined  # the first frame is SETTINGS (RFC 9113, 3.4)
        self._head = bytearray()
        self._frame = Frame(0, 0, 0, 0)
        self._left = 0  # of the payload
        self._kept = bytearray()
        self._block: Block | None = None
        self._counters: dict[int, MessageCounter] | None = {} if messages else None
        self._begin_ns = self._now = 0
        self._out: list[Seen] = []

    def feed(self, data: bytes, time_ns: int = 0) -> list[Seen]:
        """The half's next bytes."""
        self._now = time_ns
        view = memoryview(data)
        while view and self.state in _READERS:
            view = _READERS[self.state](self, view)
        return self._take()

    def skip(self, size: int, time_ns: int = 0) -> list[Seen]:
        """`size` bytes passed that could not be read: no harm inside a payload of which nothing more is wanted."""
        self._now = time_ns
        unwanted = self.state is State.PAYLOAD and len(self._kept) >= self._frame.kept
        if not unwanted or size > self._left:
            return self.gap(time_ns) if size > 0 else []
        counter = self._counter()
        if counter is not None:
            start, end = self._frame.body(self._kept)
            at = self._frame.length - self._left
            counter.skip(max(0, min(at + size, end) - max(at, start)))
        self._pass(size)
        return self._take()

    def gap(self, time_ns: int = 0) -> list[Seen]:
        """Nobody knows how many bytes passed unseen."""
        self._now = self._begin_ns = time_ns
        if self.state not in (State.LOST, State.NOT_HTTP2):
            self._stop(State.LOST, Gap())
        return self._take()

    def resume(self) -> None:
        """The next byte fed is the first of a frame."""
        if self.state is State.LOST:
            self.state = State.HEAD
            self._fresh, self._first = True, False

    def _take(self) -> list[Seen]:
        out, self._out = self._out, []
        return out

    def _emit(self, event: Event, begin_ns: int | None = None) -> None:
        self._out.append(Seen(event, self._begin_ns if begin_ns is None else begin_ns, self._now))

    def _stop(self, state: State, last: Event) -> None:
        self.state = state
        self._head.clear()
        self._kept.clear()
        self._block = None
        if self._counters is not None:
            self._counters.clear()
        self._emit(last)

    def _fail(self, reason: str) -> None:
        self._stop(State.NOT_HTTP2, NotHttp2(reason))

    def _read_start(self, view: memoryview) -> memoryview:
        if self._start.untouched:
            self._begin_ns = self._now
        step = self._start.feed(view)
        if step.upgrade is not None:
            self._emit(step.upgrade)
        if step.refused:
            self._fail(step.refused)
        elif step.done:
            self.state = State.HEAD
            self._start = Start(self.half)  # what it held is not needed any more
        return step.rest

    def _read_head(self, view: memoryview) -> memoryview:
        if not self._head:
            self._begin_ns = self._now
        need = 9 - len(self._head)
        self._head += view[:need]
        if len(self._head) == 9:
            frame = Frame.of(self._head)
            self._head.clear()
            self._open(frame)
        return view[need:]

    def _open(self, frame: Frame) -> None:
        wrong = frame.wrong or self._out_of_place(frame)
        if wrong:
            self._fail(wrong)
            return
        if frame.type != form.CONTINUATION:
            self._fresh = False
        self._first = False
        self._frame, self._left = frame, frame.length
        self._kept.clear()
        self.state = State.PAYLOAD
        self._pass(0)

    def _out_of_place(self, frame: Frame) -> str:
        """Why this frame cannot be the next one; empty if it can."""
        if self._first and (frame.type != form.SETTINGS or frame.flags & form.ACK):
            return "the first frame is no SETTINGS"
        if frame.type == form.PUSH_PROMISE and self.half is Half.REQUEST:
            return "PUSH_PROMISE of a client"
        if self._fresh and not frame.is_known:
            return f"joined at a frame of unknown type {frame.type}"
        if self._block is not None:
            goes_on = frame.type == form.CONTINUATION and frame.stream == self._block.stream
            return "" if goes_on else "a field block broken off"
        return "CONTINUATION of nothing" if frame.type == form.CONTINUATION and not self._fresh else ""

    def _read_payload(self, view: memoryview) -> memoryview:
        part = view[: self._left]
        room = self._frame.kept - len(self._kept)
        if room > 0:
            self._kept += part[:room]
        counter = self._counter()
        if counter is not None:
            start, end = self._frame.body(self._kept)
            at = self._frame.length - self._left
            counter.feed(part[max(0, start - at) : max(0, end - at)])
        self._pass(len(part))
        return view[len(part) :]

    def _pass(self, size: int) -> None:
        """So much of the payload is done with."""
        self._left -= size
        if self._left == 0:
            self.state = State.HEAD
            close = _CLOSERS.get(self._frame.type)
            if close is not None:
                close(self)

    def _counter(self) -> MessageCounter | None:
        """The counter of the DATA frame at hand, if there is one."""
        if not self._counters or self._frame.type != form.DATA:
            return None
        return self._counters.get(self._frame.stream)

    def _close_data(self) -> None:
        start, end = self._frame.body(self._kept)
        if end < start:
            self._fail("padding longer than its frame")
            return
        counter = self._counter()
        messages = counter.take() if counter is not None else None
        ends = bool(self._frame.flags & form.END_STREAM)
        if ends and self._counters:
            self._counters.pop(self._frame.stream, None)
        self._emit(Data(self._frame.stream, end - start, ends, messages))

    def _close_headers(self) -> None:
        self._block = Block.opened(self._frame, self._kept, self._begin_ns)
        if self._block is None:
            self._fail("padding or priority longer than its frame")
        else:
            self._end_block(self._block)

    def _close_continuation(self) -> None:
        if self._block is not None:
            self._block.add(bytes(self._kept), whole=self._frame.length <= len(self._kept))
            self._end_block(self._block)
        elif self._frame.flags & form.END_HEADERS:
            self._fresh = False  # the end of the block that it joined in

    def _end_block(self, block: Block) -> None:
        if self._frame.flags & form.END_HEADERS:
            self._block = None
            self._follow_messages(block)
            self._emit(block.event(), block.begin_ns)

    def _follow_messages(self, block: Block) -> None:
        """Messages are counted from a stream's first block on, so that a count never begins inside of one."""
        if self._counters is None or block.promised:
            return
        if block.end_stream:
            self._counters.pop(block.stream, None)
        elif block.stream not in self._counters:
            if len(self._counters) >= MAX_COUNTED:
                del self._counters[next(iter(self._counters))]
            self._counters[block.stream] = MessageCounter()

    def _close_reset(self) -> None:
        if self._counters is not None:
            self._counters.pop(self._frame.stream, None)
        self._emit(Reset(self._frame.stream, int.from_bytes(self._kept)))

    def _close_settings(self) -> None:
        for at in range(0, len(self._kept), 6):
            if int.from_bytes(self._kept[at : at + 2]) == form.HEADER_TABLE_SIZE:
                self._emit(TableSize(int.from_bytes(self._kept[at + 2 : at + 6])))

    def _close_goaway(self) -> None:
        self._emit(GoAway(int.from_bytes(self._kept[:4]) & 0x7FFF_FFFF, int.from_bytes(self._kept[4:8])))


_READERS: Final[dict[State, Callable[[Walker, memoryview], memoryview]]] = {
    State.START: Walker._read_start,
    State.HEAD: Walker._read_head,
    State.PAYLOAD: Walker._read_payload,
}
_CLOSERS: Final[dict[int, Callable[[Walker], None]]] = {
    form.DATA: Walker._close_data,
    form.HEADERS: Walker._close_headers,
    form.PUSH_PROMISE: Walker._close_headers,
    form.CONTINUATION: Walker._close_continuation,
    form.RST_STREAM: Walker._close_reset,
    form.SETTINGS: Walker._close_settings,
    form.GOAWAY: Walker._close_goaway,
}
