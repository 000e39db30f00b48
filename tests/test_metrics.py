# SPDX-License-Identifier: Apache-2.0
"""The collector of RED metrics, against a map that counts as the kernel does."""

from __future__ import annotations

import time

import numpy as np
import pytest
from red_map import KnownLabels, KnownServices, RedMap, red_key, service

from instrumenter.bpf.abi import DURATION_BUCKETS, RED, SIZE_BUCKETS, Direction, Loss
from instrumenter.histogram import Histograms, explicit
from instrumenter.metrics import RedCollector
from instrumenter.model import (
    Exemplar,
    ExplicitBuckets,
    ExponentialBuckets,
    HistogramPoint,
    Metric,
    NumberPoint,
    Resource,
    Value,
)  # fmt: skip
from instrumenter.own_metrics import OwnMetrics
from instrumenter.pipeline import Meter
from instrumenter.telemetry import Counters, Seen

MS = 1_000_000
START = 1_000


class Bench:
    """A collector over a map; `exited` is what the registry would say."""

    def __init__(self, names: dict[int, str] | None = None, histograms: Histograms | None = None) -> None:
        self.map = RedMap(histograms)
        self.labels = KnownLabels()
        self.services = KnownServices(names or {1: "shop"})
        self.counters = Counters()
        self.exited: set[int] = set()
        self.collector = RedCollector(
            self.map, self.labels, self.services, self.counters, self.map.histograms, START, lambda: self.exited, 100
        )
        self.now = START

    def collect(self, final: bool = False) -> list[Metric]:
        self.now += 10
        return self.collector.collect(self.now, final)

    def points(
        self, name: str = "http.server.request.duration", final: bool = False
    ) -> dict[tuple[Value, Value | None], HistogramPoint]:
        """Points of one metric by service name and route."""
        return {
            (metric.resource.get("service.name"), dict(point.attributes).get("http.route")): point
            for metric in self.collect(final)
            if metric.name == name
            for point in metric.points
            if isinstance(point, HistogramPoint)
        }


def test_layout_of_red() -> None:
    """The three bucket arrays lie behind each other, which the table relies on."""
    fields = RED.fields
    assert fields is not None
    starts = [int(fields[name][1]) for name in ("duration", "request_size", "response_size")]
    assert starts == [starts[0], starts[0] + 4 * DURATION_BUCKETS, starts[0] + 4 * (DURATION_BUCKETS + SIZE_BUCKETS)]
    assert starts[-1] + 4 * SIZE_BUCKETS == RED.itemsize


def test_all_six_metrics() -> None:
    bench = Bench()
    bench.map.count(red_key(1), [3 * MS, 5 * MS], request=10, response=2000)
    bench.map.count(red_key(1), [MS], request=10, response=2000, cpu=1)
    bench.map.count(red_key(2, direction=Direction.CLIENT), [MS])
    found = {m.name: m for m in bench.collect()}
    assert {name: (m.unit, m.kind, m.description) for name, m in found.items()} == {
        f"http.{side}.{what}": (unit, "histogram", f"{text} of HTTP {side} {of}.")
        for side in ("server", "client")
        for what, unit, text, of in (
            ("request.duration", "s", "Duration", "requests"),
            ("request.body.size", "By", "Size", "request bodies"),
            ("response.body.size", "By", "Size", "response bodies"),
        )
    }
    (duration,), (request,), (response,) = (
        found[f"http.server.{n}"].points for n in ("request.duration", "request.body.size", "response.body.size")
    )
    assert isinstance(duration, HistogramPoint)
    assert duration.attributes == (("http.response.status_code", 200), ("http.route", "/1"))
    assert (duration.start_ns, duration.time_ns, duration.count) == (START, START + 10, 3)
    assert duration.sum == pytest.approx(0.009)
    assert isinstance(duration.buckets, ExponentialBuckets)
    assert duration.buckets.scale == 3
    assert sum(duration.buckets.counts) == 3
    assert isinstance(request, HistogramPoint)
    assert (request.sum, request.buckets) == (30.0, ExponentialBuckets(1, 6, (3,)))  # (8, 11.3]
    assert isinstance(response, HistogramPoint)
    assert (response.sum, response.buckets) == (6000.0, ExponentialBuckets(1, 21, (3,)))  # (1448, 2048]


def test_cumulative_over_many_reads() -> None:
    bench, rng = Bench(), np.random.default_rng(7)
    expected = np.zeros(5, np.int64)
    for _ in range(40):
        for key in range(5):
            n = int(rng.integers(0, 4))
            expected[key] += n
            bench.map.count(red_key(key + 1), rng.integers(1000, 10**9, n).tolist(), cpu=int(rng.integers(0, 2)))
        points = bench.points()
        assert {int(str(route)[1:]): p.count for (_, route), p in points.items()} == {
            k + 1: n for k, n in enumerate(expected.tolist())
        }
        for point in points.values():
            assert isinstance(point.buckets, ExponentialBuckets)
            assert point.count == sum(point.buckets.counts) + point.buckets.zero_count


def test_buckets_wrap_without_loss() -> None:
    bench = Bench()
    key, place = red_key(), int(np.searchsorted(bench.map.histograms.duration.bounds, MS))
    row, total = bench.map.row(key), 0
    for step in (2**31, 2**31 - 5, 20, 2**32 - 1, 1, 0, 7):
        row["duration"][:, place] += np.array([step // 2, step - step // 2], np.uint64).astype(np.uint32)
        row["count"][0] += np.uint64(step)
        total += step
        assert [p.count for p in bench.points().values()] == [total]


def test_a_bucket_written_after_its_count_is_read_too() -> None:
    bench = Bench()
    row = bench.map.row(red_key())
    row["count"][0] = 2
    row["duration"][0, 100] = 1  # the second exchange's bucket is not written yet
    assert [p.count for p in bench.points().values()] == [1]
    row["duration"][0, 100] = 2
    assert [p.count for p in bench.points().values()] == [2]


def test_start_is_before_the_first_count() -> None:
    bench = Bench()
    bench.map.count(red_key(1), [MS])
    bench.collect()
    bench.map.count(red_key(2), [MS])
    assert {key: p.start_ns for key, p in bench.points().items()} == {("shop", "/1"): START, ("shop", "/2"): START + 10}


def test_keys_that_fold_are_one_point() -> None:
    """Two service numbers of one service, and two keys with the same labels."""
    bench = Bench({1: "shop", 2: "shop", 3: "stock"})
    same = red_key(1, outcome=1)
    bench.labels.named[same.tobytes()] = bench.labels.attributes(red_key(1).tobytes()) or ()
    for n, key in enumerate([red_key(1), red_key(1, svc=2), red_key(1, svc=3), same], 1):
        bench.map.count(key, [n * MS] * n, request=n)
    points = bench.points()
    assert {key: p.count for key, p in points.items()} == {("shop", "/1"): 1 + 2 + 4, ("stock", "/1"): 3}
    assert points["shop", "/1"].sum == pytest.approx((1 + 4 + 16) / 1000)
    bench.map.count(red_key(1, svc=2), [MS])
    assert bench.points()["shop", "/1"].count == 8


def test_unselected_services_are_only_in_the_totals() -> None:
    bench = Bench({1: "shop"})
    for svc in (1, 2):
        bench.map.count(red_key(svc=svc), [MS] * svc)
    bench.map.row(red_key(svc=1))["sampled_out"] = (1, 2)
    assert bench.points().keys() == {("shop", "/1")}
    assert bench.collector.totals() == {"shop": Seen(1, 3), "": Seen(2, 0)}
    bench.services.resources[2] = service("late")
    assert bench.points().keys() == {("shop", "/1"), ("late", "/1")}


def test_labels_on_their_way_are_waited_for_once() -> None:
    bench, key = Bench(), red_key(5)
    bench.labels.unknown.add(key.tobytes())
    bench.map.count(key, [MS] * 3)
    assert bench.points() == {}
    assert bench.counters.value("exchanges.unlabelled") == 3
    assert {k: p.count for k, p in bench.points().items()} == {("shop", None): 3}
    assert bench.counters.value("exchanges.unlabelled") == 0
    bench.labels.unknown.clear()
    assert {k: (p.count, p.start_ns) for k, p in bench.points().items()} == {("shop", "/5"): (3, START)}


def test_the_last_collection_waits_for_nothing() -> None:
    bench, key = Bench(), red_key(5)
    bench.labels.unknown.add(key.tobytes())
    bench.map.count(key, [MS])
    assert {k: p.count for k, p in bench.points(final=True).items()} == {("shop", None): 1}


def test_a_resource_that_is_enriched_later() -> None:
    bench = Bench()
    bench.map.count(red_key(), [MS])
    bench.collect()
    better = service("shop", **{"k8s.pod.name": "shop-1"})
    bench.services.resources[1] = better
    assert [(m.resource, len(m.points)) for m in bench.collect()] == [(better, 1)] * 3


def test_exemplars_are_on_durations_only() -> None:
    bench = Bench()
    exemplar = Exemplar(0.001, 77, bytes(range(16)), bytes(range(8)))
    bench.labels.latest[red_key().tobytes()] = (exemplar,)
    bench.map.count(red_key(), [MS])
    found = {m.name: p.exemplars for m in bench.collect() for p in m.points if isinstance(p, HistogramPoint)}
    assert found == {
        "http.server.request.duration": (exemplar,),
        "http.server.request.body.size": (),
        "http.server.response.body.size": (),
    }


def test_services_that_ended_are_dropped_after_the_grace() -> None:
    bench = Bench({1: "shop", 2: "shop", 3: "stock"})
    for svc in (1, 2, 3):
        bench.map.count(red_key(svc=svc), [MS] * svc)
    bench.counters.add("spans.created", 3, svc=3)
    assert bench.points()["shop", "/1"].count == 3
    bench.exited = {2, 3}
    for _ in range(10):
        assert {k: p.count for k, p in bench.points().items()} == {("shop", "/1"): 3, ("stock", "/1"): 3}
    # shop lives on and keeps what its ended process counted; stock is gone.
    assert {k: (p.count, p.start_ns) for k, p in bench.points().items()} == {("shop", "/1"): (3, START)}
    assert sorted(bench.map.deleted) == sorted(red_key(svc=svc).tobytes() for svc in (2, 3))
    assert bench.counters.value("spans.created", service="stock") == 3
    bench.map.count(red_key(), [MS])
    assert {k: p.count for k, p in bench.points().items()} == {("shop", "/1"): 4}
    assert bench.collector.totals() == {"shop": Seen(4, 0), "stock": Seen(3, 0)}
    bench.services.resources[4] = service("stock")
    bench.map.count(red_key(svc=4), [MS])  # takes a row that was used before
    assert {k: p.count for k, p in bench.points().items()} == {("shop", "/1"): 4, ("stock", "/1"): 1}


def test_a_row_that_is_used_again_starts_from_nothing() -> None:
    bench = Bench({1: "shop"})
    bench.map.count(red_key(), [MS] * 5)
    bench.collect()
    bench.exited = {1}
    while not bench.map.deleted:
        bench.collect()
    bench.exited = set()
    late = red_key()  # the same key, and its labels are not known this time
    bench.map.count(late, [MS] * 2)
    bench.labels.unknown.add(late.tobytes())
    before = bench.now
    assert {k: p.count for k, p in bench.points(final=True).items()} == {("shop", None): 2}
    bench.labels.unknown.clear()
    assert {k: (p.count, p.start_ns) for k, p in bench.points().items()} == {("shop", "/1"): (2, before)}
    assert bench.collector.totals() == {"shop": Seen(7, 0)}


def test_a_service_that_comes_back_in_time_stays() -> None:
    bench = Bench()
    bench.map.count(red_key(), [MS])
    for i in range(30):
        bench.exited = {1} if i % 2 else set()
        assert len(bench.points()) == 1
    assert bench.map.deleted == []


def test_explicit_buckets() -> None:
    bench = Bench(histograms=explicit([0.001, 0.01]))
    bench.map.count(red_key(), [MS, MS + 1, 20 * MS], response=100)
    found = {m.name: p.buckets for m in bench.collect() for p in m.points if isinstance(p, HistogramPoint)}
    assert found["http.server.request.duration"] == ExplicitBuckets((0.001, 0.01), (1, 1, 1))
    sizes = found["http.server.response.body.size"]
    assert isinstance(sizes, ExplicitBuckets)
    assert sizes.counts[:4] == (0, 0, 3, 0)  # (64, 256]


def test_collecting_many_keys_is_cheap() -> None:
    """4096 keys: 150 ms at most when all changed (twice that allowed here, for a busy machine)."""
    bench = Bench({svc: f"s{svc}" for svc in range(1, 21)})
    rng = np.random.default_rng(3)
    for i in range(4096):
        row = bench.map.row(red_key(i + 1, svc=i % 20 + 1))
        row["duration"][:, 60:120] = rng.integers(0, 3, (2, 60))
        row["count"] = row["duration"].sum(axis=1)
    keys, values = bench.map.read_red()
    bench.map.read_red = lambda: (keys, values)  # type: ignore[method-assign]  # what is measured is the collector
    bench.collect()
    spent = []
    for _ in range(5):
        values["count"] += np.uint64(1)
        values["duration"][:, :, 80] += np.uint32(1)
        before = time.process_time()
        bench.collect()
        spent.append(time.process_time() - before)
    assert min(spent) < 0.3


def test_what_the_kernel_lost_and_left_out_is_exported() -> None:
    """Both are read as totals, at every export."""
    bench = Bench()
    own = OwnMetrics(Resource(()), bench.counters, {1: "shop"}.__getitem__)
    lost, missed = {(1, int(Loss.GAP)): 2}, {"sock_state": 3}
    meter = Meter(bench.collector, own, bench.counters, lambda: lost, lambda: missed)
    meter.collect()
    missed["sock_state"] = 5
    values = {
        (metric.name, *point.attributes): point.value
        for metric in meter.collect()
        for point in metric.points
        if isinstance(point, NumberPoint)
    }
    assert values["stingless.exchanges.lost", ("reason", "gap"), ("stingless.service", "shop")] == 2
    assert values["stingless.probes.missed", ("program", "sock_state")] == 5
