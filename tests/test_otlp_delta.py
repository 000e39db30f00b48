# SPDX-License-Identifier: Apache-2.0
"""Increments between cumulative points: what is subtracted, rescaled and left out."""

from __future__ import annotations

import math
import random
from dataclasses import replace

import pytest

from exporters.otlp_delta import Buckets, Point, downscale, increment, went_back
from instrumenter.model import Exemplar, ExplicitBuckets, ExponentialBuckets, HistogramPoint, NumberPoint


def histogram(
    buckets: Buckets, time_ns: int, total: float = 0.0, exemplars: tuple[Exemplar, ...] = ()
) -> HistogramPoint:
    count = sum(buckets.counts) + (buckets.zero_count if isinstance(buckets, ExponentialBuckets) else 0)
    return HistogramPoint((("k", "v"),), 100, time_ns, count, total, buckets, exemplars)


def number(value: float, time_ns: int) -> NumberPoint:
    return NumberPoint((), 100, time_ns, value)


E = ExponentialBuckets
X = ExplicitBuckets

ROWS: list[tuple[Point, Point, Point | None]] = [
    (number(7, 300), number(4, 200), replace(number(3, 300), start_ns=200)),
    (number(4, 300), number(4, 200), None),
    (histogram(X((1.0,), (3, 5)), 300, 9.0), histogram(X((1.0,), (3, 1)), 200, 4.0),
     replace(histogram(X((1.0,), (0, 4)), 300, 5.0), start_ns=200)),
    (histogram(E(2, 10, (1, 2, 3), 5), 300, 9.0), histogram(E(2, 10, (1, 2, 3), 5), 200, 9.0), None),
    # Grown at both ends, and trimmed to what is new.
    (histogram(E(2, 8, (1, 0, 4, 2, 3, 9), 7), 300, 9.0), histogram(E(2, 10, (4, 2), 6), 200, 1.0),
     replace(histogram(E(2, 8, (1, 0, 0, 0, 3, 9), 1), 300, 8.0), start_ns=200)),
    (histogram(E(2, 8, (1, 5), 1), 300, 9.0), histogram(E(2, 8, (1,), 1), 200, 1.0),
     replace(histogram(E(2, 9, (5,), 0), 300, 8.0), start_ns=200)),
    # The scale was lowered between the two: index i of scale 3 is i >> 1 of scale 2.
    (histogram(E(2, -2, (3, 4, 5)), 300, 9.0), histogram(E(3, -3, (1, 1, 1, 2, 2)), 200, 1.0),
     replace(histogram(E(2, -2, (2, 2, 1)), 300, 8.0), start_ns=200)),
    (histogram(E(2, 5, (), 3), 300, 0.0), histogram(E(2, 0, (), 1), 200, 0.0),
     replace(histogram(E(2, 0, (), 2), 300, 0.0), start_ns=200)),
]  # fmt: skip


@pytest.mark.parametrize(("now", "last", "expected"), ROWS)
def test_increment(now: Point, last: Point, expected: Point | None) -> None:
    assert increment(now, last) == expected


def test_only_new_exemplars() -> None:
    old, new = (Exemplar(1.0, t, b"t" * 16, b"s" * 8) for t in (150, 250))
    now = histogram(X((), (2,)), 300, 2.0, (old, new))
    point = increment(now, histogram(X((), (1,)), 200, 1.0, (old,)))
    assert isinstance(point, HistogramPoint)
    assert point.exemplars == (new,)


@pytest.mark.parametrize(
    ("now", "last", "expected"),
    [
        (number(3, 300), number(4, 200), True),
        (number(4, 300), number(4, 200), False),
        (histogram(X((1.0,), (1, 1)), 300), histogram(X((1.0,), (1, 2)), 200), True),
        (histogram(X((2.0,), (9, 9)), 300), histogram(X((1.0,), (1, 2)), 200), True),
        (histogram(E(1, 0, (9,)), 300), histogram(X((1.0,), (1, 2)), 200), True),
        (histogram(E(1, 0, (9,)), 300), histogram(E(2, 0, (9,)), 200), False),
    ],
)
def test_went_back(now: Point, last: Point, expected: bool) -> None:
    assert went_back(now, last) is expected


def bucketed(values: list[float], scale: int) -> ExponentialBuckets:
    """Exponential buckets by the definition: bucket i holds (base^i, base^(i+1)]."""
    indexes = [math.ceil(math.log2(v) * 2.0**scale) - 1 for v in values]
    low = min(indexes)
    counts = [0] * (max(indexes) - low + 1)
    for i in indexes:
        counts[i - low] += 1
    return ExponentialBuckets(scale, low, tuple(counts))


def test_downscale_is_what_a_lower_scale_counts() -> None:
    chosen = random.Random(7)
    values = [chosen.lognormvariate(0, 3) for _ in range(500)]
    fine = bucketed(values, 5)
    for scale in (5, 4, 2, 0, -2):
        assert downscale(fine, scale) == bucketed(values, scale)


def test_increments_add_up() -> None:
    """Snapshots of growing values at scales that only sink: each increment holds exactly the values in between."""
    chosen = random.Random(8)
    values: list[float] = [1.0]
    last = histogram(bucketed(values, 6), 1)
    for time_ns, scale in enumerate((6, 6, 5, 5, 3, 1), 2):
        new = [chosen.lognormvariate(0, 2) for _ in range(chosen.randint(1, 40))]
        values += new
        now = histogram(bucketed(values, scale), time_ns)
        point = increment(now, last)
        assert isinstance(point, HistogramPoint)
        assert (point.count, point.buckets) == (len(new), bucketed(new, scale))
        last = now
