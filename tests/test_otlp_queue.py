# SPDX-License-Identifier: Apache-2.0
"""The queue's bounds and batches, and the ledger's account."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest
from otlp_parts import account, make_spans

from exporters.otlp import BatchOptions
from exporters.queue import Ledger, SpanQueue, Tally, footprint, merge_tallies, split_tally
from instrumenter.model import Spans
from instrumenter.telemetry import Counters, tally


def numbers(batch: list[Spans]) -> list[int]:
    return [int.from_bytes(row.tobytes(), "big") for spans in batch for row in spans.span_id]


def test_batches_keep_order_and_size() -> None:
    queue = SpanQueue(BatchOptions(max_batch_spans=10, delay_s=0.0))
    for first, n in ((1, 4), (5, 17), (22, 1)):
        assert queue.offer(make_spans(n, first=first)) == n
    taken = [numbers(queue.take()) for _ in range(3)]
    assert [len(batch) for batch in taken] == [10, 10, 2]
    assert [n for batch in taken for n in batch] == list(range(1, 23))
    assert len(queue) == 0


@pytest.mark.parametrize(
    ("options", "offered", "taken"),
    [
        (BatchOptions(max_queue_spans=25), [10, 10, 10, 10], [10, 10, 5, 0]),
        (BatchOptions(max_queue_spans=25), [100], [25]),
        (BatchOptions(max_queue_bytes=footprint(make_spans(20)) + 20), [20, 1], [20, 0]),
        (BatchOptions(max_queue_bytes=10), [5], [0]),
    ],
)
def test_bounds(options: BatchOptions, offered: list[int], taken: list[int]) -> None:
    queue = SpanQueue(options)
    assert [queue.offer(make_spans(n)) for n in offered] == taken


def test_room_comes_back() -> None:
    """Bytes are given back to the last one, also of batches taken in parts."""
    one = footprint(make_spans(10))
    queue = SpanQueue(BatchOptions(max_queue_bytes=3 * one, max_batch_spans=7, delay_s=0.0))
    for _ in range(50):
        while queue.offer(make_spans(10)) == 10:
            pass
        while len(queue):
            queue.take()
    assert queue.offer(make_spans(10)) == 10


def test_views_count_what_they_keep_alive() -> None:
    spans = make_spans(1000)
    part = spans.take(slice(1))
    assert footprint(part) == footprint(spans)
    assert footprint(spans.take(np.arange(1))) < footprint(spans) / 100


def test_take_waits_for_the_delay_or_a_full_batch_or_close() -> None:
    queue = SpanQueue(BatchOptions(max_batch_spans=10, delay_s=0.2))
    queue.offer(make_spans(3))
    begin = time.monotonic()
    assert len(numbers(queue.take())) == 3
    assert time.monotonic() - begin > 0.15
    patient = SpanQueue(BatchOptions(max_batch_spans=10, delay_s=100))
    got: list[list[int]] = []
    thread = threading.Thread(target=lambda: got.extend(numbers(patient.take()) for _ in range(3)))
    thread.start()
    patient.offer(make_spans(10))
    patient.offer(make_spans(2, first=11))
    patient.close()
    thread.join(10)
    assert got == [list(range(1, 11)), [11, 12], []]
    assert patient.offer(make_spans(1)) == 0


def test_ledger() -> None:
    counters = Counters()
    ledger = Ledger(counters, "x")
    ledger.take_in((("a", 5), ("b", 2)))
    ledger.settle("spans.exported", (("a", 3),))
    assert account(counters) == {"spans.in_flight": 4, "spans.exported": 3}
    assert ledger.abandon() == 4
    ledger.settle("spans.exported", (("a", 2),))  # too late: counted already
    ledger.take_in((("a", 1),))
    assert ledger.abandon() == 0
    assert account(counters) == {"spans.exported": 3, "spans.dropped.shutdown": 5}
    assert counters.value("spans.dropped.shutdown", service="b", exporter="x") == 2


@pytest.mark.parametrize(
    ("spans", "amount", "first", "rest"),
    [
        ((("a", 3), ("b", 5)), 0, (), (("b", 5), ("a", 3))),
        ((("a", 3), ("b", 5)), 6, (("b", 5), ("a", 1)), (("a", 2),)),
        ((("a", 3),), 3, (("a", 3),), ()),
    ],
)
def test_split_tally(spans: Tally, amount: int, first: Tally, rest: Tally) -> None:
    assert split_tally(spans, amount) == (first, rest)


def test_merge_tallies() -> None:
    assert merge_tallies([(("a", 1),), (("b", 2), ("a", 3))]) == (("a", 4), ("b", 2))
    assert tally(make_spans(5, ("a", "b", "a"))) == (("a", 3), ("b", 2))
