# SPDX-License-Identifier: Apache-2.0
"""Metrics as OTLP requests: points with their heads in, serialized ExportMetricsServiceRequests out.

Built from opentelemetry-proto's messages: there are hundreds of points a minute, not hundreds of thousands a second.
The rule it protects: no request is larger than the receiver takes, and it is known which points each one holds.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator
from typing import Any, Final, Generic, NamedTuple, TypeVar

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, ArrayValue, KeyValue
from opentelemetry.proto.metrics.v1 import metrics_pb2 as pb

from exporters.otlp_delta import Point
from exporters.otlp_transport import SCHEMA_URL
from instrumenter.model import (
    Attributes,
    Exemplar,
    ExponentialBuckets,
    HistogramPoint,
    Metric,
    NumberPoint,
    Resource,
    Value,
)

SCOPE: Final = "stingless"
_OVERHEAD: Final = 16  # bytes of tags and lengths around a point, at most

_DELTA: Final = int(pb.AGGREGATION_TEMPORALITY_DELTA)
_CUMULATIVE: Final = int(pb.AGGREGATION_TEMPORALITY_CUMULATIVE)

K = TypeVar("K")


class Entry(NamedTuple, Generic[K]):
    """A point to encode. key: what the caller knows it by; head: its metric, whose own points are not looked at."""

    key: K
    head: Metric
    point: Point
    delta: bool


def encode_metrics(entries: Iterable[Entry[K]], version: str, max_bytes: int) -> Iterator[tuple[bytes, list[K]]]:
    """Requests of at most about max_bytes (a single point may be larger), each with the keys of its points."""
    request = _Request(version)
    keys: list[K] = []
    for entry in entries:
        if keys and request.size > max_bytes - 4096:
            yield request.message.SerializeToString(), keys
            request, keys = _Request(version), []
        request.add(entry.head, entry.point, entry.delta)
        keys.append(entry.key)
    if keys:
        yield request.message.SerializeToString(), keys


class _Request:
    """One request being filled: resources, and in each its metrics, are opened when their first point comes."""

    def __init__(self, version: str) -> None:
        self.message: Any = ExportMetricsServiceRequest()  # Any: protobuf's own methods have no types
        self.size = 0  # about what it will take, never less but for long attributes of the last point
        self._version = version
        self._scopes: dict[Resource, Any] = {}
        self._metrics: dict[tuple[Resource, str, type | None, bool], Any] = {}

    def add(self, head: Metric, point: Point, delta: bool) -> None:
        form = type(point.buckets) if isinstance(point, HistogramPoint) else None
        key = (head.resource, head.name, form, delta)
        metric = self._metrics.get(key)
        if metric is None:
            metric = self._metrics[key] = self._open(head)
        message = _append(metric, head.kind, point, _DELTA if delta else _CUMULATIVE)
        self.size += message.ByteSize() + _OVERHEAD

    def _open(self, head: Metric) -> Any:
        scope = self._scopes.get(head.resource)
        if scope is None:
            of_resource = self.message.resource_metrics.add(schema_url=SCHEMA_URL)
            of_resource.resource.attributes.extend(key_values(head.resource.attributes))
            scope = of_resource.scope_metrics.add(schema_url=SCHEMA_URL)
            scope.scope.name, scope.scope.version = SCOPE, self._version
            self._scopes[head.resource] = scope
            self.size += of_resource.ByteSize() + _OVERHEAD
        metric = scope.metrics.add(name=head.name, unit=head.unit, description=head.description)
        self.size += metric.ByteSize() + _OVERHEAD
        return metric


def _append(metric: Any, kind: str, point: Point, temporality: int) -> Any:
    """Add the point to the metric's data, of whatever kind; returns the point's message."""
    if isinstance(point, NumberPoint):
        if kind == "gauge":
            number = metric.gauge.data_points.add()
        else:
            metric.sum.aggregation_temporality = temporality
            metric.sum.is_monotonic = True
            number = metric.sum.data_points.add()
        _number(number, point)
        return number
    if isinstance(point.buckets, ExponentialBuckets):
        metric.exponential_histogram.aggregation_temporality = temporality
        exponential = metric.exponential_histogram.data_points.add()
        _exponential(exponential, point.buckets)
        _histogram(exponential, point)
        return exponential
    metric.histogram.aggregation_temporality = temporality
    explicit = metric.histogram.data_points.add()
    explicit.explicit_bounds.extend(point.buckets.bounds)
    explicit.bucket_counts.extend(point.buckets.counts)
    _histogram(explicit, point)
    return explicit


def _number(message: pb.NumberDataPoint, point: NumberPoint) -> None:
    message.attributes.extend(key_values(point.attributes))
    message.start_time_unix_nano, message.time_unix_nano = point.start_ns, point.time_ns
    if isinstance(point.value, int):
        message.as_int = point.value
    else:
        message.as_double = point.value


def _histogram(message: pb.HistogramDataPoint | pb.ExponentialHistogramDataPoint, point: HistogramPoint) -> None:
    message.attributes.extend(key_values(point.attributes))
    message.start_time_unix_nano, message.time_unix_nano = point.start_ns, point.time_ns
    message.count, message.sum = point.count, point.sum
    message.exemplars.extend(_exemplar(e) for e in point.exemplars)


def _exponential(message: pb.ExponentialHistogramDataPoint, buckets: ExponentialBuckets) -> None:
    message.scale = buckets.scale
    message.zero_count, message.zero_threshold = buckets.zero_count, buckets.zero_threshold
    message.positive.offset = buckets.offset
    message.positive.bucket_counts.extend(buckets.counts)


def _exemplar(exemplar: Exemplar) -> pb.Exemplar:
    return pb.Exemplar(
        as_double=exemplar.value,
        time_unix_nano=exemplar.time_ns,
        trace_id=exemplar.trace_id,
        span_id=exemplar.span_id,
    )


@functools.lru_cache(maxsize=8192)
def _texts(attributes: Attributes) -> tuple[KeyValue, ...]:
    return tuple([KeyValue(key=key, value=_any(value)) for key, value in attributes])


def key_values(attributes: Attributes) -> tuple[KeyValue, ...]:
    """Attributes as OTLP has them. Those of texts alone are remembered: 1, 1.0 and True are equal keys."""
    if all(type(value) is str for _, value in attributes):
        return _texts(attributes)
    return tuple([KeyValue(key=key, value=_any(value)) for key, value in attributes])


def _any(value: Value) -> AnyValue:
    match value:
        case bool():
            return AnyValue(bool_value=value)
        case str():
            # What a file system or a peer named may not be UTF-8; Python holds it with surrogates, OTLP must not.
            return AnyValue(string_value=value if value.isascii() else value.encode("utf-8", "replace").decode())
        case int():
            return AnyValue(int_value=value)
        case float():
            return AnyValue(double_value=value)
    return AnyValue(array_value=ArrayValue(values=[_any(part) for part in value]))
