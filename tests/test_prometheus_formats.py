# SPDX-License-Identifier: Apache-2.0
"""Prometheus's names, classic buckets and native histograms, made of OpenTelemetry's."""

from __future__ import annotations

import math
import struct

import numpy as np
import pytest
from prometheus_parts import (
    EXEMPLAR,
    IDENTITY,
    METRICS,
    SERIES,
    STOCK,
    S,
    histogram,
    metric,
    parse_delimited,
    read_native,
)

from exporters.prometheus_families import LE_BYTES, LE_SECONDS, classic, families, family_name
from exporters.prometheus_native import encode, message_classes, native
from instrumenter.histogram import exponential
from instrumenter.model import Exemplar, ExplicitBuckets, ExponentialBuckets, HistogramPoint, NumberPoint, Resource


@pytest.mark.parametrize(
    ("name", "unit", "expected"),
    [
        ("http.server.request.duration", "seconds", "http_server_request_duration_seconds"),
        ("http.server.request.body.size", "bytes", "http_server_request_body_size_bytes"),
        ("a.seconds", "seconds", "a_seconds"),
        ("a..b-c__d", "", "a_b_c_d"),
        ("9lives", "", "_9lives"),
        ("things_total", "", "things"),
    ],
)
def test_family_names(name: str, unit: str, expected: str) -> None:
    assert family_name(name, unit) == expected


def test_families() -> None:
    found = {f.name: f for f in families(METRICS)}
    assert {name: (f.type, f.unit, len(f.points)) for name, f in found.items()} == {
        "target_info": ("gauge", "", 2),
        "http_server_request_duration_seconds": ("histogram", "seconds", 2),
        "stingless_spans_exported": ("counter", "", 1),
        "stingless_ring_fill_ratio": ("gauge", "ratio", 1),
    }
    assert dict(found["target_info"].points[0].labels) == {
        **IDENTITY, "host_name": "n1", "process_command_args": '["a","b\\""]',
    }  # fmt: skip
    assert dict(found["http_server_request_duration_seconds"].points[0].labels) == SERIES


def test_names_that_clash() -> None:
    """Two keys that become one label are joined; a second type under one name is left out."""
    clash = families(
        [
            metric("gauge", "a.b", "", NumberPoint((("x.y", "1"), ("x_y", True)), 0, 0, 1)),
            metric("counter", "a_b", "", NumberPoint((), 0, 0, 2)),
        ]
    )
    assert [(f.name, f.type, [dict(p.labels).get("x_y") for p in f.points]) for f in clash if f.name == "a_b"] == [
        ("a_b", "gauge", ["1;true"])
    ]


# -- classic buckets -----------------------------------------------------------------------------------------------


def test_classic_buckets_are_exact() -> None:
    """At each boundary and 1 ns beside it, the count is the count of the values themselves."""
    edges = [round(le * 1e9) for le in LE_SECONDS if (le * 1e9).is_integer()]
    floors = [math.floor(le * 1e9) for le in LE_SECONDS]
    values = sorted({v + d for v in (*edges, *floors) for d in (-1, 0, 1)} | {1, 1000, 1039, 1040, 10**12})
    point = histogram([v / 1e9 for v in values])
    for bucket in classic(point, "seconds"):
        assert bucket.at_most == sum(v <= bucket.le * 1e9 for v in values)


def test_classic_sizes_are_exact() -> None:
    layout = exponential().size
    values = [0, 0, 1, 63, 64, 65, 255, 256, 257, 2**26, 2**26 + 1, 2**50]
    counts = np.bincount(np.searchsorted(layout.bounds, np.array(values, np.uint64)), minlength=97).astype(np.uint64)
    point = HistogramPoint((), 0, 0, len(values), 0.0, layout.buckets(counts[np.newaxis])[0])
    assert [(b.le, b.at_most) for b in classic(point, "bytes")] == [
        (le, sum(v <= le for v in values)) for le in (*LE_BYTES, math.inf)
    ]


def test_the_zero_bucket_counts_from_its_threshold_on() -> None:
    point = HistogramPoint((), 0, 0, 7, 0.0, ExponentialBuckets(3, 0, (), 7, 0.25))
    assert [b.le for b in classic(point, "seconds") if b.at_most] == [le for le in LE_SECONDS if le >= 0.25] + [
        math.inf
    ]


def test_explicit_buckets_stay_as_they_are() -> None:
    point = HistogramPoint((), 0, 0, 6, 0.0, ExplicitBuckets((0.1, 1.0), (1, 2, 3)))
    assert [(b.le, b.at_most) for b in classic(point, "seconds")] == [(0.1, 1), (1.0, 3), (math.inf, 6)]


def test_the_newest_exemplar_of_a_bucket() -> None:
    older = Exemplar(0.11, 4 * S, b"a" * 16, b"b" * 8)
    slow = Exemplar(1e6, 4 * S, b"c" * 16, b"d" * 8)
    held = {b.le: b.exemplar for b in classic(histogram([0.1], (), EXEMPLAR, older, slow), "seconds") if b.exemplar}
    assert held == {0.125: EXEMPLAR, math.inf: slow}


# -- native histograms ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("offset", "counts", "spans", "deltas"),
    [
        (-5, (3,), ((-4, 1),), (3,)),
        (-1, (3, 1, 1), ((0, 3),), (3, -2, 0)),
        (2, (3, 0, 0, 4), ((3, 4),), (3, -3, 0, 4)),
        (2, (3, 0, 0, 0, 4), ((3, 1), (3, 1)), (3, 1)),
        (0, (0, 0, 7, 0, 0, 0, 0, 1, 2), ((3, 1), (4, 2)), (7, -6, 1)),
        (0, (), (), ()),
    ],
)
def test_spans_and_deltas(
    offset: int, counts: tuple[int, ...], spans: tuple[tuple[int, int], ...], deltas: tuple[int, ...]
) -> None:
    assert native(ExponentialBuckets(3, offset, counts, 0, 1e-6)) == (spans, deltas)


def test_an_empty_native_histogram_is_still_one() -> None:
    assert native(ExponentialBuckets(1, 0, (), 0, 0.0)).spans == ((0, 0),)


@pytest.mark.parametrize("seed", range(5))
def test_native_histograms_hold_the_values(seed: int) -> None:
    rng = np.random.default_rng(seed)
    values = np.exp(rng.uniform(np.log(1e-7), np.log(100), 300)).round(9)
    point = histogram(values.tolist())
    classes = message_classes()
    family = families([metric("histogram", "d", "s", point)])[1]
    (message,) = parse_delimited(encode([family], classes), classes)
    held = message.metric[0].histogram
    assert (held.schema, held.sample_count, held.zero_threshold) == (3, 300, 2 ** (-159 / 8))
    assert held.zero_count == (values <= held.zero_threshold).sum()
    base = 2**0.125
    for upper, count in read_native(held).items():
        assert count == ((values > upper / base) & (values <= upper)).sum()
    assert sum(read_native(held).values()) + held.zero_count == 300


def field(number: int, value: bytes | int | float) -> bytes:
    """One field on the wire (protobuf encoding), written by hand; numbers below 128 only."""
    if isinstance(value, bytes):
        return bytes([number << 3 | 2, len(value)]) + value
    if isinstance(value, float):
        return bytes([number << 3 | 1]) + struct.pack("<d", value)
    return bytes([number << 3, value])


def test_numbers_on_the_wire() -> None:
    """io.prometheus.client by its public numbers, byte for byte."""
    gauge = metric("gauge", "g", "", NumberPoint((("a", "b"),), 0, 0, 2.0), resource=STOCK)
    pair = field(1, b"a") + field(2, b"b")
    job = field(1, b"job") + field(2, b"stock")
    body = field(1, b"g") + field(2, b"What g is.") + field(3, 1)
    body += field(4, field(1, pair) + field(1, job) + field(2, field(1, 2.0))) + field(5, b"")
    assert encode(families([gauge])[1:], message_classes()) == bytes([len(body)]) + body

    point = HistogramPoint((), 2 * S, 0, 4, 0.5, ExponentialBuckets(3, 4, (1, 2), 1, 0.25), (EXEMPLAR,))
    (family,) = families([metric("histogram", "h", "", point, resource=Resource(()))])[1:]
    (message,) = parse_delimited(encode([family], classes := message_classes()), classes)
    held = message.metric[0].histogram
    del held.bucket[:]
    times = {"made": field(1, 2), "exemplar": field(1, 5) + b"\x10" + varint(500_000_000)}
    trace = field(1, b"trace_id") + field(2, EXEMPLAR.trace_id.hex().encode())
    span = field(1, b"span_id") + field(2, EXEMPLAR.span_id.hex().encode())
    exemplar = field(1, trace) + field(1, span) + field(2, 0.1) + field(3, times["exemplar"])
    expected = field(1, 4) + field(2, 0.5) + field(5, 3 << 1) + field(6, 0.25) + field(7, 1)
    expected += field(12, field(1, 5 << 1) + field(2, 2)) + field(13, 1 << 1) + field(13, 1 << 1)
    expected += field(15, times["made"]) + b"\x82\x01" + bytes([len(exemplar)]) + exemplar
    assert held.SerializeToString(deterministic=True) == expected


def varint(n: int) -> bytes:
    out = bytearray()
    while n > 0x7F:
        out.append(n & 0x7F | 0x80)
        n >>= 7
    return bytes(out) + bytes([n])
