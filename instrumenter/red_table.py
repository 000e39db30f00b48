# SPDX-License-Identifier: Apache-2.0
"""Cumulative RED counts by metric key, kept across reads of the kernel's per-CPU map.

In: what `read_red()` gives, whole, at every read. Out: 64-bit totals per row, and which rows changed. The rule it
protects: reading loses no update. The kernel never resets; its u32 buckets wrap, so differences are taken modulo 2^32,
which is right as long as no bucket grows by 2^32 between two reads (12 hours of 100,000 a second).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from instrumenter.bpf.abi import DURATION_BUCKETS, RED, RED_KEY, SIZE_BUCKETS
from instrumenter.model import U64

Rows = NDArray[np.intp]
BUCKETS: Final = DURATION_BUCKETS + 2 * SIZE_BUCKETS
SUMS: Final = ("sum_ns", "request_bytes", "response_bytes")
_CHUNK: Final = 128  # rows summed at once: half a megabyte on two CPUs, whatever the number of keys


def _offset(name: str) -> int:
    fields: Any = RED.fields
    return int(fields[name][1])


# The same bytes as RED; its three bucket arrays lie behind each other, so they are one.
_VIEW: Final = np.dtype(
    {
        "names": ["buckets"],
        "formats": [("<u4", (BUCKETS,))],
        "offsets": [_offset("duration")],
        "itemsize": RED.itemsize,
    }
)


class RedTable:
    """Rows are found by key and used again after `drop`. All arrays are indexed by row.

    count, sampled_out: u64 (rows,); sums: u64 (rows, 3), as SUMS; low: u32 (rows, BUCKETS).
    """

    def __init__(self) -> None:
        self.keys = np.zeros(0, RED_KEY)
        self.count = np.zeros(0, np.uint64)
        self.sampled_out = np.zeros(0, np.uint64)
        self.sums = np.zeros((0, len(SUMS)), np.uint64)
        self.low = np.zeros((0, BUCKETS), np.uint32)
        self._high: dict[int, U64] = {}  # what wrapped out of `low`; few rows ever need it
        self._moving = np.zeros(0, np.bool_)  # changed at the last read
        self._rows: dict[bytes, int] = {}
        self._free: list[int] = []
        self._last_keys = b""
        self._last_rows: Rows = np.zeros(0, np.intp)

    def __len__(self) -> int:
        return len(self._rows)

    def rows(self) -> Mapping[bytes, int]:
        """All rows in use, by the bytes of their keys."""
        return self._rows

    def update(self, keys: NDArray[np.void], values: NDArray[np.void]) -> list[int]:
        """Take one reading: keys RED_KEY (n,), values RED (n, cpus). Gives the rows whose counts changed.

        `count` and the buckets are written one after the other by the kernel, so a read may catch one without the
        other: a row that changed is looked at again at the next read, even if `count` stands still.
        """
        rows = self._place(keys)
        count = values["count"].sum(axis=1, dtype=np.uint64)
        suspects = np.flatnonzero((count != self.count[rows]) | self._moving[rows])
        self._moving[:] = False
        self.count[rows] = count
        changed: list[int] = []
        for at in range(0, len(suspects), _CHUNK):
            part = suspects[at : at + _CHUNK]
            changed += self._take(rows[part], values[part])
        self._moving[changed] = True
        return changed

    def buckets(self, rows: list[int]) -> U64:
        """All bucket counts of some rows, u64 (len(rows), BUCKETS): durations, request sizes, response sizes."""
        total: U64 = self.low[rows].astype(np.uint64)
        if self._high:
            for i, row in enumerate(rows):
                if row in self._high:
                    total[i] += self._high[row]
        return total

    def drop(self, rows: Mapping[bytes, int]) -> None:
        """Forget rows, after their keys were deleted from the kernel's map."""
        places = list(rows.values())
        for key, row in rows.items():
            del self._rows[key]
            self._high.pop(row, None)
        for array in (self.count, self.sampled_out, self.sums, self.low, self._moving):
            array[places] = 0
        self._free += places
        self._last_keys = b""

    def _place(self, keys: NDArray[np.void]) -> Rows:
        """The row of each key; new keys get new rows."""
        raw = keys.tobytes()
        if raw == self._last_keys:
            return self._last_rows
        size = RED_KEY.itemsize
        found = [self._rows.get(raw[at : at + size], -1) for at in range(0, len(raw), size)]
        for i, row in enumerate(found):
            if row < 0:
                key = raw[i * size : (i + 1) * size]
                found[i] = row = self._rows[key] = self._new_row()
                self.keys[row] = keys[i]
        self._last_keys, self._last_rows = raw, np.array(found, np.intp)
        return self._last_rows

    def _new_row(self) -> int:
        if not self._free:
            old = len(self.count)
            grown = max(64, old + old // 2)
            self._free = list(range(grown - 1, old - 1, -1))
            for name in ("keys", "count", "sampled_out", "sums", "low", "_moving"):
                array = getattr(self, name)
                wider = np.zeros((grown, *array.shape[1:]), array.dtype)
                wider[:old] = array
                setattr(self, name, wider)
        return self._free.pop()

    def _take(self, rows: Rows, values: NDArray[np.void]) -> list[int]:
        """Sum a few keys over their CPUs. values: RED (k, cpus), a copy."""
        now = values.view(_VIEW)["buckets"].sum(axis=1, dtype=np.uint32)  # modulo 2^32, like the kernel's own
        sums = np.stack([values[name].sum(axis=1, dtype=np.uint64) for name in SUMS], axis=1)
        old = self.low[rows]
        wrapped = now < old
        for i in np.flatnonzero(wrapped.any(axis=1)).tolist():
            high = self._high.setdefault(int(rows[i]), np.zeros(BUCKETS, np.uint64))
            high[wrapped[i]] += np.uint64(1 << 32)
        changed = (now != old).any(axis=1) | (sums != self.sums[rows]).any(axis=1)
        self.low[rows] = now
        self.sums[rows] = sums
        self.sampled_out[rows] = values["sampled_out"].sum(axis=1, dtype=np.uint64)
        return [int(row) for row in rows[changed]]
