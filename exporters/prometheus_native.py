# SPDX-License-Identifier: Apache-2.0
"""Prometheus's protobuf exposition, for scrapers that ask for native histograms.

In: `Family`s. Out: length-delimited io.prometheus.client.MetricFamily messages. The rule it protects: a native
histogram holds exactly the exponential histogram's counts. Message and field numbers: the public definition of
io.prometheus.client (client_model); only what is written here is declared, as descriptors built at run time.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from exporters.prometheus_families import Family, Point, classic, exemplar_labels
from instrumenter.model import Exemplar, ExponentialBuckets, HistogramPoint

CONTENT_TYPE: Final = "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=delimited"
_TYPES: Final[Mapping[str, int]] = {"counter": 0, "gauge": 1, "histogram": 4}
_LARGEST_GAP: Final = 2  # empty buckets written as zeros rather than as the start of another span

# message -> field -> (number, type, repeated); a type with a capital is a message.
_MESSAGES: Final[Mapping[str, Mapping[str, tuple[int, str, bool]]]] = {
    "LabelPair": {"name": (1, "string", False), "value": (2, "string", False)},
    "Exemplar": {
        "label": (1, "LabelPair", True),
        "value": (2, "double", False),
        "timestamp": (3, "Timestamp", False),
    },
    "Gauge": {"value": (1, "double", False)},
    "Counter": {"value": (1, "double", False), "created_timestamp": (3, "Timestamp", False)},
    "Bucket": {
        "cumulative_count": (1, "uint64", False),
        "upper_bound": (2, "double", False),
        "exemplar": (3, "Exemplar", False),
    },
    "BucketSpan": {"offset": (1, "sint32", False), "length": (2, "uint32", False)},
    "Histogram": {
        "sample_count": (1, "uint64", False),
        "sample_sum": (2, "double", False),
        "bucket": (3, "Bucket", True),
        "schema": (5, "sint32", False),
        "zero_threshold": (6, "double", False),
        "zero_count": (7, "uint64", False),
        "positive_span": (12, "BucketSpan", True),
        "positive_delta": (13, "sint64", True),
        "created_timestamp": (15, "Timestamp", False),
        "exemplars": (16, "Exemplar", True),
    },
    "Metric": {
        "label": (1, "LabelPair", True),
        "gauge": (2, "Gauge", False),
        "counter": (3, "Counter", False),
        "histogram": (7, "Histogram", False),
    },
    "MetricFamily": {
        "name": (1, "string", False),
        "help": (2, "string", False),
        "type": (3, "MetricType", False),
        "metric": (4, "Metric", True),
        "unit": (5, "string", False),
    },
}
_ENUM: Final = ("COUNTER", "GAUGE", "SUMMARY", "UNTYPED", "HISTOGRAM", "GAUGE_HISTOGRAM")


def message_classes() -> dict[str, Any]:
    """Protobuf classes of the messages above, in a pool of their own. Costs a few milliseconds: keep the result."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, timestamp_pb2

    definitions: Any = descriptor_pb2  # its classes are made at run time, unknown to type checkers
    pools: Any = descriptor_pool
    factory: Any = message_factory
    package = "io.prometheus.client"
    kinds = {"Timestamp": ".google.protobuf.Timestamp"}
    file = definitions.FileDescriptorProto(
        name="stingless/prometheus.proto", package=package, syntax="proto2", dependency=[timestamp_pb2.DESCRIPTOR.name]
    )
    enum = file.enum_type.add(name="MetricType")
    for number, name in enumerate(_ENUM):
        enum.value.add(name=name, number=number)
    for message, fields in _MESSAGES.items():
        descriptor = file.message_type.add(name=message)
        for name, (number, kind, repeated) in fields.items():
            held = descriptor.field.add(name=name, number=number, label=3 if repeated else 1)
            if kind[0].islower():
                held.type = definitions.FieldDescriptorProto.Type.Value("TYPE_" + kind.upper())
            else:
                held.type = 14 if kind == "MetricType" else 11  # TYPE_ENUM, TYPE_MESSAGE
                held.type_name = kinds.get(kind, f".{package}.{kind}")
    pool = pools.DescriptorPool()
    pool.AddSerializedFile(timestamp_pb2.DESCRIPTOR.serialized_pb)
    pool.Add(file)
    return {m: factory.GetMessageClass(pool.FindMessageTypeByName(f"{package}.{m}")) for m in _MESSAGES}


class Native(NamedTuple):
    """Sparse buckets: (offset, length) spans and the differences between neighbouring counts."""

    spans: tuple[tuple[int, int], ...]
    deltas: tuple[int, ...]


def native(buckets: ExponentialBuckets) -> Native:
    """Schema `scale`. Prometheus's index i ends where OTLP's begins: (base^(i-1), base^i], hence the 1 more."""
    spans: list[tuple[int, int]] = []
    deltas: list[int] = []
    end = last = 0  # index behind the last span; count of its last bucket
    for index, n in enumerate(buckets.counts, buckets.offset + 1):
        if not n:
            continue
        gap = index - end
        if spans and gap <= _LARGEST_GAP:
            spans[-1] = (spans[-1][0], spans[-1][1] + gap + 1)
            for _ in range(gap):
                deltas.append(-last)
                last = 0
        else:
            spans.append((gap if spans else index, 1))
        deltas.append(n - last)
        end, last = index + 1, n
    if not spans and not buckets.zero_threshold:
        spans.append((0, 0))  # or an empty histogram would look like a classic one
    return Native(tuple(spans), tuple(deltas))


def encode(families: Iterable[Family], classes: Mapping[str, Any]) -> bytes:
    """MetricFamily messages, each after its length as a varint. classes: `message_classes()`."""
    out = bytearray()
    for family in families:
        message = classes["MetricFamily"](
            name=family.name + ("_total" if family.type == "counter" else ""),
            help=family.help, type=_TYPES[family.type], unit=family.unit,
        )  # fmt: skip
        for point in family.points:
            _add(message.metric.add(), family, point)
        body = message.SerializeToString()
        out += _varint(len(body)) + body
    return bytes(out)


def _varint(n: int) -> bytes:
    out = bytearray()
    while n > 0x7F:
        out.append(n & 0x7F | 0x80)
        n >>= 7
    out.append(n)
    return bytes(out)


def _add(metric: Any, family: Family, point: Point) -> None:
    for name, value in point.labels:
        metric.label.add(name=name, value=value)
    held = point.point
    if isinstance(held, HistogramPoint):
        _histogram(metric.histogram, held, family.unit)
    elif family.type == "counter":
        metric.counter.value = held.value
        if held.start_ns:
            metric.counter.created_timestamp.FromNanoseconds(held.start_ns)
    else:
        metric.gauge.value = held.value


def _histogram(message: Any, point: HistogramPoint, unit: str) -> None:
    """Both classic and native buckets: the scraper takes what it is configured for."""
    message.sample_count = point.count
    message.sample_sum = point.sum
    message.created_timestamp.FromNanoseconds(point.start_ns)
    for bucket in classic(point, unit):
        held = message.bucket.add(cumulative_count=bucket.at_most, upper_bound=bucket.le)
        if bucket.exemplar:
            _exemplars([held.exemplar], [bucket.exemplar])
    if isinstance(point.buckets, ExponentialBuckets):
        message.schema = point.buckets.scale
        message.zero_threshold = point.buckets.zero_threshold
        message.zero_count = point.buckets.zero_count
        sparse = native(point.buckets)
        for offset, length in sparse.spans:
            message.positive_span.add(offset=offset, length=length)
        message.positive_delta.extend(sparse.deltas)
        _exemplars([message.exemplars.add() for _ in point.exemplars], point.exemplars)


def _exemplars(messages: Sequence[Any], exemplars: Sequence[Exemplar]) -> None:
    for message, exemplar in zip(messages, exemplars, strict=True):
        message.value = exemplar.value
        message.timestamp.FromNanoseconds(exemplar.time_ns)
        for name, value in exemplar_labels(exemplar).items():
            message.label.add(name=name, value=value)
