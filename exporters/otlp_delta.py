# SPDX-License-Identifier: Apache-2.0
"""Delta temporality: a cumulative point and the one last delivered in, the increment between them out.

Pure functions. The rule it protects: the sum of all increments delivered is the last cumulative value delivered.
"""

from __future__ import annotations

from dataclasses import replace

from instrumenter.model import ExplicitBuckets, ExponentialBuckets, HistogramPoint, NumberPoint

Point = HistogramPoint | NumberPoint
Buckets = ExponentialBuckets | ExplicitBuckets


def increment(point: Point, last: Point) -> Point | None:
    """What came to `last` since, from last.time_ns to point.time_ns; None if nothing. Both of one series and start."""
    if isinstance(point, NumberPoint):
        assert isinstance(last, NumberPoint)
        grown = point.value - last.value
        return replace(point, start_ns=last.time_ns, value=grown) if grown else None
    assert isinstance(last, HistogramPoint)
    if point.count == last.count:
        return None
    return replace(
        point,
        start_ns=last.time_ns,
        count=point.count - last.count,
        sum=point.sum - last.sum,
        buckets=_difference(point.buckets, last.buckets),
        exemplars=tuple(e for e in point.exemplars if e.time_ns > last.time_ns),
    )


def went_back(point: Point, last: Point) -> bool:
    """The series was begun again without saying so by a new start: its whole value is the increment."""
    if isinstance(point, NumberPoint):
        return not isinstance(last, NumberPoint) or point.value < last.value
    if not isinstance(last, HistogramPoint) or type(point.buckets) is not type(last.buckets):
        return True
    if isinstance(point.buckets, ExplicitBuckets) and isinstance(last.buckets, ExplicitBuckets):
        return point.count < last.count or point.buckets.bounds != last.buckets.bounds
    return point.count < last.count


def _difference(now: Buckets, last: Buckets) -> Buckets:
    if isinstance(now, ExplicitBuckets):
        assert isinstance(last, ExplicitBuckets)
        return replace(now, counts=tuple(a - b for a, b in zip(now.counts, last.counts, strict=True)))
    assert isinstance(last, ExponentialBuckets)
    scale = min(now.scale, last.scale)
    now, last = downscale(now, scale), downscale(last, scale)
    begin = min(now.offset, last.offset)
    end = max(now.offset + len(now.counts), last.offset + len(last.counts))
    counts = [0] * (end - begin)
    for buckets, sign in ((now, 1), (last, -1)):
        for i, n in enumerate(buckets.counts, buckets.offset - begin):
            counts[i] += sign * n
    return _trimmed(replace(now, offset=begin, counts=tuple(counts), zero_count=now.zero_count - last.zero_count))


def downscale(buckets: ExponentialBuckets, scale: int) -> ExponentialBuckets:
    """The same values in fewer, wider buckets: index i of scale s is i >> (s - scale) (OTLP data model)."""
    by = buckets.scale - scale
    if not by:
        return buckets
    offset = buckets.offset >> by
    counts = [0] * (((buckets.offset + len(buckets.counts) - 1) >> by) - offset + 1 if buckets.counts else 0)
    for i, n in enumerate(buckets.counts, buckets.offset):
        counts[(i >> by) - offset] += n
    return replace(buckets, scale=scale, offset=offset, counts=tuple(counts))


def _trimmed(buckets: ExponentialBuckets) -> ExponentialBuckets:
    """Without empty buckets at either end."""
    filled = [i for i, n in enumerate(buckets.counts) if n]
    if not filled:
        return replace(buckets, offset=0, counts=())
    first, last = filled[0], filled[-1]
    return replace(buckets, offset=buckets.offset + first, counts=buckets.counts[first : last + 1])
