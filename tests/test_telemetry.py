# SPDX-License-Identifier: Apache-2.0
"""Counters, the account of all exchanges, and the agent's own metrics."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping

import numpy as np
import pytest

from instrumenter.bpf.abi import Loss
from instrumenter.model import NumberPoint, Resource, Spans, Text
from instrumenter.own_metrics import OwnMetrics, usage
from instrumenter.telemetry import LOSS_NAMES, MEANINGS, SENTENCES, Counters, Seen, reconcile, tally

NAMES = {1: "shop", 2: "shop", 3: "stock"}


def name(svc: int) -> str:
    return NAMES.get(svc, "")


def test_every_loss_of_the_kernel_has_a_sentence() -> None:
    assert {
        n: f"kernel.lost.{loss.name.lower()}" for n, loss in enumerate(Loss) if loss.name not in ("NONE", "MAX")
    } == {n: f"kernel.lost.{reason}" for n, reason in LOSS_NAMES.items()}
    assert {f"kernel.lost.{reason}" for reason in LOSS_NAMES.values()} <= SENTENCES.keys()


@pytest.mark.parametrize("counter", SENTENCES)
def test_a_sentence_is_one(counter: str) -> None:
    assert SENTENCES[counter].endswith(".")
    assert MEANINGS[counter].metric.startswith("stingless.")


@pytest.mark.parametrize(
    ("act", "error"),
    [
        (lambda c: c.add("spans.lots"), KeyError),
        (lambda c: c.value("spans.lots"), KeyError),
        (lambda c: c.add("spans.exported", -1), ValueError),
    ],
)
def test_misuse(act: Callable[[Counters], object], error: type[Exception]) -> None:
    with pytest.raises(error):
        act(Counters())


def test_values_by_service_and_label() -> None:
    counters = Counters()
    counters.add("spans.exported", 3, svc=1, exporter="otlp")
    counters.add("spans.exported", 4, svc=2, exporter="otlp")
    counters.add("spans.exported", 5, exporter="console")
    counters.add("spans.in_flight", 2)
    counters.add("spans.in_flight", -2)
    assert counters.value("spans.exported") == 12
    assert counters.value("spans.exported", exporter="otlp") == 7
    assert counters.value("spans.exported", 2) == 4
    assert counters.value("spans.in_flight") == 0


def test_threads_lose_nothing() -> None:
    counters = Counters()

    def work() -> None:
        for _ in range(5000):
            counters.add("spans.exported", exporter="otlp")

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counters.value("spans.exported") == 20_000


def test_readings_of_kernel_losses_are_differences() -> None:
    counters = Counters()
    for reading in ({(1, 1): 5}, {(1, 1): 5}, {(1, 1): 8, (3, 7): 1}, {(1, 1): 2}, {(1, 15): 9}):
        counters.add_kernel_losses(reading)
    assert counters.value("kernel.lost.ring_full", 1) == 8 + 2  # the row was made anew before the fourth
    assert counters.value("kernel.lost.malformed", 3) == 1


def test_missed_runs_are_those_of_the_last_reading() -> None:
    counters = Counters()
    for reading in ({}, {"sock_state": 3}, {"sock_state": 5, "tls_call": 1}):
        counters.set_missed(reading)
    assert counters.value("probes.missed", program="sock_state") == 5
    assert counters.value("probes.missed") == 6


def test_retired_services_keep_their_counts_by_name() -> None:
    counters = Counters()
    for svc in (1, 2):
        counters.add("spans.created", 2, svc)
        counters.retire(svc, "shop")
    assert counters.value("spans.created", 1) == 0
    assert counters.value("spans.created", service="shop") == 4
    assert len(counters.items()) == 1


def spans_of(*services: str) -> Spans:
    names = sorted(set(services))
    n = len(services)
    zeros, eight = np.zeros(n, np.uint64), np.zeros((n, 8), np.uint8)
    return Spans(
        [Resource((("service.name", s),)) for s in names],
        [],
        np.array([names.index(s) for s in services], np.int32),
        np.zeros(n, np.int32),
        np.zeros((n, 16), np.uint8),
        eight,
        eight,
        np.zeros(n, np.uint8),
        zeros,
        zeros,
        {},
        {},
        Text(np.zeros((n, 0), np.uint8), np.full(n, -1, np.int32)),
    )


@pytest.mark.parametrize(
    ("services", "expected"),
    [((), {}), (("a",), {"a": 1}), (("b", "a", "b"), {"a": 1, "b": 2})],
)
def test_tally(services: tuple[str, ...], expected: Mapping[str, int]) -> None:
    assert dict(tally(spans_of(*services))) == expected


def test_account_is_exact() -> None:
    counters = Counters()
    counters.add_kernel_losses({(1, Loss.RING_FULL): 7, (3, Loss.RED_FULL): 2, (1, Loss.SERIES_FOLDED): 50})
    counters.add("exchanges.taught", 1, svc=2)
    counters.add("spans.dropped.unselected", 6, svc=9)
    counters.add_tally("spans.exported", (("shop", 60), ("stock", 10)), exporter="otlp")
    counters.add("spans.dropped.queue_full", 8, service="shop", exporter="otlp")
    counters.add("spans.in_flight", 4, service="shop", exporter="otlp")
    counters.add_tally("spans.exported", (("shop", 72), ("stock", 10)), exporter="console")
    seen = {"shop": Seen(100, 20), "stock": Seen(9, 1), "": Seen(6, 0)}
    rows = {(r.service, r.exporter): r for r in reconcile(counters, seen, name)}
    assert {key: row.difference for key, row in rows.items()} == {
        (service, exporter): 0 for service in ("", "shop", "stock") for exporter in ("otlp", "console")
    }
    shop = rows["shop", "otlp"]
    assert (shop.seen, shop.sampled_out, shop.exported, shop.in_flight) == (100, 21, 60, 4)
    assert shop.lost == {"ring_full": 7, "queue_full": 8}
    assert rows["stock", "console"].seen == 9 + 2
    assert rows["", "otlp"].lost == {"unselected": 6}


def test_account_shows_what_is_missing() -> None:
    counters = Counters()
    counters.add("spans.exported", 10, service="shop")
    assert [row.difference for row in reconcile(counters, {"shop": Seen(13, 1)}, name)] == [2]
    assert [row.difference for row in reconcile(counters, {"shop": Seen(9, 1)}, name)] == [-2]


def own(counters: Counters, **given: Callable[[], object]) -> dict[str, dict[tuple[object, ...], float]]:
    metrics = OwnMetrics(Resource((("service.name", "stingless"),)), counters, name, start_ns=5, **given)  # type: ignore[arg-type]
    out: dict[str, dict[tuple[object, ...], float]] = {}
    for metric in metrics.collect(9):
        points = [p for p in metric.points if isinstance(p, NumberPoint)]
        assert {(p.start_ns, p.time_ns) for p in points} == {(5, 9)}
        assert metric.name not in out
        out[metric.name] = {p.attributes: p.value for p in points}
        assert len(out[metric.name]) == len(metric.points)
    return out


def test_own_metrics() -> None:
    counters = Counters()
    counters.add("kernel.lost.ring_full", 2, svc=1)
    counters.add("kernel.lost.ring_full", 3, svc=2)
    counters.add("kernel.lost.gap", 4, svc=3)
    counters.add("spans.dropped.queue_full", 5, service="shop", exporter="otlp")
    found = own(
        counters,
        totals=lambda: {"shop": Seen(12, 4), "": Seen(1, 0)},
        ring_fill=lambda: {"exchanges": 0.25},
        watched=lambda: 3,
    )
    assert found["stingless.exchanges.lost"] == {
        (("reason", "ring_full"), ("stingless.service", "shop")): 5,
        (("reason", "gap"), ("stingless.service", "stock")): 4,
    }
    assert found["stingless.spans.dropped"] == {
        (("exporter", "otlp"), ("reason", "queue_full"), ("stingless.service", "shop")): 5
    }
    assert found["stingless.exchanges.seen"] == {(("stingless.service", "shop"),): 12, (): 1}
    assert found["stingless.exchanges.sampled_out"] == {(("stingless.service", "shop"),): 4, (): 0}
    assert found["stingless.ring.fill"] == {(("ring", "exchanges"),): 0.25}
    assert found["stingless.processes.watched"] == {(): 3}
    assert found["process.memory.usage"][()] > 1e6
    assert found["process.cpu.time"].keys() == {(("cpu.mode", "system"),), (("cpu.mode", "user"),)}


def test_every_counter_is_exported_under_its_own_series() -> None:
    counters = Counters()
    for counter in SENTENCES:
        counters.add(counter)
    found = own(counters)
    series = {metric: len(points) for metric, points in found.items() if metric.startswith("stingless.")}
    # The account of the exchanges is made of some of them, and two gauges are none of them.
    assert (series.pop("stingless.exchanges.seen"), series.pop("stingless.exchanges.sampled_out")) == (1, 1)
    assert sum(series.values()) == len(SENTENCES) + 1


def test_usage_of_this_process() -> None:
    assert 1e6 < usage().rss_bytes < 1e10
    assert usage().user_s > 0
