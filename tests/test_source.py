# SPDX-License-Identifier: Apache-2.0
"""The live source over rings in memory: what it gives, when it looks, how it is woken and closed."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest
from fake_ring import PAGE, Kernel, event, exchange

from instrumenter.bpf.abi import TEXT_LONG, TEXT_SHORT
from instrumenter.source import (
    GATHER_S,
    LONGEST_S,
    MAX_RECORDS,
    SHORTEST_S,
    Records,
    RingSource,
    clock_offset_ns,
    next_period,
)


@pytest.mark.parametrize(
    ("period", "waited", "fill", "expected"),
    [
        (LONGEST_S, LONGEST_S, 0.0, LONGEST_S),
        (LONGEST_S, LONGEST_S, 0.25, LONGEST_S),
        (LONGEST_S, LONGEST_S, 0.5, LONGEST_S / 2),
        (LONGEST_S, LONGEST_S, 1.0, LONGEST_S / 4),
        (LONGEST_S, 0.0, 1.0, SHORTEST_S),
        (0.004, 0.004, 0.0, 0.008),
        (0.004, 0.004, 0.01, 0.008),
        (LONGEST_S, LONGEST_S, 0.01, LONGEST_S),
    ],
)
def test_next_period(period: float, waited: float, fill: float, expected: float) -> None:
    assert next_period(period, waited, fill) == pytest.approx(expected)


class Rings:
    """Three rings in memory and the source over them."""

    def __init__(self) -> None:
        self.short, self.long, self.events = Kernel(16 * PAGE), Kernel(16 * PAGE), Kernel(16 * PAGE)
        self.source = RingSource(self.short.pages, self.long.pages, self.events.pages)


def test_source_gives_both_kinds_of_exchanges_and_events() -> None:
    rings = Rings()
    rings.short.submit(exchange(i).tobytes() for i in range(3))
    rings.long.submit([exchange(99, long=True).tobytes()])
    rings.events.submit([event(1234).tobytes()])
    records = rings.source.poll(1.0)
    assert [e.x["connection"].tolist() for e in records.exchanges] == [[0, 1, 2], [99]]
    assert [e.text.shape for e in records.exchanges] == [(3, TEXT_SHORT), (1, TEXT_LONG)]
    assert records.exchanges[1].text[0, :2].tobytes() == b"99"
    assert records.events["tgid"].tolist() == [1234]
    assert records.events["comm"].tolist() == [b"nginx"]
    assert abs(records.clock_offset_ns - (time.time_ns() - time.monotonic_ns())) < 50_000_000
    assert rings.source.fill()["exchanges"] > 0
    rings.source.close()


def test_poll_without_records_returns_empty_at_its_timeout() -> None:
    source = Rings().source
    began = time.monotonic()
    records = source.poll(0.12)
    assert not records
    assert 0.1 < time.monotonic() - began < 5
    source.close()


def test_poll_with_a_backlog_does_not_wait() -> None:
    rings = Rings()
    kernel = Kernel(64 << 20)  # so large that its fill alone would not shorten the wait
    rings.source.close()
    source = RingSource(kernel.pages, rings.long.pages, rings.events.pages)
    body = exchange(5).tobytes()
    kernel.submit(body for _ in range(18_000))  # more than one batch
    counts = [len(source.poll(5.0).exchanges[0].x)]
    began = time.monotonic()
    while sum(counts) < 18_000:
        counts.append(len(source.poll(5.0).exchanges[0].x))
    assert len(counts) == -(-18_000 // MAX_RECORDS)
    assert time.monotonic() - began < LONGEST_S * 0.9
    source.close()


def test_a_few_exchanges_wait_for_more_but_events_do_not() -> None:
    rings = Rings()
    rings.long.submit([exchange(0, long=True).tobytes()])  # 2 KB of 64 KB: not few
    assert rings.source.poll(60.0)
    began = time.monotonic()
    rings.short.submit([exchange(1).tobytes()])
    assert rings.source.poll(60.0)
    assert time.monotonic() - began >= GATHER_S - LONGEST_S
    rings.short.submit([exchange(1).tobytes()])
    rings.events.submit([event(1).tobytes()])
    records = rings.source.poll(60.0)
    assert (len(records.exchanges), len(records.events)) == (0, 1)
    assert time.monotonic() - began < 2 * GATHER_S
    assert rings.source.poll(60.0).exchanges
    rings.short.submit([exchange(1).tobytes()])
    assert rings.source.poll(0.0).exchanges  # nobody waits longer than asked
    rings.source.close()


@pytest.mark.parametrize("how", ["wake", "close"])
def test_a_waiting_poll_can_be_ended(how: str) -> None:
    source = Rings().source
    results: list[Records] = []
    thread = threading.Thread(target=lambda: results.append(source.poll(60.0)))
    thread.start()
    getattr(source, how)()
    thread.join(10)
    assert not thread.is_alive()
    assert not results[0]
    assert source.exhausted is (how == "close")
    source.close()
    source.close()
    assert not source.poll(0)
    assert not source.drain()


def test_clock_offset_is_steady() -> None:
    offsets = [clock_offset_ns() for _ in range(100)]
    assert np.ptp(offsets) < 1_000_000
