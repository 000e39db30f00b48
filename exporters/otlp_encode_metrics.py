# SPDX-License-Identifier: Apache-2.0
"""Metrics as OTLP requests: points with their heads in, serialized ExportMetricsServiceRequests out.

The rules it protects: no request is larger than the receiver takes, and it is known which points each one holds; the
bytes are what opentelemetry-proto's messages would give. What a series has at every export is encoded once.
Source: opentelemetry/proto/metrics/v1/metrics.proto.
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Iterable, Iterator
from typing import Final, Generic, NamedTuple, TypeVar

from exporters import template as t
from exporters.otlp_delta import Point
from exporters.otlp_transport import SCHEMA_URL
from instrumenter.model import (
    Attributes,
    Exemplar,
    ExplicitBuckets,
    ExponentialBuckets,
    HistogramPoint,
    Metric,
    NumberPoint,
    Resource,
)

SCOPE: Final = "stingless"
_OVERHEAD: Final = 16  # bytes of tags and lengths around a point, at most
_REMEMBERED: Final = 4096  # sets of attributes
_DELTA, _CUMULATIVE = 1, 2  # AggregationTemporality

# Field numbers. Those that differ between the points are in the functions that write them.
_RESOURCE_METRICS = 1
_RESOURCE_SCOPE_METRICS, _SCHEMA_URL = 2, 3
_SCOPE_METRICS = 2
_NAME, _DESCRIPTION, _UNIT = 1, 2, 3
_GAUGE, _SUM, _HISTOGRAM, _EXPONENTIAL = 5, 7, 9, 10
_POINTS, _TEMPORALITY, _MONOTONIC = 1, 2, 3
_NUMBER_ATTRIBUTES, _HISTOGRAM_ATTRIBUTES, _EXPONENTIAL_ATTRIBUTES = 7, 9, 1

K = TypeVar("K")
MetricKey = tuple[str, int, bool]  # name, kind of data, delta


class Entry(NamedTuple, Generic[K]):
    """A point to encode. key: what the caller knows it by; head: its metric, whose own points are not looked at."""

    key: K
    head: Metric
    point: Point
    delta: bool


class MetricEncoder:
    """Encodes snapshots. Not thread-safe: it remembers resources and attributes, by identity.

    version: of the instrumentation scope, empty to omit. max_bytes: about the largest request; a single point may be
    larger.
    """

    def __init__(self, version: str, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._scope = t.scope_field(SCOPE, version)
        self._schema = t.message(_SCHEMA_URL, t.text(SCHEMA_URL))
        self._resources = t.Remembered(t.resource_field, 1024)
        self._attributes = {
            number: t.Remembered[Attributes, bytes](functools.partial(t.attributes, number), _REMEMBERED)
            for number in (_NUMBER_ATTRIBUTES, _HISTOGRAM_ATTRIBUTES, _EXPONENTIAL_ATTRIBUTES)
        }

    def encode(self, entries: Iterable[Entry[K]]) -> Iterator[tuple[bytes, list[K]]]:
        """Requests, each with the keys of its points."""
        points: dict[Resource, dict[MetricKey, tuple[Metric, list[bytes]]]] = {}
        keys: list[K] = []
        size = 0
        for key, head, point, delta in entries:
            if keys and size > self._max_bytes - 4096:
                yield self._request(points), keys
                points, keys, size = {}, [], 0
            metrics = points.get(head.resource)
            if metrics is None:
                metrics = points[head.resource] = {}
                size += len(self._resources.get(head.resource)) + len(self._scope) + 2 * len(self._schema) + _OVERHEAD
            data, body = self._point(head.kind, point)
            metric = metrics.get((head.name, data, delta))
            if metric is None:
                metric = metrics[head.name, data, delta] = (head, [])
                size += len(_front(head.name, head.description, head.unit)) + _OVERHEAD
            metric[1].append(t.message(_POINTS, body))
            size += len(body) + _OVERHEAD
            keys.append(key)
        if keys:
            yield self._request(points), keys

    def _request(self, points: dict[Resource, dict[MetricKey, tuple[Metric, list[bytes]]]]) -> bytes:
        out = []
        for resource, metrics in points.items():
            parts = [
                t.message(_SCOPE_METRICS, _metric(head, data, delta, bodies))
                for (_, data, delta), (head, bodies) in metrics.items()
            ]
            scope = t.message(_RESOURCE_SCOPE_METRICS, b"".join([self._scope, *parts, self._schema]))
            out.append(t.message(_RESOURCE_METRICS, self._resources.get(resource) + scope + self._schema))
        return b"".join(out)

    def _point(self, kind: str, point: Point) -> tuple[int, bytes]:
        """The field of Metric.data that the point belongs to, and the point."""
        if isinstance(point, NumberPoint):
            attributes = self._attributes[_NUMBER_ATTRIBUTES].get(point.attributes)
            return _GAUGE if kind == "gauge" else _SUM, _number(point) + attributes
        if isinstance(point.buckets, ExponentialBuckets):
            attributes = self._attributes[_EXPONENTIAL_ATTRIBUTES].get(point.attributes)
            return _EXPONENTIAL, attributes + _exponential(point, point.buckets)
        attributes = self._attributes[_HISTOGRAM_ATTRIBUTES].get(point.attributes)
        return _HISTOGRAM, _explicit(point, point.buckets) + attributes


@functools.lru_cache(maxsize=1024)
def _front(name: str, description: str, unit: str) -> bytes:
    """The fields of a Metric before its data."""
    fields = ((_NAME, name), (_DESCRIPTION, description), (_UNIT, unit))
    return b"".join([t.message(number, t.text(value)) for number, value in fields if value])


def _metric(head: Metric, data: int, delta: bool, points: list[bytes]) -> bytes:
    how = b""
    if data != _GAUGE:
        how = bytes((_TEMPORALITY << 3, _DELTA if delta else _CUMULATIVE))
    if data == _SUM:
        how += bytes((_MONOTONIC << 3, 1))
    return _front(head.name, head.description, head.unit) + t.message(data, b"".join(points) + how)


def _fixed(number: int, value: int) -> bytes:
    """A fixed64 field; a default is not written."""
    return struct.pack("<BQ", number << 3 | t.FIXED64, value) if value else b""


def _double(number: int, value: float) -> bytes:
    """A double field that is written whatever it is."""
    return struct.pack("<Bd", number << 3 | t.FIXED64, value)


def _times(point: Point) -> bytes:
    return _fixed(2, point.start_ns) + _fixed(3, point.time_ns)


def _number(point: NumberPoint) -> bytes:
    """NumberDataPoint but for its attributes."""
    if isinstance(point.value, int):
        return _times(point) + struct.pack("<Bq", 6 << 3 | t.FIXED64, point.value)
    return _times(point) + _double(4, point.value)


def _explicit(point: HistogramPoint, buckets: ExplicitBuckets) -> bytes:
    """HistogramDataPoint but for its attributes, which come last."""
    counts = t.message(6, struct.pack(f"<{len(buckets.counts)}Q", *buckets.counts)) if buckets.counts else b""
    bounds = t.message(7, struct.pack(f"<{len(buckets.bounds)}d", *buckets.bounds)) if buckets.bounds else b""
    return b"".join([_counted(point), counts, bounds, *[_exemplar(8, e) for e in point.exemplars]])


def _exponential(point: HistogramPoint, buckets: ExponentialBuckets) -> bytes:
    """ExponentialHistogramDataPoint but for its attributes, which come first."""
    counts = t.message(2, b"".join(map(t.varint, buckets.counts))) if buckets.counts else b""
    parts = [
        _counted(point),
        _zigzag(6, buckets.scale),
        _fixed(7, buckets.zero_count),
        t.message(8, _zigzag(1, buckets.offset) + counts),
        *[_exemplar(11, e) for e in point.exemplars],
        _double(14, buckets.zero_threshold) if buckets.zero_threshold else b"",
    ]
    return b"".join(parts)


def _counted(point: HistogramPoint) -> bytes:
    """What both kinds of histograms begin with; `sum` is an optional field, so it is there even if it is 0."""
    return _times(point) + _fixed(4, point.count) + _double(5, point.sum)


def _zigzag(number: int, value: int) -> bytes:
    """A sint32 field."""
    return bytes((number << 3,)) + t.varint(value * 2 if value >= 0 else -value * 2 - 1) if value else b""


def _exemplar(number: int, exemplar: Exemplar) -> bytes:
    ids = [t.message(field, value) for field, value in ((4, exemplar.span_id), (5, exemplar.trace_id)) if value]
    return t.message(number, b"".join([_fixed(2, exemplar.time_ns), _double(3, exemplar.value), *ids]))
