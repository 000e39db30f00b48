# SPDX-License-Identifier: Apache-2.0
"""The Prometheus endpoint: names, buckets, the three formats as scrapers read them, and HTTP on loopback."""

from __future__ import annotations

import http.client
import math
import socket
import struct
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from exporters.prometheus import OPENMETRICS, PROTOBUF, TEXT, PrometheusExporter, negotiate, parse_address
from exporters.prometheus_families import LE_BYTES, LE_SECONDS, classic, families, family_name
from exporters.prometheus_native import encode, message_classes, native
from instrumenter.errors import ConfigError
from instrumenter.histogram import exponential
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
from instrumenter.telemetry import Counters

OPENMETRICS_TYPE = "application/openmetrics-text; version=1.0.0"
PROTOBUF_TYPE = "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited"
# What Prometheus 2.x sends with native histograms enabled, and what it sends without.
PROMETHEUS_NATIVE = f"{PROTOBUF_TYPE};q=0.6,{OPENMETRICS_TYPE};q=0.5,text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
PROMETHEUS_PLAIN = (
    f"{OPENMETRICS_TYPE},application/openmetrics-text;version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5"
)

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


# -- HTTP ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        ("", TEXT),
        ("*/*", TEXT),
        ("text/html,application/xhtml+xml,*/*;q=0.8", TEXT),
        (PROMETHEUS_NATIVE, PROTOBUF),
        (PROMETHEUS_PLAIN, OPENMETRICS),
        (f"text/plain;version=0.0.4;q=0.3,{OPENMETRICS_TYPE};q=0.4", OPENMETRICS),
        (f"text/plain;version=0.0.4;q=0.5,{OPENMETRICS_TYPE};q=0.4", TEXT),
        ("application/openmetrics-text;version=2.0.0,text/plain;version=0.0.4;q=0.1", TEXT),
        ("application/openmetrics-text", OPENMETRICS),
        ("application/vnd.google.protobuf;proto=other.Message;encoding=delimited", TEXT),
        (f"{PROTOBUF_TYPE};q=nonsense", TEXT),
    ],
)
def test_negotiation(accept: str, expected: str) -> None:
    assert negotiate(accept) == expected


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("127.0.0.1:9464", ("127.0.0.1", 9464)),
        (":9464", ("0.0.0.0", 9464)),
        ("9464", ("0.0.0.0", 9464)),
        ("[::1]:0", ("::1", 0)),
        ("localhost", None),
        ("::1:9464", None),
        ("host:99999", None),
        ("host:", None),
    ],
)
def test_addresses(address: str, expected: tuple[str, int] | None) -> None:
    if expected is not None:
        assert parse_address(address) == expected
        return
    with pytest.raises(ConfigError, match="--prometheus"):
        parse_address(address)


Start = Callable[..., PrometheusExporter]


@pytest.fixture
def serve() -> Iterator[Start]:
    started: list[PrometheusExporter] = []

    def start(*args: Any, **kwargs: Any) -> PrometheusExporter:
        started.append(PrometheusExporter("127.0.0.1:0", Counters(), *args, **kwargs))
        return started[-1]

    yield start
    for exporter in started:
        exporter.close(5)


def get(
    exporter: PrometheusExporter, path: str = "/metrics", accept: str = "", method: str = "GET", **headers: str
) -> tuple[http.client.HTTPResponse, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", exporter.port, timeout=10)
    connection.request(method, path, headers={"Accept": accept, **headers})
    response = connection.getresponse()
    body = response.read()
    connection.close()
    return response, body


def test_text(serve: Start) -> None:
    response, body = get(serve(lambda: METRICS))
    assert response.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert b"# TYPE stingless_spans_exported_total counter" in body
    assert b"trace_id" not in body
    check_samples(parse_text(body.decode()), bucket_exemplar=False)


def test_openmetrics(serve: Start) -> None:
    response, body = get(serve(lambda: METRICS), accept=PROMETHEUS_PLAIN)
    assert response.headers["Content-Type"].startswith(OPENMETRICS_TYPE)
    assert body.endswith(b"# EOF\n")
    check_samples(parse_openmetrics(body.decode()), bucket_exemplar=True)


def check_samples(found: Any, bucket_exemplar: bool) -> None:
    by_name = {f.name: f for f in found}
    duration = by_name["http_server_request_duration_seconds"]
    assert duration.type == "histogram"
    assert duration.documentation == "What http.server.request.duration is."
    samples = [s for s in duration.samples if s.labels.get("job") == "eu/shop"]
    plain = {s.name: s.value for s in samples if "le" not in s.labels}
    assert plain == {duration.name + "_count": 3.0, duration.name + "_sum": pytest.approx(3.3)}
    buckets = {float(s.labels["le"]): s for s in samples if "le" in s.labels}
    assert {le: s.value for le, s in buckets.items()} == {
        le: sum(v <= le for v in (0.1, 0.2, 3.0)) for le in (*LE_SECONDS, math.inf)
    }
    assert {k: v for k, v in buckets[1.0].labels.items() if k != "le"} == SERIES
    held = {le: s.exemplar for le, s in buckets.items() if s.exemplar}
    if bucket_exemplar:
        assert held.keys() == {0.125}
        assert held[0.125].labels == {"trace_id": EXEMPLAR.trace_id.hex(), "span_id": EXEMPLAR.span_id.hex()}
        assert (held[0.125].value, float(held[0.125].timestamp)) == (0.1, 5.5)
    else:
        assert held == {}
    assert [s.value for s in by_name["stingless_ring_fill_ratio"].samples] == [0.25]
    assert [(s.labels["exporter"], s.value) for f in found_counter(by_name) for s in f.samples] == [("otlp", 12.0)]


def found_counter(by_name: Mapping[str, Any]) -> list[Any]:
    return [f for name, f in by_name.items() if name.startswith("stingless_spans_exported") and f.samples]


def test_protobuf(serve: Start) -> None:
    response, body = get(serve(lambda: METRICS), accept=PROMETHEUS_NATIVE)
    assert response.headers["Content-Type"].replace(" ", "") == PROTOBUF_TYPE
    found = {f.name: f for f in parse_delimited(body, message_classes())}
    assert set(found) == {
        "target_info", "http_server_request_duration_seconds", "stingless_spans_exported_total",
        "stingless_ring_fill_ratio",
    }  # fmt: skip
    duration = found["http_server_request_duration_seconds"]
    assert (duration.type, duration.unit) == (4, "seconds")
    first = duration.metric[0]
    assert {p.name: p.value for p in first.label} == SERIES
    assert list(read_native(first.histogram).values()) == [1, 1, 1]
    assert [b.cumulative_count for b in first.histogram.bucket] == [
        sum(v <= le for v in (0.1, 0.2, 3.0)) for le in (*LE_SECONDS, math.inf)
    ]
    assert [e.value for e in first.histogram.exemplars] == [0.1]
    assert found["stingless_spans_exported_total"].metric[0].counter.value == 12.0
    assert found["stingless_spans_exported_total"].metric[0].counter.created_timestamp.seconds == 2


def test_pushed_snapshots(serve: Start) -> None:
    exporter = serve()
    assert get(exporter)[1] == b""
    exporter.export_metrics(METRICS[2:3])
    assert b"stingless_spans_exported_total" in get(exporter)[1]
    exporter.export_metrics(METRICS[3:])
    assert b"stingless_spans_exported_total" not in get(exporter)[1]


def test_scrapers_that_come_together_share_a_collection(serve: Start) -> None:
    calls: list[int] = []

    def collect() -> Sequence[Metric]:
        calls.append(1)
        return METRICS

    exporter = serve(collect, cache_s=3600.0)
    bodies: list[bytes] = []
    threads = [threading.Thread(target=lambda: bodies.append(get(exporter)[1])) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(calls), len(set(bodies)), len(bodies)) == (1, 1, 6)
    eager = serve(collect, cache_s=0.0)
    get(eager)
    get(eager)
    assert len(calls) == 3


def test_gzip_and_head(serve: Start) -> None:
    import gzip

    exporter = serve(lambda: METRICS)
    response, packed = get(exporter, **{"Accept-Encoding": "gzip"})
    assert response.headers["Content-Encoding"] == "gzip"
    assert gzip.decompress(packed) == get(exporter)[1]
    response, body = get(exporter, method="HEAD")
    assert (response.status, body, int(response.headers["Content-Length"]) > 1000) == (200, b"", True)


def test_health_and_readiness(serve: Start) -> None:
    ready: list[bool] = []
    exporter = serve(ready=lambda: bool(ready))
    assert [get(exporter, path)[0].status for path in ("/healthz", "/readyz", "/", "/other")] == [200, 503, 200, 404]
    ready.append(True)
    assert get(exporter, "/readyz?verbose")[0].status == 200


def test_a_collection_that_fails_does_not_end_the_server(serve: Start, caplog: pytest.LogCaptureFixture) -> None:
    def collect() -> Sequence[Metric]:
        raise OSError("map gone")

    exporter = serve(collect)
    assert get(exporter)[0].status == 500
    assert get(exporter, "/healthz")[0].status == 200
    assert "map gone" in caplog.text


@pytest.mark.parametrize("host", ["127.0.0.1", "no-such-host.invalid"])
def test_an_address_that_cannot_be_had(host: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"{host}:{taken.getsockname()[1]}"
        with pytest.raises(ConfigError, match=r"cannot listen there \(.+\); choose another") as error:
            PrometheusExporter(address, Counters())
        assert address in str(error.value)
        assert "\n" not in str(error.value)


def test_close_frees_the_port() -> None:
    exporter = PrometheusExporter("127.0.0.1:0", Counters())
    port = exporter.port
    get(exporter, "/healthz")
    exporter.close(5)
    again = PrometheusExporter(f"127.0.0.1:{port}", Counters())
    again.close(5)
