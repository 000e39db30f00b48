# SPDX-License-Identifier: Apache-2.0
"""The form of HTTP/2 frames (RFC 9113, 4.1 and 6) as tables: which lengths, which streams, what of them is wanted.

In: a frame's nine bytes, a block's fragments. Out: `Frame`, `Block`. The rule: nothing here knows what came before.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from instrumenter.protocols.http2_events import Headers, Promise

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
END_STREAM, END_HEADERS, PADDED, WITH_PRIORITY, ACK = 0x1, 0x4, 0x8, 0x20, 0x1
HEADER_TABLE_SIZE: Final = 1

MAX_BLOCK: Final = 1 << 16  # bytes of a field block that are kept; the rest is `cut`
_OVERHEAD: Final = 1 + 4 + 5  # pad length, promised stream, priority: before a block's fragment
_DEFAULT_MAX_FRAME: Final = 1 << 14
_ANY: Final = (1 << 24) - 1  # peers may allow each other any length: the other half's SETTINGS_MAX_FRAME_SIZE


class _Form(NamedTuple):
    """What a frame type asks for: on stream 0, on another, or on any (None); its payload's least, most and wanted."""

    on_zero: bool | None
    least: int
    most: int
    kept: int = 0


_FORMS: Final = {
    DATA: _Form(False, 0, _ANY),
    HEADERS: _Form(False, 0, _ANY, MAX_BLOCK + _OVERHEAD),
    PRIORITY: _Form(False, 5, 5),
    RST_STREAM: _Form(False, 4, 4, 4),
    SETTINGS: _Form(True, 0, _DEFAULT_MAX_FRAME, _DEFAULT_MAX_FRAME),
    PUSH_PROMISE: _Form(False, 4, _ANY, MAX_BLOCK + _OVERHEAD),
    PING: _Form(True, 8, 8),
    GOAWAY: _Form(True, 8, _DEFAULT_MAX_FRAME, 8),
    WINDOW_UPDATE: _Form(None, 4, 4),
    CONTINUATION: _Form(False, 0, _ANY, MAX_BLOCK),
}
_EXTENSION: Final = _Form(None, 0, _DEFAULT_MAX_FRAME)  # ignored, whatever it is (RFC 9113, 5.5)


class Frame(NamedTuple):
    type: int
    flags: int
    stream: int
    length: int

    @classmethod
    def of(cls, head: bytes | bytearray) -> Frame:
        """Of the nine bytes; the reserved bit is ignored."""
        return cls(head[3], head[4], int.from_bytes(head[5:9]) & 0x7FFF_FFFF, int.from_bytes(head[:3]))

    @property
    def is_known(self) -> bool:
        return self.type in _FORMS

    @property
    def padded(self) -> bool:
        return bool(self.flags & PADDED) and self.type in (DATA, HEADERS, PUSH_PROMISE)

    @property
    def kept(self) -> int:
        """How much of the payload, from its beginning, is wanted."""
        if self.type == DATA:
            return int(self.padded)
        return min(self.length, _FORMS.get(self.type, _EXTENSION).kept)

    def body(self, kept: bytes | bytearray) -> tuple[int, int]:
        """Where a DATA frame's body begins and ends in its payload. ends < begins: padded beyond its length."""
        return (1, self.length - kept[0]) if self.padded else (0, self.length)

    @property
    def wrong(self) -> str:
        """Why there is no such frame; empty if there is."""
        form = _FORMS.get(self.type, _EXTENSION)
        if form.least + self.padded > self.length or self.length > form.most:
            return f"a frame of type {self.type} with {self.length} bytes"
        if form.on_zero is not None and form.on_zero != (self.stream == 0):
            return f"a frame of type {self.type} on stream {self.stream}"
        if self.type == SETTINGS and (self.length % 6 or (self.length and self.flags & ACK)):
            return f"SETTINGS of {self.length} bytes"
        return ""


class Block:
    """A field block that waits for its END_HEADERS (RFC 9113, 4.3)."""

    __slots__ = ("begin_ns", "cut", "end_stream", "promised", "stream", "text")

    def __init__(self, frame: Frame, promised: int, begin_ns: int) -> None:
        self.stream = frame.stream
        self.end_stream = bool(frame.flags & END_STREAM) and frame.type == HEADERS
        self.promised = promised
        self.begin_ns = begin_ns
        self.text = bytearray()
        self.cut = False

    @classmethod
    def opened(cls, frame: Frame, kept: bytearray, begin_ns: int) -> Block | None:
        """Of HEADERS or PUSH_PROMISE, with its first fragment; None if padding and the like exceed the frame."""
        start = int(frame.padded)
        end = frame.length - (kept[0] if frame.padded else 0)
        promised = 0
        if frame.type == PUSH_PROMISE:
            promised = int.from_bytes(kept[start : start + 4]) & 0x7FFF_FFFF
            start += 4
        elif frame.flags & WITH_PRIORITY:
            start += 5
        if end < start or (frame.type == PUSH_PROMISE and not promised):
            return None
        block = cls(frame, promised, begin_ns)
        block.add(bytes(kept[start:end]), whole=end <= len(kept))
        return block

    def add(self, fragment: bytes, whole: bool) -> None:
        if not self.cut:  # bytes behind a hole would be read as something else
            room = MAX_BLOCK - len(self.text)
            self.text += fragment[:room]
            self.cut = not whole or len(fragment) > room

    def event(self) -> Headers | Promise:
        if self.promised:
            return Promise(self.promised, bytes(self.text), self.cut)
        return Headers(self.stream, bytes(self.text), self.end_stream, self.cut)
