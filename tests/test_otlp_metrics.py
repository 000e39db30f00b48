# SPDX-License-Identifier: Apache-2.0
"""The metric exporter against a real receiver: encoding, temporality, and that no increment is lost."""

from __future__ import annotations

import random
import threading
from typing import Any

import pytest
from collector import METRICS, TRACES, Answer, Collector, attributes
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from otlp_parts import QUICK, ProtoEncoder, eventually, free_port, make_spans, options_for

from exporters.otlp import BatchOptions, OtlpMetricExporter, OtlpSpanExporter, RetryPolicy
from exporters.otlp_encode_metrics import Entry, MetricEncoder
from instrumenter.model import (
    Exemplar,
    ExplicitBuckets,
    ExponentialBuckets,
    HistogramPoint,
    Metric,
    NumberPoint,
    Resource,
)
from instrumenter.telemetry import Counters

DURATION = "http.server.request.duration"
SHOP = Resource((("service.instance.id", "a"), ("service.name", "shop")))
BANK = Resource((("service.name", "bank"),))
both = pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])


def snapshot(time_ns: int, counts: dict[str, int], start_ns: int = 1, resource: Resource = SHOP) -> list[Metric]:
    """One histogram, a point for each route; every value is 0.5 s, hence one bucket."""
    points = tuple(
        HistogramPoint((("http.route", r),), start_ns, time_ns, n, n * 0.5, ExponentialBuckets(0, -1, (n,)))
        for r, n in counts.items()
    )
    return [Metric(resource, DURATION, "s", "Duration.", "histogram", points)]


def settled(counters: Counters) -> int:
    return sum(counters.value(f"metrics.{end}") for end in ("exported", "export_failed", "rejected"))


def metric_options(
    url: str, temporality: str = "cumulative", timeout_ms: int = 30_000, protocol: str = "http/protobuf"
) -> Any:
    from exporters.otlp import otlp_options

    environ = {
        "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE": temporality,
        "OTEL_METRIC_EXPORT_TIMEOUT": str(timeout_ms),
        "OTEL_EXPORTER_OTLP_PROTOCOL": protocol,
    }
    return otlp_options("metrics", environ, url)


@both
def test_all_kinds_arrive(collector: Collector, protocol: str) -> None:
    exemplar = Exemplar(0.7, 55, b"t" * 16, b"s" * 8)
    key = (("http.request.method", "GET"), ("http.response.status_code", 200), ("ok", True), ("list", ("a", "b")))
    metrics = [
        Metric(SHOP, DURATION, "s", "Duration.", "histogram", (
            HistogramPoint(key, 10, 60, 6, 3.5, ExponentialBuckets(3, -4, (1, 0, 2), 3, 1e-6), (exemplar,)),)),
        Metric(SHOP, "size", "By", "", "histogram", (
            HistogramPoint((), 10, 60, 3, 3.5, ExplicitBuckets((1.0, 2.0), (1, 0, 2)), (exemplar,)),)),
        Metric(BANK, "lost", "{span}", "", "counter", (NumberPoint((), 10, 60, 4),)),
        Metric(BANK, "load", "1", "", "gauge", (NumberPoint((), 10, 60, 0.25),)),
    ]  # fmt: skip
    counters = Counters()
    exporter = OtlpMetricExporter(options_for(collector.url(protocol), "metrics", protocol), counters, QUICK)
    exporter.export_metrics(metrics)
    exporter.close(10)
    assert counters.value("metrics.exported", exporter="otlp") == 4
    (request,) = collector.metric_requests()
    shop, bank = request.resource_metrics
    assert attributes(shop.resource.attributes) == dict(SHOP.attributes)
    assert shop.schema_url.startswith("https://opentelemetry.io/schemas/1.")
    scopes = [*shop.scope_metrics, *bank.scope_metrics]
    assert [(s.scope.name, len(s.metrics)) for s in scopes] == [("stingless", 2)] * 2
    duration, size = shop.scope_metrics[0].metrics
    assert (duration.name, duration.unit, duration.description) == (DURATION, "s", "Duration.")
    data = duration.exponential_histogram
    assert data.aggregation_temporality == 2
    (point,) = data.data_points
    assert attributes(point.attributes) == dict(key) | {"list": ["a", "b"]}
    assert (point.start_time_unix_nano, point.time_unix_nano, point.count, point.sum) == (10, 60, 6, 3.5)
    assert (point.scale, point.positive.offset, list(point.positive.bucket_counts)) == (3, -4, [1, 0, 2])
    assert (point.zero_count, point.zero_threshold) == (3, 1e-6)
    for one in (point, size.histogram.data_points[0]):
        (seen,) = one.exemplars
        assert (seen.as_double, seen.time_unix_nano, seen.trace_id, seen.span_id) == (0.7, 55, b"t" * 16, b"s" * 8)
    assert list(size.histogram.data_points[0].explicit_bounds) == [1.0, 2.0]
    assert list(size.histogram.data_points[0].bucket_counts) == [1, 0, 2]
    lost, load = bank.scope_metrics[0].metrics
    assert (lost.sum.is_monotonic, lost.sum.aggregation_temporality, lost.sum.data_points[0].as_int) == (True, 2, 4)
    assert load.gauge.data_points[0].as_double == 0.25


MANY = ExponentialBuckets(-10, 1 << 20, (0, 127, 128, 16384, 1 << 63))
EMPTY, FULL = Exemplar(0.0, 0, b"", b""), Exemplar(1.0, 5, b"t" * 16, b"s" * 8)
EXTREMES: list[HistogramPoint | NumberPoint] = [
    NumberPoint((), 0, 0, 0),
    NumberPoint((("k", ""),), 1, 2, -(1 << 63)),
    NumberPoint((("k", 1),), (1 << 64) - 1, 2, 0.0),
    HistogramPoint((), 1, 2, 0, 0.0, ExponentialBuckets(0, 0, ())),
    HistogramPoint((("k", True),), 1, 2, 1 << 63, -0.5, MANY),
    HistogramPoint((("k", 1),), 1, 2, 3, 1.5, ExponentialBuckets(20, -300, (3,), 7, 1e-6), (EMPTY,)),
    HistogramPoint((("k", 1.0),), 1, 2, 3, 1.5, ExplicitBuckets((), (3,)), (FULL, FULL)),
    HistogramPoint((("k", ("a", "b")),), 1, 2, 3, 1.5, ExplicitBuckets((0.0, 2.5), (1, 0, 1 << 63))),
]


@pytest.mark.parametrize("delta", [False, True])
def test_the_bytes_are_what_the_library_writes(delta: bool) -> None:
    """Bit for bit: fields in order, nothing that is a default, every length right. Twice, as much is remembered."""
    parse: Any = ExportMetricsServiceRequest
    encoder = MetricEncoder("1.2", 1 << 20)
    for resource in (SHOP, Resource(()), SHOP):
        entries = [
            Entry(i, Metric(resource, f"m{i % 3}", "s", "", ("counter", "gauge")[i % 2]), point, delta)
            for i, point in enumerate(EXTREMES)
            for unit, kind in (
                ("s", "histogram" if isinstance(point, HistogramPoint) else ("counter", "gauge")[i % 2]),
            )
        ]
        ((body, keys),) = encoder.encode(entries)
        message = parse.FromString(body)
        assert message.SerializeToString() == body
        metrics = message.resource_metrics[0].scope_metrics[0].metrics
        assert sum(len(getattr(m, m.WhichOneof("data")).data_points) for m in metrics) == len(keys) == len(EXTREMES)
        assert attributes(message.resource_metrics[0].resource.attributes) == dict(resource.attributes)


def test_names_that_are_not_utf8() -> None:
    head = Metric(Resource((("process.command", "caf\udce9"),)), "m", "", "", "gauge")
    ((body, keys),) = MetricEncoder("", 10_000).encode([Entry(1, head, NumberPoint((), 1, 2, 3), False)])
    assert b"caf?" in body
    assert keys == [1]


def test_large_snapshots_are_split() -> None:
    head = Metric(SHOP, "m", "", "", "counter")
    points = [NumberPoint((("k", f"{i}" + "x" * 100),), 1, 2, i) for i in range(1000)]
    requests = list(MetricEncoder("", 20_000).encode([Entry(p.value, head, p, False) for p in points]))
    assert len(requests) > 5
    assert max(len(body) for body, _ in requests) <= 20_000
    assert [key for _, keys in requests for key in keys] == list(range(1000))


def test_delta(collector: Collector) -> None:
    counters = Counters()
    exporter = OtlpMetricExporter(metric_options(collector.http_url, "delta"), counters, QUICK)
    for n, (time_ns, counts) in enumerate([(10, {"/a": 4}), (20, {"/a": 4, "/b": 1}), (30, {"/a": 9, "/b": 2})], 1):
        exporter.export_metrics(snapshot(time_ns, counts))
        assert eventually(lambda n=n: collector.received[METRICS].requests == n)  # type: ignore[misc]
    exporter.close(10)
    found = [
        (attributes(p.attributes)["http.route"], p.start_time_unix_nano, p.time_unix_nano, p.count, p.sum)
        for _, _, p in collector.points(DURATION)
    ]
    assert found == [("/a", 1, 10, 4, 2.0), ("/b", 1, 20, 1, 0.5), ("/a", 10, 30, 5, 2.5), ("/b", 20, 30, 1, 0.5)]
    assert {m.exponential_histogram.aggregation_temporality for _, m, _ in collector.points(DURATION)} == {1}


@pytest.mark.parametrize(
    ("temporality", "expected"),
    [("cumulative", [(2, 5), (2, 8)]), ("delta", [(1, 5), (1, 3)]), ("lowmemory", [(1, 5), (1, 3)])],
)
def test_counters_by_temporality(collector: Collector, temporality: str, expected: list[tuple[int, int]]) -> None:
    exporter = OtlpMetricExporter(metric_options(collector.http_url, temporality), Counters(), QUICK)
    for n, value in enumerate((5, 8), 1):
        metrics = [
            Metric(SHOP, "lost", "1", "", "counter", (NumberPoint((), 1, n * 10, value),)),
            Metric(SHOP, "load", "1", "", "gauge", (NumberPoint((), 1, n * 10, 1.5),)),
        ]
        exporter.export_metrics(metrics)
        assert eventually(lambda n=n: collector.received[METRICS].requests == n)  # type: ignore[misc]
    exporter.close(10)
    assert [(m.sum.aggregation_temporality, p.as_int) for _, m, p in collector.points("lost")] == expected
    assert [p.as_double for _, _, p in collector.points("load")] == [1.5, 1.5]


@both
@pytest.mark.parametrize("temporality", ["cumulative", "delta"])
def test_no_increment_is_lost_when_exports_fail(collector: Collector, protocol: str, temporality: str) -> None:
    """Series come, grow, begin again and end while requests are refused, given up or succeed, by chance."""
    chosen = random.Random(9)
    counters = Counters()
    # A retry may not be waited for, so what fails is given up at once and has to come with a later snapshot.
    options = metric_options(collector.url(protocol), temporality, 5_000, protocol)
    exporter = OtlpMetricExporter(options, counters, RetryPolicy(first_s=6.0, max_s=6.0, jitter=0.0))
    live: dict[str, tuple[int, int]] = {}  # route -> (start, count)
    given: dict[str, int] = {}
    for time_ns in range(100, 2600, 100):
        for route in ("/a", "/b", "/c", "/d"):
            match chosen.randrange(6):
                case 0:
                    live.pop(route, None)
                case 1:
                    pass
                case _:
                    start, count = live.get(route, (time_ns, 0))
                    live[route] = (start, count + (more := chosen.randint(1, 9)))
                    given[route] = given.get(route, 0) + more
        if chosen.randrange(3) == 0:
            collector.script(METRICS, *[Answer(code="UNAVAILABLE", status=503)] * chosen.randint(1, 3))
        metrics = [m for r, (start, n) in live.items() for m in snapshot(time_ns, {r: n}, start)]
        before = collector.received[METRICS].attempts
        exporter.export_metrics(metrics)
        if chosen.randrange(3):  # else the next snapshot meets this one on its way, or replaces it
            collector.wait_attempts(before + 1, METRICS, 0.2)
    collector.received[METRICS].script.clear()
    exporter.export_metrics(metrics)
    exporter.close(20)
    assert counters.value("metrics.export_failed") > 10
    assert collector.metric_totals(DURATION, "http.route") == {(r,): n for r, n in given.items()}


def test_given_up_then_delivered(collector: Collector) -> None:
    """An export that is given up keeps a series that has ended since, and its increments come with the next one."""
    grpc_port, http_port = free_port(), free_port()
    counters = Counters()
    exporter = OtlpMetricExporter(metric_options(f"http://127.0.0.1:{http_port}", "delta", 50), counters, QUICK)
    exporter.export_metrics(snapshot(10, {"/ended": 3, "/a": 2}))
    assert eventually(lambda: counters.value("metrics.export_failed") == 2)
    exporter.export_metrics(snapshot(20, {"/a": 6}))
    assert eventually(lambda: counters.value("metrics.export_failed") == 4)
    with Collector(grpc_port, http_port) as late:
        exporter.export_metrics(snapshot(30, {"/a": 7, "/b": 1}))
        exporter.close(10)
        assert late.metric_totals(DURATION, "http.route") == {("/ended",): 3, ("/a",): 7, ("/b",): 1}


def test_partial_success_and_refusal(collector: Collector) -> None:
    collector.script(METRICS, Answer(rejected=1, message="bad point"), Answer(status=400))
    counters = Counters()
    exporter = OtlpMetricExporter(metric_options(collector.http_url), counters, QUICK)
    for time_ns, done in ((10, 2), (20, 4), (30, 6)):
        exporter.export_metrics(snapshot(time_ns, {"/a": time_ns, "/b": 1}))
        assert eventually(lambda done=done: settled(counters) == done)  # type: ignore[misc]
    exporter.close(10)
    names = ("metrics.exported", "metrics.rejected", "metrics.export_failed", "metrics.queue_full")
    assert [counters.value(name) for name in names] == [3, 1, 2, 0]


@both
def test_metrics_pass_traces_that_are_stuck(collector: Collector, protocol: str) -> None:
    """The receiver answers no request of traces; metrics arrive, and the spans still do in the end."""
    hold = threading.Event()
    collector.script(TRACES, Answer(hold=hold))
    counters = Counters()
    batch = BatchOptions(max_queue_spans=50, max_batch_spans=50, delay_s=0.0)
    traces = OtlpSpanExporter(options_for(collector.url(protocol), "traces", protocol), counters, ProtoEncoder(), batch)
    metrics = OtlpMetricExporter(metric_options(collector.url(protocol), protocol=protocol), counters)
    for first in range(1, 1000, 100):
        traces.export_spans(make_spans(100, first=first))
    assert collector.wait_attempts(1)
    metrics.export_metrics(snapshot(10, {"/a": 1}))
    assert collector.wait(lambda: collector.received[METRICS].requests == 1, 5)
    assert collector.span_count == 0
    hold.set()
    traces.close(10)
    metrics.close(10)
    assert collector.span_count == counters.value("spans.exported")
    assert counters.value("spans.exported") + counters.value("spans.dropped.queue_full") == 1000


def test_newer_snapshots_replace_unsent_ones(collector: Collector) -> None:
    """While a request hangs, snapshots do not pile up: the newest value of each series is what is kept."""
    hold = threading.Event()
    collector.script(METRICS, Answer(hold=hold))
    counters = Counters()
    exporter = OtlpMetricExporter(metric_options(collector.http_url), counters, QUICK)
    exporter.export_metrics(snapshot(10, {"/a": 1}))
    assert collector.wait_attempts(1, METRICS)
    for n in range(2, 7):
        exporter.export_metrics(snapshot(n * 10, {"/a": n}))
    hold.set()
    exporter.close(10)
    assert [p.count for _, _, p in collector.points(DURATION)] == [1, 6]
    assert counters.value("metrics.queue_full") == 4
    assert counters.value("metrics.exported") == 2


def test_close_of_a_receiver_that_hangs(collector: Collector) -> None:
    hold = threading.Event()
    collector.script(METRICS, Answer(hold=hold))
    counters = Counters()
    exporter = OtlpMetricExporter(metric_options(collector.grpc_url, protocol="grpc"), counters, QUICK)
    exporter.export_metrics(snapshot(10, {"/a": 1}))
    assert collector.wait_attempts(1, METRICS)
    exporter.export_metrics(snapshot(20, {"/a": 2, "/b": 1}))
    exporter.close(0.2)
    hold.set()
    assert eventually(lambda: counters.value("metrics.export_failed") == 3)
    assert counters.value("metrics.exported") == 0
