# SPDX-License-Identifier: Apache-2.0
"""The kernel's side of a ring buffer over plain memory, and records to put into it.

In: bytes. Out: `Pages` that hold them as the kernel would. The one rule: it does what
kernel/bpf/ringbuf.c does, whatever the reader would like.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from instrumenter.bpf.abi import EVENT, EXCHANGE_LONG, EXCHANGE_SHORT, EventKind
from instrumenter.bpf.ring import Pages

PAGE = 4096


class Kernel:
    """The producer's side of kernel/bpf/ringbuf.c, over plain memory."""

    def __init__(self, size: int = PAGE) -> None:
        self.consumer, self.producer, self.data = bytearray(8), bytearray(8), bytearray(size)
        self.pages = Pages(self.consumer, self.producer, self.data)
        self.size = size

    def _position(self, page: bytearray) -> int:
        return int.from_bytes(page[:8], "little")

    def reserve(self, body: bytes) -> int | None:
        """Position of a BUSY record holding `body`, or None if there is no room."""
        at = self._position(self.producer)
        after = at + 8 + -(-len(body) // 8) * 8
        if after - self._position(self.consumer) > self.size:
            return None
        record, place = (len(body) | 1 << 31).to_bytes(4, "little") + bytes(4) + body, at % self.size
        before_end = min(len(record), self.size - place)
        self.data[place : place + before_end] = record[:before_end]
        self.data[: len(record) - before_end] = record[before_end:]
        self.producer[:8] = after.to_bytes(8, "little")
        return at

    def commit(self, at: int, discard: bool = False) -> None:
        place = at % self.size
        head = int.from_bytes(self.data[place : place + 4], "little") & ~(1 << 31)
        self.data[place : place + 4] = (head | discard << 30).to_bytes(4, "little")

    def submit(self, bodies: Iterable[bytes]) -> int:
        """How many found room."""
        count = 0
        for body in bodies:
            at = self.reserve(body)
            if at is None:
                break
            self.commit(at)
            count += 1
        return count

    def start_at(self, position: int) -> Kernel:
        self.consumer[:8] = self.producer[:8] = position.to_bytes(8, "little")
        return self

    @property
    def free(self) -> bool:
        return self.consumer == self.producer


def exchange(number: int, long: bool = False) -> NDArray[np.void]:
    record = np.zeros((), EXCHANGE_LONG if long else EXCHANGE_SHORT)
    record["x"]["connection"] = number
    record["x"]["text_len"] = len(str(number))
    record["text"][: len(str(number))] = list(str(number).encode())
    return record


def event(tgid: int) -> NDArray[np.void]:
    record = np.zeros((), EVENT)
    record["tgid"], record["kind"], record["comm"] = tgid, EventKind.EXEC, b"nginx"
    return record
