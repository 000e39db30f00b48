# SPDX-License-Identifier: Apache-2.0
"""The tables of bucket boundaries, the way back from the kernel's counts, and quantiles within 5 %."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import pytest

from exporters.quantiles import combine, quantile
from instrumenter import histogram
from instrumenter.bpf.abi import DURATION_BOUNDS, DURATION_BUCKETS, SIZE_BOUNDS
from instrumenter.errors import ConfigError
from instrumenter.histogram import UNUSED, explicit, explicit_bounds, exponential
from instrumenter.model import ExplicitBuckets, ExponentialBuckets


def bucket(layout: histogram.Layout, value: int) -> ExponentialBuckets | ExplicitBuckets:
    """What one value becomes, found in the bounds as the kernel finds it."""
    counts = np.zeros((1, len(layout.bounds) + 8), np.uint64)
    counts[0, int(np.searchsorted(layout.bounds, np.uint64(value), side="left"))] = 1
    return layout.buckets(counts)[0]


# -- tables --------------------------------------------------------------------------------------------------------


def test_bounds_are_the_floors_of_the_boundaries() -> None:
    """To the integer: bound^8 <= 10^72 * 2^k < (bound + 1)^8."""
    for i, bound in enumerate(histogram.exponential_bounds().tolist()):
        power = histogram.DURATION_OFFSET + i
        exact, scale = (10**72 << power, 1) if power >= 0 else (10**72, 1 << -power)
        assert bound**8 * scale <= exact < (bound + 1) ** 8 * scale
    for i, bound in enumerate(histogram.exponential_size_bounds().tolist()[1:]):
        assert bound**2 <= 1 << i < (bound + 1) ** 2


def test_tables_fit_the_kernels() -> None:
    duration, size, call = exponential()
    assert call.bounds[0] < 1_100
    assert (np.diff(call.bounds.astype(np.int64)) > 0).all()
    assert duration.bounds.dtype == size.bounds.dtype == np.uint64
    assert (len(duration.bounds), len(size.bounds)) == (DURATION_BOUNDS, SIZE_BOUNDS)
    assert (np.diff(duration.bounds.astype(np.int64)) > 0).all()
    assert (np.diff(size.bounds.astype(np.int64)) >= 0).all()
    assert duration.bounds[0] < 1_100
    assert duration.bounds[-1] == 4096 * 10**9 > 3600 * 10**9
    assert size.bounds[0] == 0
    assert size.bounds[-1] == 2**47


def test_every_value_is_in_the_bucket_that_otlp_gives_it() -> None:
    """At each boundary and beside it: (base^i, base^(i+1)], checked with integers, base^8 = 2."""
    duration = exponential().duration
    for bound in duration.bounds.tolist():
        for ns in (bound - 1, bound, bound + 1):
            held = bucket(duration, ns)
            assert isinstance(held, ExponentialBuckets)
            if held.zero_count:
                assert ns <= 1039
                assert ns / 1e9 <= held.zero_threshold
                continue
            assert held.counts == (1,)
            i = held.offset + 200  # shifted, so that all powers are positive
            assert 2**i * 10**72 < ns**8 * 2**200 <= 2 ** (i + 1) * 10**72


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        (0, ExponentialBuckets(1, -1, (), 1)),
        (1, ExponentialBuckets(1, -1, (1,))),
        (2, ExponentialBuckets(1, 1, (1,))),  # (sqrt 2, 2]
        (3, ExponentialBuckets(1, 3, (1,))),  # (2.83, 4]
        (4, ExponentialBuckets(1, 3, (1,))),
        (5, ExponentialBuckets(1, 4, (1,))),  # (4, 5.66]
        (2**47, ExponentialBuckets(1, 93, (1,))),
        (2**60, ExponentialBuckets(1, 94, (1,))),  # beyond the table
    ],
)
def test_sizes(size: int, expected: ExponentialBuckets) -> None:
    assert bucket(exponential().size, size) == expected


@pytest.mark.parametrize(
    ("seconds", "place"), [(0, 0), (0.005, 0), (0.005000001, 1), (0.0749, 4), (0.1, 5), (10, 13), (10.000000001, 14)]
)
def test_explicit_durations(seconds: float, place: int) -> None:
    held = bucket(explicit().duration, round(seconds * 1e9))
    assert isinstance(held, ExplicitBuckets)
    assert held.bounds == histogram.EXPLICIT_DURATIONS_S
    assert held.counts == tuple(int(i == place) for i in range(15))


def test_unused_explicit_bounds_hold_everything() -> None:
    bounds = explicit_bounds([0.1, 0.3])
    assert bounds.tolist() == [100_000_000, 300_000_000] + [UNUSED] * 254
    assert bucket(explicit([0.1, 0.3]).duration, 2**63) == ExplicitBuckets((0.1, 0.3), (0, 0, 1))


@pytest.mark.parametrize("bad", [[], [1, 1], [2, 1], [-1], [math.nan], [math.inf], [1e30], list(range(256))])
def test_bad_boundaries(bad: Sequence[float]) -> None:
    with pytest.raises(ConfigError, match="must grow"):
        explicit_bounds(bad)


# -- quantiles -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(6))
def test_quantiles_within_five_percent(seed: int) -> None:
    rng = np.random.default_rng(seed)
    shapes: list[Callable[[], object]] = [
        lambda: rng.lognormal(np.log(2e6), 1.5, 20_000),
        lambda: np.exp(rng.uniform(np.log(1.1e3), np.log(3.6e12), 20_000)),  # 1 us to 1 h
        lambda: rng.exponential(5e8, 20_000),
    ]
    for shape in shapes:
        values = np.clip(np.asarray(shape()), 1_041, 3.6e12).astype(np.uint64)
        layout = exponential().duration
        counts = np.bincount(np.searchsorted(layout.bounds, values, side="left"), minlength=DURATION_BUCKETS)
        buckets = layout.buckets(counts[np.newaxis].astype(np.uint64))[0]
        for q in (0.0, 0.01, 0.25, 0.5, 0.9, 0.95, 0.99, 0.999, 1.0):
            true = float(np.quantile(values, q, method="inverted_cdf")) / 1e9
            assert abs(quantile(buckets, q) / true - 1) <= 0.0434


def test_quantile_at_the_ends_of_a_bucket() -> None:
    """The promise is tight: 4.33 % at both ends, no more."""
    error = (2**0.125 - 1) / (2**0.125 + 1)
    told = quantile(ExponentialBuckets(3, -1, (1,)), 0.5)  # (2^(-1/8), 1]
    assert 1 - told == pytest.approx(error)
    assert told / 2**-0.125 - 1 == pytest.approx(error)
    assert error < 0.0434 < 0.05


@pytest.mark.parametrize(
    ("buckets", "q", "expected"),
    [
        (ExponentialBuckets(3, 0, ()), 0.5, math.nan),
        (ExponentialBuckets(3, 0, (), 5, 0.5), 0.5, 0.25),
        (ExponentialBuckets(3, 0, (1,), 1, 0.5), 0.5, 0.25),
        (ExplicitBuckets((1.0, 3.0), (0, 4, 0)), 0.5, 2.0),
        (ExplicitBuckets((1.0, 3.0), (4, 0, 0)), 1.0, 1.0),
        (ExplicitBuckets((1.0, 3.0), (0, 0, 9)), 0.5, 3.0),
    ],
)
def test_quantile_edges(buckets: ExponentialBuckets | ExplicitBuckets, q: float, expected: float) -> None:
    assert quantile(buckets, q) == pytest.approx(expected, nan_ok=True)


def test_combine() -> None:
    a, b = ExponentialBuckets(3, -2, (1, 2), 3, 0.1), ExponentialBuckets(3, 1, (5,), 1, 0.1)
    assert combine([(a, 1), (b, 1)]) == ExponentialBuckets(3, -2, (1, 2, 0, 5), 4, 0.1)
    assert combine([(a, 1), (a, -1)]) == ExponentialBuckets(3, -2, (0, 0), 0, 0.1)
    c = ExplicitBuckets((1.0,), (4, 5))
    assert combine([(c, 1), (ExplicitBuckets((1.0,), (1, 0)), -1)]) == ExplicitBuckets((1.0,), (3, 5))
