# SPDX-License-Identifier: Apache-2.0
"""Batches through all stages: the account closes in every configuration, and memory stays what a batch needs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from exchanges import FixedRegistry, exchange, mix, together
from numpy.typing import NDArray

from instrumenter.account import closing_line, discrepancies
from instrumenter.bpf.abi import EVENT, Flag, Loss
from instrumenter.discovery.services import ServiceInfo
from instrumenter.histogram import exponential
from instrumenter.model import Resource, Spans
from instrumenter.names import Labels, Namer
from instrumenter.own_metrics import OwnMetrics
from instrumenter.pipeline import BATCH_ROWS, Pipeline
from instrumenter.records import Exchanges, Records
from instrumenter.replay import Recorded
from instrumenter.streams import Streams
from instrumenter.telemetry import Counters, Seen, reconcile, tally


class Services(FixedRegistry):
    """Also takes events; a resource of `faulty` is asked for in vain."""

    def __init__(self, selected: Sequence[int], faulty: int = -1) -> None:
        super().__init__(selected)
        self.faulty = faulty
        self.events = 0

    def handle(self, events: NDArray[Any]) -> None:
        self.events += len(events)
        if (events["tgid"] == self.faulty).any():
            raise KeyError("no such process")

    def resource(self, svc: int) -> Resource | None:
        if svc == self.faulty:
            raise KeyError("no such service")
        return super().resource(svc)

    def name(self, svc: int) -> str:
        found = super().resource(svc)
        return str(found.get("service.name")) if found else ""

    def services(self) -> Sequence[ServiceInfo]:
        return ()


class Sink:
    """A SpanExporter that takes everything at once, or raises."""

    def __init__(self, counters: Counters, name: str, broken: bool = False) -> None:
        self.counters, self.name, self.broken = counters, name, broken
        self.taken: list[Spans] = []

    def export_spans(self, spans: Spans) -> None:
        self.counters.add_tally(
            "spans.dropped.export_failed" if self.broken else "spans.exported", tally(spans), exporter=self.name
        )
        if self.broken:
            raise RuntimeError("broken")
        self.taken.append(spans)

    def close(self, timeout_s: float) -> None: ...


def streams(counters: Counters) -> Streams:
    return Streams(Recorded.sampling(), exponential(), counters)


FIRST, BOTH, SAMPLED = Flag.FIRST, Flag.FIRST | Flag.SAMPLED, Flag.SAMPLED
ROWS = [(1, SAMPLED), (1, SAMPLED), (1, FIRST), (2, BOTH), (3, FIRST), (4, SAMPLED), (4, FIRST)]  # 4 is not selected
ONLY_FIRST = [(1, FIRST), (2, FIRST), (4, FIRST)]  # as the kernel gives them without an exporter of spans


def run(
    rows: Sequence[tuple[int, Flag]], exporters: Sequence[str], faulty: int = -1
) -> tuple[Counters, Services, list[Sink]]:
    counters, services = Counters(), Services((1, 2, 3), faulty)
    sinks = [Sink(counters, name, broken=name == "broken") for name in exporters]
    pipeline = Pipeline(services, Namer(services, counters), Labels(), counters, sinks, streams(counters))
    for svc, flags in rows:
        batch = together([exchange(svc=svc, flags=flags)])
        pipeline.take(Records((batch,), np.empty(0, EVENT), 0))
    return counters, services, sinks


@pytest.mark.parametrize(
    ("rows", "exporters", "faulty"),
    [
        (ONLY_FIRST, (), -1),
        (ROWS, (), -1),  # a recording has every exchange come up
        (ROWS, ("console",), -1),
        (ROWS, ("console", "otlp"), -1),
        (ROWS, ("broken", "otlp"), -1),
        (ROWS, ("otlp",), 2),
    ],
    ids=["metrics only", "recording", "console", "two", "one is broken", "a fault of ours"],
)
def test_the_account_closes(
    rows: Sequence[tuple[int, Flag]], exporters: Sequence[str], faulty: int, caplog: pytest.LogCaptureFixture
) -> None:
    counters, services, _ = run(rows, exporters, faulty)
    # What the kernel counted: what came up, 10 sampled out for each service, 2 that found the ring full, 1 red_full.
    counters.add_kernel_losses({(1, Loss.RING_FULL): 2, (3, Loss.RED_FULL): 1})
    up = {svc: sum(1 for s, _ in rows if s == svc) for svc in (1, 2, 3, 4)}
    seen = {
        services.name(svc): Seen(n + 10 + 2 * (svc == 1) - (svc == 3), 10) for svc, n in up.items()
    }  # fmt: skip
    account = reconcile(counters, seen, services.name)
    assert discrepancies(account) == []
    assert {row.exporter for row in account} == set(exporters or [""])
    line = closing_line(account)
    assert "ring_full 2" in line
    assert f"{up[4] + 10} more of processes that are not selected" in line
    assert ("no exporter of spans" in line) == (not exporters)
    assert ("malformed 1" in line) == (faulty > 0)
    assert len(caplog.records) == (faulty > 0 or "broken" in exporters)  # once, however often
    own = OwnMetrics(Resource(()), counters, services.name, lambda: seen)
    values = {m.name: {dict(p.attributes).get("stingless.service"): p.value for p in m.points} for m in own.collect(1)}  # type: ignore[union-attr]
    for row in account:
        assert values["stingless.exchanges.seen"][row.service or None] == row.seen
        assert values["stingless.exchanges.sampled_out"][row.service or None] == row.sampled_out


def test_an_account_that_does_not_close_is_said() -> None:
    counters = Counters()
    counters.add_tally("spans.exported", (("shop", 5),), exporter="otlp")
    (line,) = discrepancies(reconcile(counters, {"shop": Seen(9, 2)}, lambda _: "shop"))
    assert line.startswith("the account of shop at otlp does not close: 9 seen, 5 exported, 2 sampled out")
    assert line.endswith("+2")


def test_events_that_fail_are_counted(caplog: pytest.LogCaptureFixture) -> None:
    counters, services = Counters(), Services((1,), faulty=66)
    pipeline = Pipeline(services, Namer(services, counters), Labels(), counters, (), streams(counters))
    events = np.zeros(3, EVENT)
    pipeline.take(Records((), events, 0))
    events["tgid"] = 66
    pipeline.take(Records((), events, 0))
    assert (counters.value("events.received"), counters.value("events.failed")) == (6, 3)
    assert len(caplog.records) == 1


@pytest.mark.parametrize("rows", [1, BATCH_ROWS, 2 * BATCH_ROWS + 1])
def test_batches_are_small_and_keep_no_records_alive(rows: int) -> None:
    counters, services = Counters(), Services(range(1, 11))
    sink = Sink(counters, "otlp")
    whole = mix(min(rows, 64))
    again = np.resize(np.arange(len(whole.x)), rows)
    records = Exchanges(whole.x[again], whole.text[again]).records()
    pipeline = Pipeline(services, Namer(services, counters), Labels(), counters, [sink], streams(counters))
    pipeline.take(Records((Exchanges.of(records),), np.empty(0, EVENT), 0))
    assert sum(map(len, sink.taken)) == rows == counters.value("exchanges.received")
    assert max(map(len, sink.taken)) <= BATCH_ROWS
    for spans in sink.taken:
        columns = [spans.trace_id, spans.span_id, spans.parent_id, spans.flags, spans.start_ns, spans.end_ns]
        columns += [*spans.ints.values(), *(text.data for text in spans.texts.values()), spans.trace_state.data]
        assert not any(np.may_share_memory(column, records) for column in columns)
