# SPDX-License-Identifier: Apache-2.0
"""RED of exchanges that Python made: counted, sampled and let through by the kernel's own rules (probes/include).

In: rows of exchanges. Out: the rows that are to become spans, and counts as the kernel's map has them. The rule: who
reads the counts, or the rows, cannot tell them from the kernel's; seen = let through + sampled out.
"""

from __future__ import annotations

from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from instrumenter.bpf.abi import RED, RED_KEY, Flag, Sampler
from instrumenter.columns import Bools, Rows, distinct, key_words
from instrumenter.conventions import UNKNOWN, convention, has_failed, measures
from instrumenter.histogram import Histograms
from instrumenter.records import Exchanges
from instrumenter.telemetry import Counters

_FIRST, _SAMPLED, _FOLDED = int(Flag.FIRST), int(Flag.SAMPLED), int(Flag.FOLDED)
_TRACEPARENT: Final = int(Flag.TRACEPARENT)
_TRACE_LOW: Final = slice(8, 16)
_PARTS: Final = (("sum_ns", "duration"), ("request_bytes", "request_size"), ("response_bytes", "response_size"))


class RedReader(Protocol):
    """The kernel's RED map."""

    def read_red(self) -> tuple[NDArray[np.void], NDArray[np.void]]: ...

    def delete_red(self, keys: NDArray[np.void]) -> object: ...


class Counts:
    """Counts by metric key, as of one CPU. One thread adds; others may read at any time."""

    def __init__(self, histograms: Histograms) -> None:
        self._histograms = histograms
        self._rows: dict[bytes, NDArray[np.void]] = {}

    def __contains__(self, key: bytes) -> bool:
        return key in self._rows

    def __len__(self) -> int:
        return len(self._rows)

    def add(self, x: NDArray[np.void], sampled_out: Bools | None = None) -> None:
        """Count exchanges, abi.EXCHANGE (n,). sampled_out (n,): which of them go no further."""
        if not len(x):
            return
        words = key_words(x)
        first, group = distinct(words)
        columns = measures(x)
        order = np.argsort(group, kind="stable")
        ends = np.cumsum(np.bincount(group, minlength=len(first)))
        for place, row in enumerate(first.tolist()):
            mine = order[(ends[place - 1] if place else 0) : ends[place]]
            key = words[row].tobytes()
            counts = self._rows.get(key)
            if counts is None:
                counts = np.zeros((), RED)
            counts["learned"] = 1
            if sampled_out is not None:
                counts["sampled_out"] += np.uint64(sampled_out[mine].sum())
            layouts = convention(int(x["key"]["protocol"][row])).layouts(self._histograms)
            for (total, buckets), column, layout in zip(_PARTS, columns, layouts, strict=True):
                values = column[mine]
                values = values[values != UNKNOWN]
                counts[total] += values.sum(dtype=np.uint64)
                at = np.searchsorted(layout.bounds, values, side="left")  # the first bucket with value <= bound
                counts[buckets] += np.bincount(at, minlength=counts[buckets].shape[0]).astype(np.uint32)
            counts["count"] += np.uint64(len(mine))
            self._rows[key] = counts

    def read_red(self) -> tuple[NDArray[np.void], NDArray[np.void]]:
        """Keys RED_KEY (n,) and values RED (n, 1)."""
        rows = dict(self._rows)
        keys = np.frombuffer(b"".join(rows), RED_KEY)
        return keys, np.array(list(rows.values()), RED).reshape(len(rows), 1)

    def delete_red(self, keys: NDArray[np.void]) -> NDArray[np.void]:
        """Their counts, as they were; zeros where there were none."""
        rows = [self._rows.pop(key.tobytes(), np.zeros((), RED)) for key in keys]
        return np.array(rows, RED).reshape(len(rows), 1)


class Counted:
    """The last steps of an exchange, as count_and_emit() of probes/include/exchange.h takes them.

    settings: abi.SETTINGS, as given to the kernel.
    """

    def __init__(self, settings: NDArray[np.void], histograms: Histograms, counters: Counters) -> None:
        self.counts = Counts(histograms)
        self._settings = settings
        self._counters = counters
        self._keys: dict[int, int] = {}  # how many, by service

    def take(self, exchanges: Exchanges) -> Exchanges:
        """Counts all, and gives those that go further; their flags are set."""
        x = exchanges.x
        self._fold_and_teach(x)
        sampled = self._sampled(x) if self._settings["spans"] else np.zeros(len(x), np.bool_)
        x["flags"][sampled] |= _SAMPLED
        x["trace_flags"][sampled & (x["flags"] & _TRACEPARENT == 0)] = 1
        up: Bools = (x["flags"] & (_SAMPLED | _FIRST)) != 0
        if self._settings["spans"]:
            up |= self._worth_keeping(x)
        self.counts.add(x, ~up)
        return exchanges if up.all() else Exchanges(x[up], exchanges.text[up])

    def _fold_and_teach(self, x: NDArray[np.void]) -> None:
        """Marks the first exchange of a new key; a service with too many has the rest under its `other` key."""
        first, group = distinct(key_words(x))
        for number, row in enumerate(first.tolist()):
            if key_words(x[row : row + 1]).tobytes() in self.counts:
                continue
            svc = int(x["key"]["svc"][row])
            if (
                self._keys.get(svc, 0) >= self._settings["service_keys"]
                or len(self.counts) >= self._settings["total_keys"]
            ):
                self._fold(x, np.flatnonzero(group == number), svc)
                if key_words(x[row : row + 1]).tobytes() in self.counts:
                    continue
            self._keys[svc] = self._keys.get(svc, 0) + 1
            x["flags"][row] |= _FIRST

    def _fold(self, x: NDArray[np.void], rows: Rows, svc: int) -> None:
        x["key"]["route"][rows] = 0
        x["key"]["peer"][rows] = 0
        x["flags"][rows] |= _FOLDED
        self._counters.add("kernel.lost.series_folded", len(rows), svc)

    def _sampled(self, x: NDArray[np.void]) -> Bools:
        kind = int(self._settings["sampler"])
        if kind == Sampler.RATIO:
            low = x["trace_id"][:, _TRACE_LOW].copy().view(">u8")[:, 0]
            chosen: Bools = low < self._settings["ratio_bound"]
        else:
            chosen = np.full(len(x), kind == Sampler.ALWAYS_ON)
        if self._settings["parent_based"]:
            has_parent = x["flags"] & _TRACEPARENT != 0
            chosen = np.where(has_parent, x["trace_flags"] & 1 != 0, chosen)
        return chosen

    def _worth_keeping(self, x: NDArray[np.void]) -> Bools:
        kept = has_failed(x["key"]) if self._settings["keep_errors"] else np.zeros(len(x), np.bool_)
        if self._settings["slow_ns"]:
            kept |= x["end_ns"] - x["start_ns"] >= self._settings["slow_ns"]
        return kept

    def forget(self, keys: NDArray[np.void]) -> None:
        """Keys that were deleted: their places are free for others."""
        for svc in keys["svc"].tolist():
            self._keys.pop(svc, None)


class BothReds:
    """The kernel's counts and those made here, as one map."""

    def __init__(self, kernel: RedReader, counted: Counted) -> None:
        self._kernel, self._counted = kernel, counted

    def read_red(self) -> tuple[NDArray[np.void], NDArray[np.void]]:
        """Keys RED_KEY (n,) and values RED (n, CPUs). No key is in both: they differ in `protocol`."""
        keys, values = self._kernel.read_red()
        own_keys, own = self._counted.counts.read_red()
        if not len(own_keys):
            return keys, values
        wide = np.zeros((len(own), values.shape[1]), RED)
        wide[:, 0] = own[:, 0]
        return np.concatenate([keys, own_keys]), np.concatenate([values, wide])

    def delete_red(self, keys: NDArray[np.void]) -> object:
        """Of services that are gone, all keys."""
        self._counted.counts.delete_red(keys)
        self._counted.forget(keys)
        return self._kernel.delete_red(keys)
