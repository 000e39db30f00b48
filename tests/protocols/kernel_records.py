# SPDX-License-Identifier: Apache-2.0
"""Records of the `frames` ring, made as probes/include/h2.h makes them, of bytes in pieces.

The one rule: what the kernel is told here is what it would see, a piece for a call; nothing is decoded.
"""

from __future__ import annotations

from struct import Struct

from instrumenter.bpf.abi import FRAME_KEPT, IN_PREFIX, SETTINGS_KEPT, Direction, FramesFlag, FramesKind, Outcome
from instrumenter.protocols.http2_events import Half

RECORD = Struct("<I4xQQIIIIHHBBBBB7x")
KEPT = {3: 4, 4: SETTINGS_KEPT, 7: 8}
ROOM = 2048
ENDPOINTS = bytes(10) + b"\xff\xff" + bytes((10, 0, 0, 2)) + bytes(10) + b"\xff\xff" + bytes((10, 0, 0, 9))
ENDPOINTS += (8080).to_bytes(2, "little") + (50000).to_bytes(2, "little") + bytes(4)


def record(
    kind: FramesKind, key: int, now: int, data: bytes = b"", *, half: int = 0, number: int = 0, rest: int = 0,
    flags: int = 0, direction: Direction = Direction.SERVER, outcome: Outcome = Outcome.COMPLETE, svc: int = 1,
) -> bytes:  # fmt: skip
    size = RECORD.size - 8 + len(data)
    head = (size, key, now, number, svc, 7, 8, len(data), rest, kind, flags, half, direction, outcome)
    return (RECORD.pack(*head) + data).ljust(8 + -(-size // 8) * 8, b"\0")


def begin(key: int, now: int = 0, *, joined: bool = False, direction: Direction = Direction.SERVER) -> bytes:
    flags = FramesFlag.JOINED if joined else 0
    return record(FramesKind.BEGIN, key, now, ENDPOINTS, flags=flags, direction=direction)


def end(key: int, now: int, outcome: Outcome) -> bytes:
    return record(FramesKind.END, key, now, outcome=outcome)


class KernelHalf:
    """One half, from its first frame on (behind the preface)."""

    def __init__(self, key: int, half: Half) -> None:
        self.key, self.half = key, half
        self.number = 0
        self.bytes = bytearray()  # from the frame at hand on
        self.told = 0  # how much of that frame's item is in a record
        self.message = (0, 0, b"")  # stream, bytes left, what there is of a prefix

    def feed(self, piece: bytes, now: int) -> list[bytes]:
        """The records of one call."""
        self.bytes += piece
        out, rest = bytearray(), 0
        while len(self.bytes) >= 9:
            length, kind = int.from_bytes(self.bytes[:3]), self.bytes[3]
            whole = len(self.bytes) >= 9 + length
            item = self._item(kind, length, whole)
            if self.told and not out:
                rest = len(item) - self.told
            out += item[self.told :]
            self.told = 0 if whole else len(item)
            if not whole:
                break
            del self.bytes[: 9 + length]
        return self._records(bytes(out), rest, now)

    def _records(self, data: bytes, rest: int, now: int) -> list[bytes]:
        found = []
        for at in range(0, len(data), ROOM):
            part = data[at : at + ROOM]
            # Where a long frame goes on in the next record, the kernel knows how much of that is its.
            found.append(record(FramesKind.BYTES, self.key, now, part, half=self.half, number=self.number,
                                rest=min(max(rest - at, 0), len(part))))  # fmt: skip
            self.number += 1
        return found

    def _item(self, kind: int, length: int, whole: bool) -> bytes:
        head, payload = bytes(self.bytes[:9]), bytes(self.bytes[9 : 9 + length])
        if kind in (1, 5, 9):
            return head + bytes(4) + payload[:FRAME_KEPT]
        if kind == 0:
            return head + self._data(head, payload) if whole else b""
        if kind in KEPT and not (kind == 4 and head[4] & 1):
            return head + payload[: KEPT[kind]]
        return b""

    def _data(self, head: bytes, payload: bytes) -> bytes:
        stream, padded = int.from_bytes(head[5:9]), head[4] & 8
        left, prefix = self.message[1:] if self.message[0] == stream else (0, b"")
        at, count = 0 if padded or prefix else min(left, len(payload)), 0
        before = IN_PREFIX if prefix else at
        left = 0 if padded else left - at
        unknown, padding = (1, payload[0]) if padded else (0, 0)
        while at < len(payload) and not unknown:
            taken = 5 - len(prefix)
            prefix, at = prefix + payload[at : at + taken], min(at + taken, len(payload))
            if len(prefix) == 5:
                unknown, count = int(prefix[0] > 1), count + (prefix[0] <= 1)
                size, prefix = int.from_bytes(prefix[1:]), b""
                left, at = max(0, size - (len(payload) - at)), min(at + size, len(payload))
        if unknown:
            left, prefix = 0, b""
        self.message = (stream, left, prefix)
        return Struct("<IIHBB").pack(before, IN_PREFIX if prefix else left, count, unknown, padding)
