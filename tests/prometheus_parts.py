# SPDX-License-Identifier: Apache-2.0
"""What the tests of the Prometheus exporter share: metrics to expose, and a reader of the protobuf format."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from instrumenter.histogram import exponential
from instrumenter.model import Attributes, Exemplar, HistogramPoint, Metric, NumberPoint, Resource

SHOP = Resource(
    (
        ("host.name", "n1"),
        ("process.command_args", ("a", 'b"')),
        ("service.instance.id", "i-1"),
        ("service.name", "shop"),
        ("service.namespace", "eu"),
    )
)
STOCK = Resource((("service.name", "stock"),))
ROUTE = (("http.response.status_code", 200), ("http.route", '/a"\\b'))
S = 1_000_000_000
EXEMPLAR = Exemplar(0.1, 5 * S + 500_000_000, bytes(range(16)), bytes(range(8)))


def histogram(values_s: Sequence[float], attributes: Attributes = ROUTE, *exemplars: Exemplar) -> HistogramPoint:
    layout = exponential().duration
    ns = np.rint(np.array(values_s) * 1e9).astype(np.uint64)
    counts = np.bincount(np.searchsorted(layout.bounds, ns, side="left"), minlength=257).astype(np.uint64)
    buckets = layout.buckets(counts[np.newaxis])[0]
    return HistogramPoint(attributes, 2 * S, 9 * S, len(values_s), float(sum(values_s)), buckets, exemplars)


def metric(kind: str, name: str, unit: str, *points: Any, resource: Resource = SHOP) -> Metric:
    return Metric(resource, name, unit, f"What {name} is.", kind, points)


METRICS = (
    metric("histogram", "http.server.request.duration", "s", histogram([0.1, 0.2, 3.0], ROUTE, EXEMPLAR)),
    metric("histogram", "http.server.request.duration", "s", histogram([0.5], ()), resource=STOCK),
    metric("counter", "stingless.spans.exported", "{span}", NumberPoint((("exporter", "otlp"),), 2 * S, 9 * S, 12)),
    metric("gauge", "stingless.ring.fill", "1", NumberPoint((), 2 * S, 9 * S, 0.25)),
)
IDENTITY = {"job": "eu/shop", "instance": "i-1"}
SERIES = {**IDENTITY, "http_response_status_code": "200", "http_route": '/a"\\b'}


def read_native(message: Any) -> dict[float, int]:
    """A native histogram as Prometheus reads it: count by upper bound, 2^(index / 2^schema)."""
    index, count, out = 0, 0, {}
    deltas = iter(message.positive_delta)
    for span in message.positive_span:
        index += span.offset
        for _ in range(span.length):
            count += next(deltas)
            if count:
                out[2 ** (index / 2**message.schema)] = count
            index += 1
    assert next(deltas, None) is None
    return out


def parse_delimited(data: bytes, classes: Mapping[str, Any]) -> list[Any]:
    out = []
    while data:
        size, shift, at = 0, 0, 0
        while True:
            size |= (data[at] & 0x7F) << shift
            shift, at = shift + 7, at + 1
            if data[at - 1] < 0x80:
                break
        out.append(classes["MetricFamily"].FromString(data[at : at + size]))
        data = data[at + size :]
    return out
