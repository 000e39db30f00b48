# SPDX-License-Identifier: Apache-2.0
"""The Prometheus endpoint over HTTP on loopback: the three formats as scrapers read them, health, errors."""

from __future__ import annotations

import http.client
import math
import socket
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import pytest
from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text
from prometheus_parts import EXEMPLAR, METRICS, SERIES, parse_delimited, read_native

from exporters.prometheus import OPENMETRICS, PROTOBUF, TEXT, PrometheusExporter, negotiate, parse_address
from exporters.prometheus_families import LE_SECONDS
from exporters.prometheus_native import message_classes
from instrumenter.errors import ConfigError
from instrumenter.model import (
    Metric,
)
from instrumenter.telemetry import Counters

OPENMETRICS_TYPE = "application/openmetrics-text; version=1.0.0"
PROTOBUF_TYPE = "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited"
# What Prometheus 2.x sends with native histograms enabled, and what it sends without.
PROMETHEUS_NATIVE = f"{PROTOBUF_TYPE};q=0.6,{OPENMETRICS_TYPE};q=0.5,text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
PROMETHEUS_PLAIN = (
    f"{OPENMETRICS_TYPE},application/openmetrics-text;version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5"
)


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
    parse: Any = openmetrics.text_string_to_metric_families  # untyped
    check_samples(parse(body.decode()), bucket_exemplar=True)


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
