# SPDX-License-Identifier: Apache-2.0
"""The live source over rings in memory: what it gives, when it looks, how it is woken and closed."""

from __future__ import annotations

import os
import threading
import time

import numpy as np
import pytest
from fake_ring import PAGE, Kernel, event, exchange

from instrumenter.bpf.abi import TEXT_LONG, TEXT_SHORT
from instrumenter.source import (
    LOOK_S,
    MAX_RECORDS,
    Records,
    RingSource,
    clock_offset_ns,
)


class Rings:
    """Three rings in memory and the source over them."""

    def __init__(self) -> None:
        self.short, self.long, self.events, self.frames = (Kernel(16 * PAGE) for _ in range(4))
        self.source = RingSource(self.short.pages, self.long.pages, self.events.pages, self.frames.pages)


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
    source = RingSource(kernel.pages, rings.long.pages, rings.events.pages, rings.frames.pages)
    body = exchange(5).tobytes()
    kernel.submit(body for _ in range(18_000))  # more than one batch
    counts = [len(source.poll(5.0).exchanges[0].x)]
    began = time.monotonic()
    while sum(counts) < 18_000:
        counts.append(len(source.poll(5.0).exchanges[0].x))
    assert len(counts) == -(-18_000 // MAX_RECORDS)
    assert time.monotonic() - began < 3 * LOOK_S  # it would be eight of them
    source.close()


def test_exchanges_wait_for_more_but_events_do_not() -> None:
    rings = Rings()
    rings.short.submit([exchange(0).tobytes()])
    assert rings.source.poll(60.0)
    began = time.monotonic()
    rings.short.submit([exchange(1).tobytes()])
    assert rings.source.poll(60.0).exchanges
    assert LOOK_S / 2 < time.monotonic() - began < 10
    rings.short.submit([exchange(1).tobytes()])
    assert rings.source.poll(0.0).exchanges  # nobody waits longer than asked
    rings.source.close()


def test_exchanges_wait_as_long_as_is_asked_for_but_not_past_the_end_of_a_poll() -> None:
    rings = Rings()
    rings.source.look_s = 60.0
    assert not rings.source.poll(0.0)
    rings.short.submit([exchange(0).tobytes()])
    began = time.monotonic()
    assert rings.source.poll(2 * LOOK_S).exchanges
    assert time.monotonic() - began > 1.5 * LOOK_S
    rings.source.close()


def test_an_event_wakes_the_source_and_exchanges_still_wait() -> None:
    rings, woken = Rings(), os.eventfd(0)
    source = RingSource(rings.short.pages, rings.long.pages, rings.events.pages, rings.frames.pages, event_fd=woken)
    assert not source.poll(0.0)
    rings.short.submit([exchange(1).tobytes()])
    rings.events.submit([event(1).tobytes(), event(2).tobytes()])
    os.eventfd_write(woken, 1)
    records = source.poll(60.0)
    assert (len(records.exchanges), len(records.events)) == (0, 2)
    records = source.poll(60.0)
    assert (len(records.exchanges), len(records.events)) == (1, 0)
    source.close()
    os.close(woken)


def test_a_ring_that_fills_wakes_the_source() -> None:
    rings, woken = Rings(), os.eventfd(0)
    source = RingSource(
        rings.short.pages, rings.long.pages, rings.events.pages, rings.frames.pages, exchange_fds=(woken,)
    )
    took = []
    for number in range(8):
        rings.short.submit([exchange(number).tobytes()])
        os.eventfd_write(woken, 1)
        began = time.monotonic()
        assert source.poll(60.0).exchanges[0].x["connection"].tolist() == [number]
        took.append(time.monotonic() - began)
    assert min(took) < LOOK_S / 2  # not by the clock
    source.close()
    os.close(woken)


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
