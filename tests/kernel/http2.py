# SPDX-License-Identifier: Apache-2.0
"""HTTP/2 bytes by hand: frames, and field blocks of an encoder for each half."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from hpack import Encoder
from protocols.wire import SETTINGS, frame

from instrumenter.protocols.http2_format import END_HEADERS, END_STREAM, PADDED, WITH_PRIORITY
from instrumenter.protocols.http2_start import PREFACE

DATA, HEADERS, PRIORITY, RST_STREAM, _, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
START = PREFACE + SETTINGS
ACK = frame(4, 1, 0)
Fields = Sequence[tuple[str, str]]

__all__ = ["ACK", "SETTINGS", "START", "Side", "block_frames", "data", "frame"]


def data(stream: int, body: bytes, end: bool = True, pad: int | None = None) -> bytes:
    if pad is not None:
        return frame(DATA, PADDED | (END_STREAM if end else 0), stream, bytes([pad]) + body + bytes(pad))
    return frame(DATA, END_STREAM if end else 0, stream, body)


def block_frames(stream: int, block: bytes, end: bool, sizes: Sequence[int] = (), odd: bool = False) -> bytes:
    """HEADERS and, for each of `sizes`, a CONTINUATION of so many bytes. odd: padded, and with a priority."""
    cuts = [0, *sizes, len(block)]
    parts = [block[a:b] for a, b in pairwise(cuts)]
    flags = END_STREAM if end else 0
    first = parts[0]
    if odd:
        flags |= PADDED | WITH_PRIORITY
        first = bytes([7]) + bytes(5) + first + bytes(7)
    frames = [(HEADERS, flags, first), *((CONTINUATION, 0, part) for part in parts[1:])]
    last = len(frames) - 1
    return b"".join(
        frame(kind, flag | (END_HEADERS if i == last else 0), stream, part)
        for i, (kind, flag, part) in enumerate(frames)
    )


class Side:
    """One half's encoder, as a client and a server have one each."""

    def __init__(self) -> None:
        self.encoder = Encoder()

    def block(self, fields: Fields) -> bytes:
        return bytes(self.encoder.encode(list(fields)))

    def ask(self, stream: int, path: str, method: str = "GET", end: bool = True, more: Fields = ()) -> bytes:
        return block_frames(stream, self.request(path, method, more), end)

    def request(self, path: str, method: str = "GET", more: Fields = ()) -> bytes:
        return self.block([(":method", method), (":scheme", "http"), (":authority", "h"), (":path", path), *more])

    def answer(self, stream: int, status: int = 200, body: bytes | None = None, more: Fields = ()) -> bytes:
        head = block_frames(stream, self.block([(":status", str(status)), *more]), body is None)
        return head if body is None else head + data(stream, body)

    def trailers(self, stream: int, fields: Fields) -> bytes:
        return block_frames(stream, self.block(fields), True)
