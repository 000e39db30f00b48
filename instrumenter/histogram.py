# SPDX-License-Identifier: Apache-2.0
"""The histograms' boundaries: as tables of integers for the kernel, and back from its bucket arrays to OTLP's terms.

In: the histogram settings; out: `settings.duration_bounds` and `.size_bounds`, and buckets for `metrics`. The rule it
protects: what the kernel counted in bucket i is exported in exactly the OTLP bucket that its value belongs to.

The kernel's rule: bucket i is the first with value <= bound[i]; behind the last bound comes the overflow.
OTLP's rule (opentelemetry.proto.metrics.v1.ExponentialHistogramDataPoint): index i holds (base^i, base^(i+1)],
base = 2^(2^-scale). Why integers do not blur it: values are integers (ns, bytes), and for an integer v and any real
boundary B, v <= B holds exactly when v <= floor(B). So the floors below put every value where the real boundaries
would. Bucket i >= 1 holds (B[i-1], B[i]], which is one OTLP bucket; bucket 0 holds everything up to B[0] and becomes
the zero bucket, its threshold being B[0]. A bucket can be empty because two floors are equal (sizes of 1 and sqrt(2)
bytes): no integer lies between, so this too is exact. Values beyond the last bound (4096 s, 2^47 bytes) go into the
bucket behind it, the only ones that may be too low.

Scale 3 makes neighbouring boundaries differ by 2^(1/8): a quantile told as the value in the middle is off by at most
(2^(1/8) - 1) / (2^(1/8) + 1) = 4.33 % (exporters/quantiles.py).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from itertools import pairwise
from typing import Final, NamedTuple

import numpy as np

from instrumenter.errors import ConfigError
from instrumenter.model import U64, ExplicitBuckets, ExponentialBuckets

DURATION_BOUNDS: Final = 256  # probes/include/abi.h
SIZE_BOUNDS: Final = 96
UNUSED: Final = 2**64 - 1
NS_PER_S: Final = 1_000_000_000
NS_PER_MS: Final = 1_000_000

DURATION_SCALE: Final = 3
CALL_OFFSET: Final = -80  # of durations in ms: bound[0] = 2^(-80/8) ms = 0.98 us; bound[255] = 2^(175/8) ms = 3846 s
DURATION_OFFSET: Final = -159  # bound[0] = 2^(-159/8) s = 1.04 us; bound[255] = 2^12 s = 4096 s
SIZE_SCALE: Final = 1
SIZE_OFFSET: Final = -1  # bound[0] = 0, so that empty bodies stand alone; bound[i] = 2^((i-1)/2) bytes up to 2^47

# Semantic conventions, http.server.request.duration. They name none for sizes: powers of four, empty bodies apart.
EXPLICIT_DURATIONS_S: Final = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
EXPLICIT_SIZES: Final = (0.0, *(float(4**i) for i in range(3, 14)))  # 64 B to 64 MiB


def exponential_bounds(unit: int = NS_PER_S, offset: int = DURATION_OFFSET) -> U64:
    """Upper bounds of durations in ns, u64 (256,): floor(unit * 2^((offset + i) / 8)), exact to the last one.

    The eighth root is three integer square roots; a floor of a root of a floor is the floor of the root.
    """

    def root8(power: int) -> int:
        n = unit**8 << power if power >= 0 else unit**8 >> -power
        return math.isqrt(math.isqrt(math.isqrt(n)))

    return np.array([root8(offset + i) for i in range(DURATION_BOUNDS)], np.uint64)


def exponential_size_bounds() -> U64:
    """Upper bounds of body sizes in bytes, u64 (96,): 0, then floor(2^((i - 1) / 2))."""
    return np.array([0, *(math.isqrt(1 << i) for i in range(SIZE_BOUNDS - 1))], np.uint64)


def explicit_bounds(bounds: Sequence[float], unit: int = NS_PER_S, places: int = DURATION_BOUNDS) -> U64:
    """Upper bounds u64 (places,) of explicit buckets, times `unit`, the unused ones 2^64-1.

    `places` is how many the kernel has room for. Raises ConfigError if they do not grow, or are too many.
    """
    exact = [Decimal(repr(float(b))) * unit for b in bounds]
    good = all(b.is_finite() and 0 <= b < UNUSED for b in exact) and all(a < b for a, b in pairwise(exact))
    if not good or not 0 < len(exact) < places:
        raise ConfigError(
            f"histogram boundaries {list(bounds)!r} must grow, be at least 0, and be 1 to {places - 1} in number;"
            f" the conventions' are {', '.join(map(str, EXPLICIT_DURATIONS_S))}"
        )
    table = np.full(places, UNUSED, np.uint64)
    table[: len(exact)] = [int(b) for b in exact]
    return table


@dataclass(frozen=True, slots=True)
class Layout:
    """How one of the kernel's bucket arrays is read.

    bounds: what the kernel searches, u64 (places,). Exponential: `scale`, and `offset`, the OTLP index of bucket 1;
    `zero_threshold` is the first bound in the metric's unit. Explicit: `edges`, the bounds in the metric's unit.
    """

    bounds: U64
    scale: int = 0
    offset: int = 0
    zero_threshold: float = 0.0
    edges: tuple[float, ...] = ()

    def buckets(self, counts: U64) -> list[ExponentialBuckets | ExplicitBuckets]:
        """The kernel's counts of k keys, u64 (k, places + 1 or more), in OTLP's terms, empty ends trimmed."""
        if self.edges:
            n = len(self.edges)
            overflow = counts[:, n:].sum(axis=1)
            both = zip(counts[:, :n].tolist(), overflow.tolist(), strict=True)
            return [ExplicitBuckets(self.edges, (*held, over)) for held, over in both]
        zero, rest = counts[:, 0].tolist(), counts[:, 1:]
        used = rest != 0
        first = used.argmax(axis=1)
        end = np.where(used.any(axis=1), rest.shape[1] - used[:, ::-1].argmax(axis=1), first)
        return [
            ExponentialBuckets(self.scale, self.offset + a, tuple(row[a:b].tolist()), z, self.zero_threshold)
            for row, z, a, b in zip(rest, zero, first.tolist(), end.tolist(), strict=True)
        ]


class Histograms(NamedTuple):
    """The layouts of durations (ns in the kernel, s outside) and of body sizes (bytes).

    call: of durations that are told in ms (the conventions for RPC); sizes' layout also serves numbers of messages.
    """

    duration: Layout
    size: Layout
    call: Layout


def exponential() -> Histograms:
    """Base-2 exponential buckets, the default."""
    duration = Layout(
        exponential_bounds(), DURATION_SCALE, DURATION_OFFSET, 2.0 ** (DURATION_OFFSET / 2**DURATION_SCALE)
    )
    call = Layout(
        exponential_bounds(NS_PER_MS, CALL_OFFSET),
        DURATION_SCALE,
        CALL_OFFSET,
        2.0 ** (CALL_OFFSET / 2**DURATION_SCALE),
    )
    return Histograms(duration, Layout(exponential_size_bounds(), SIZE_SCALE, SIZE_OFFSET, 0.0), call)


def explicit(
    durations_s: Sequence[float] = EXPLICIT_DURATIONS_S, sizes: Sequence[float] = EXPLICIT_SIZES
) -> Histograms:
    """Fixed buckets. Raises ConfigError."""
    return Histograms(
        Layout(explicit_bounds(durations_s), edges=tuple(map(float, durations_s))),
        Layout(explicit_bounds(sizes, 1, SIZE_BOUNDS), edges=tuple(map(float, sizes))),
        Layout(explicit_bounds(durations_s), edges=tuple(float(Decimal(repr(float(b))) * 1000) for b in durations_s)),
    )
