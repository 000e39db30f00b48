# SPDX-License-Identifier: Apache-2.0
"""Multiplexed connections, as a stage: the kernel's frames become exchanges like those that it finished itself.

In: what the `frames` ring held. Out: batches of `Exchanges`, counted and sampled. The rule: what goes wrong with one
batch costs that batch's connections their names, never the agent.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Final

import numpy as np
from numpy.typing import NDArray

from instrumenter.counted import BothReds, Counted, RedReader
from instrumenter.histogram import Histograms
from instrumenter.protocols.http2_records import Finished, FrameRecords
from instrumenter.protocols.http2_rows import Rows
from instrumenter.records import Exchanges
from instrumenter.semantics import METHODS
from instrumenter.telemetry import Counters

_QUIET_NS: Final = 60_000_000_000  # a stream whose end may have been lost ends when it was quiet for so long
_LOOK_NS: Final = 10_000_000_000


class Streams:
    """All multiplexed connections. Not thread-safe."""

    def __init__(
        self,
        settings: NDArray[np.void],
        histograms: Histograms,
        counters: Counters,
        methods: Sequence[str] = METHODS,
    ) -> None:
        """settings: abi.SETTINGS, as given to the kernel: the sampler, and how many metric keys a service may have."""
        self._records = FrameRecords()
        self._rows = Rows(methods)
        self._counted = Counted(settings, histograms, counters)
        self._counters = counters
        self._told = asdict(self._records.counts)
        self._looked_ns = 0

    def beside(self, kernel: RedReader) -> RedReader:
        """The kernel's counts and those made here, as one map."""
        return BothReds(kernel, self._counted)

    def take(self, frames: bytes) -> list[Exchanges]:
        """What became finished by these records."""
        if not frames:
            return []
        finished: list[Finished] = self._records.take(frames)
        now_ns = self._records.now_ns
        if now_ns - self._looked_ns > _LOOK_NS:
            self._looked_ns = now_ns
            finished += self._records.expire(now_ns - _QUIET_NS)
        if not finished:
            return []
        self._count()
        batches = [self._counted.take(batch) for batch in self._rows.exchanges(finished)]
        return [batch for batch in batches if len(batch.x)]

    def _count(self) -> None:
        """Book what happened on the connections."""
        now = asdict(self._records.counts)
        for name, amount in now.items():
            if amount > self._told[name] and (counter := "http2." + name) in _BOOKED:
                self._counters.add(counter, amount - self._told[name])
        self._told = now


_BOOKED: Final = frozenset(
    "http2." + name
    for name in (
        "unanswered", "undecodable", "nameless", "gaps", "streams_evicted", "connections_evicted", "unfollowed",
    )
)  # fmt: skip
