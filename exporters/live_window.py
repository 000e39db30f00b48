# SPDX-License-Identifier: Apache-2.0
"""What happened lately, for the live view: differences of cumulative snapshots over a sliding window. No I/O.

In: whole snapshots of `Metric`s, the agent's own among them. Out: a `View`, plain rows to be drawn. The rule it
protects: rates, error shares and quantiles of a row are of the same exchanges, those of the window.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from exporters.quantiles import Buckets, combine, quantile
from instrumenter.model import (
    Attributes,
    HistogramPoint,
    Metric,
    NumberPoint,
)

WINDOW_S: Final = 10.0
_DURATIONS: Final = {"http.server.request.duration": "server", "http.client.request.duration": "client"}
_LOSSES: Final = ("stingless.exchanges.lost", "stingless.spans.dropped")
_NO_LOSS: Final = frozenset({"series_folded", "unselected"})  # counted among the losses, yet nothing is missing


class SeriesKey(NamedTuple):
    service: str
    side: str
    instance: Attributes
    attributes: Attributes


class Row(NamedTuple):
    """One service's (or route's) last seconds. rate: 1/s; errors: share; quantiles: s, NaN if idle; total: ever."""

    name: str
    side: str
    rate: float
    errors: float
    p50: float
    p95: float
    p99: float
    total: int


NOTHING: Final = Row("", "", 0.0, 0.0, math.nan, math.nan, math.nan, 0)


@dataclass(frozen=True, slots=True)
class View:
    """One picture. cpu: share of one CPU; rss: bytes; both NaN/0 until known."""

    services: Sequence[Row] = ()
    routes: Sequence[Row] = ()  # busiest p95 first
    everything: Row = NOTHING
    losses: Mapping[str, int] = field(default_factory=dict)
    cpu: float = math.nan
    rss: int = 0
    watched: int = 0


@dataclass(frozen=True, slots=True)
class _Snapshot:
    at_s: float
    points: Mapping[SeriesKey, HistogramPoint]
    cpu_s: float


class Window:
    """Keeps the snapshots of the last seconds. started_s: the clock (s) when counting began."""

    def __init__(self, started_s: float, window_s: float = WINDOW_S) -> None:
        self._window_s = window_s
        self._kept: deque[_Snapshot] = deque([_Snapshot(started_s, {}, math.nan)])

    def add(self, metrics: Sequence[Metric], now_s: float) -> View:
        """Take a snapshot and show the time since the oldest that is not older than the window."""
        numbers = {m.name: m.points for m in metrics if m.kind != "histogram"}
        cpu = [p.value for p in numbers.get("process.cpu.time", ()) if isinstance(p, NumberPoint)]
        new = _Snapshot(now_s, _durations(metrics), sum(cpu) if cpu else math.nan)
        while len(self._kept) > 1 and now_s - self._kept[0].at_s > self._window_s:
            self._kept.popleft()
        old = self._kept[0]
        self._kept.append(new)
        seconds = max(now_s - old.at_s, 1e-9)
        losses: dict[str, int] = {}
        for name in _LOSSES:
            for point in numbers.get(name, ()):
                reason = str(dict(point.attributes).get("reason", ""))
                if isinstance(point, NumberPoint) and point.value and reason not in _NO_LOSS:
                    losses[reason] = losses.get(reason, 0) + int(point.value)
        return View(
            _rows(new, old, seconds, lambda key: (key.service, key.side)),
            _slowest(_rows(new, old, seconds, _route)),
            next(iter(_rows(new, old, seconds, lambda _: ("", ""))), NOTHING),
            losses, self._cpu(new),
            int(_gauge(numbers, "process.memory.usage")), int(_gauge(numbers, "stingless.processes.watched")),
        )  # fmt: skip

    def _cpu(self, new: _Snapshot) -> float:
        """Share of one CPU since the oldest snapshot that tells; NaN if none is older."""
        old = next((s for s in self._kept if not math.isnan(s.cpu_s)), new)
        return (new.cpu_s - old.cpu_s) / (new.at_s - old.at_s) if new.at_s > old.at_s else math.nan


def _durations(metrics: Iterable[Metric]) -> dict[SeriesKey, HistogramPoint]:
    points = {}
    for metric in metrics:
        if metric.name in _DURATIONS:
            service, side = str(metric.resource.get("service.name", "?")), _DURATIONS[metric.name]
            for point in metric.points:
                if isinstance(point, HistogramPoint):
                    points[SeriesKey(service, side, metric.resource.attributes, point.attributes)] = point
    return points


def _gauge(numbers: Mapping[str, Sequence[NumberPoint | HistogramPoint]], name: str) -> float:
    return sum(p.value for p in numbers.get(name, ()) if isinstance(p, NumberPoint))


def _route(key: SeriesKey) -> tuple[str, str]:
    """A proxy asks by the routes that it serves: what goes out has an arrow, and is not added to what comes in."""
    known = dict(key.attributes)
    route = known.get("http.route") or known.get("url.template") or known.get("server.address") or "?"
    arrow = "\N{RIGHTWARDS ARROW} " if key.side == "client" else ""
    return f"{arrow}{known.get('http.request.method', '?')} {route}", key.service


def _slowest(rows: list[Row]) -> list[Row]:
    return sorted((row for row in rows if row.rate), key=lambda row: (-row.p95, row.name))


@dataclass(slots=True)
class _Sum:
    count: int = 0
    errors: int = 0
    total: int = 0
    parts: list[tuple[Buckets, int]] = field(default_factory=list)


def _rows(new: _Snapshot, old: _Snapshot, seconds: float, group: Callable[[SeriesKey], tuple[str, str]]) -> list[Row]:
    """Rows by group, the busiest first."""
    sums: dict[tuple[str, str], _Sum] = {}
    for key, point in new.points.items():
        held = sums.setdefault(group(key), _Sum())
        held.total += point.count
        before = old.points.get(key)
        if before is not None and (before.start_ns != point.start_ns or before.count > point.count):
            before = None  # it began anew
        grown = point.count - (before.count if before else 0)
        if not grown:
            continue
        held.count += grown
        held.errors += grown if any(k == "error.type" for k, _ in key.attributes) else 0
        held.parts.append((point.buckets, 1))
        if before:
            held.parts.append((before.buckets, -1))
    rows = []
    for (name, side), held in sums.items():
        merged = combine(held.parts) if held.parts else None
        p50, p95, p99 = (quantile(merged, q) if merged else math.nan for q in (0.5, 0.95, 0.99))
        errors = held.errors / held.count if held.count else 0.0
        rows.append(Row(name, side, held.count / seconds, errors, p50, p95, p99, held.total))
    return sorted(rows, key=lambda row: (-row.rate, row.name, row.side))
