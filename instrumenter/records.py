# SPDX-License-Identifier: Apache-2.0
"""What a source hands to the rest of the agent: batches of the kernel's records.

In: nothing. Out: types. The one rule: a batch is owned by whoever got it; no source ever writes into it again.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from instrumenter.bpf.abi import EVENT, EXCHANGE_LONG, EXCHANGE_SHORT, TEXT_SHORT


class Exchanges(NamedTuple):
    """n exchanges: `x` of dtype abi.EXCHANGE (n,), `text` (n, TEXT_SHORT or TEXT_LONG), row i valid up to text_len.

    Both may be strided views of one array of records.
    """

    x: NDArray[np.void]
    text: NDArray[np.uint8]

    @classmethod
    def of(cls, records: NDArray[np.void]) -> Exchanges:
        """Of EXCHANGE_SHORT or EXCHANGE_LONG records, without copying."""
        return cls(records["x"], records["text"])

    def records(self) -> NDArray[np.void]:
        """As contiguous EXCHANGE_SHORT or EXCHANGE_LONG records."""
        out = np.empty(len(self.x), EXCHANGE_SHORT if self.text.shape[1] == TEXT_SHORT else EXCHANGE_LONG)
        out["x"], out["text"] = self.x, self.text
        return out


class Records(NamedTuple):
    """What came up since the last poll. Events that came before any of the exchanges are in it or in one before it.

    exchanges: no empty ones. events: dtype abi.EVENT, (n,), in order. clock_offset_ns: nanoseconds of the epoch minus
    nanoseconds of CLOCK_MONOTONIC, to be added to the records' times. frames: struct frames and their bytes as they lay
    in the ring, each behind the ring's own header.
    """

    exchanges: tuple[Exchanges, ...]
    events: NDArray[np.void]
    clock_offset_ns: int
    frames: bytes = b""

    def __bool__(self) -> bool:
        return bool(self.exchanges) or bool(self.frames) or len(self.events) > 0


def nothing(clock_offset_ns: int) -> Records:
    return Records((), np.empty(0, EVENT), clock_offset_ns)


class RecordSource(Protocol):
    """Where records come from: the kernel, or a file. One thread polls; any thread may wake or close."""

    @property
    def exhausted(self) -> bool:
        """No more will ever come (the end of a recording; closed)."""

    @property
    def metadata(self) -> Mapping[str, Any]:
        """What the recording agent wrote beside the records; empty for a live source."""

    def poll(self, timeout_s: float) -> Records:
        """The next batch; an empty one after about timeout_s, after `wake()`, or when exhausted."""

    def wake(self) -> None:
        """Makes a poll that waits return at once."""

    def close(self) -> None: ...
