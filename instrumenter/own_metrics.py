# SPDX-License-Identifier: Apache-2.0
"""The agent's own metrics: counters and gauges of `telemetry`, turned into the same `Metric`s as everybody else's.

In: `Counters`, the RED totals, ring fill, number of watched processes. Out: `Metric`s of the agent's own resource, for
the same exporters. The rule it protects: every counter is exported, under one name of the OpenTelemetry kind.
"""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple

from instrumenter.model import Attributes, Metric, NumberPoint, Resource
from instrumenter.telemetry import GAUGES, MEANINGS, Counters, Key, Seen


class Usage(NamedTuple):
    """What the agent itself uses: resident bytes now, CPU seconds since its start."""

    rss_bytes: int
    user_s: float
    system_s: float


def usage(statm: Path = Path("/proc/self/statm")) -> Usage:
    """The agent's own memory and CPU (proc(5): the second field of statm is resident pages)."""
    times = os.times()
    try:
        pages = int(statm.read_text().split()[1])
    except (OSError, IndexError, ValueError):
        pages = 0
    return Usage(pages * os.sysconf("SC_PAGE_SIZE"), times.user, times.system)


@dataclass(frozen=True, slots=True)
class OwnMetrics:
    """Turns counters and gauges into the agent's own metrics, of the agent's own resource (service.name=stingless).

    name: svc -> service name for the attribute `stingless.service`; totals: `RedCollector.totals`; ring_fill: ring ->
    share of its bytes unread (0..1); watched: number of watched processes. All are read at `collect()`.
    """

    resource: Resource
    counters: Counters
    name: Callable[[int], str]
    totals: Callable[[], Mapping[str, Seen]] = dict
    ring_fill: Callable[[], Mapping[str, float]] = dict
    watched: Callable[[], int] = int
    start_ns: int = field(default_factory=time.time_ns)

    def collect(self, now_ns: int) -> list[Metric]:
        """All own metrics, cumulative since `start_ns`. Both times are nanoseconds since the epoch."""
        return [*self._counted(now_ns), *self._kernel(now_ns), *self._process(now_ns)]

    def _metric(self, name: str, unit: str, text: str, kind: str, points: Sequence[NumberPoint]) -> Metric:
        return Metric(self.resource, name, unit, text, kind, tuple(points))

    def _counted(self, now_ns: int) -> list[Metric]:
        sums: dict[str, dict[Attributes, int]] = {}
        for key, amount in self.counters.items():
            series = sums.setdefault(MEANINGS[key.name].metric, {})
            attributes = _attributes(key, self.name(key.svc) if key.svc else "")
            series[attributes] = series.get(attributes, 0) + amount
        out = []
        for name, (unit, text, kind) in _COUNTED.items():
            if series := sums.get(name, {}):
                found = sorted(series.items(), key=repr) if len(series) > 1 else series.items()
                points = [NumberPoint(a, self.start_ns, now_ns, v) for a, v in found]
                out.append(self._metric(name, unit, text, kind, points))
        return out

    def _kernel(self, now_ns: int) -> list[Metric]:
        seen, sampled = self._account()
        columns = {
            "stingless.exchanges.seen": sorted(seen.items()),
            "stingless.exchanges.sampled_out": sorted(sampled.items()),
        }
        out = []
        for name, column in columns.items():
            points = [
                NumberPoint((("stingless.service", s),) if s else (), self.start_ns, now_ns, v) for s, v in column
            ]
            out.append(self._metric(name, "{exchange}", _DESCRIPTIONS[name], "counter", points))
        return [m for m in out if m.points]

    def _account(self) -> tuple[dict[str, int], dict[str, int]]:
        """(seen, sampled out) by service, as `telemetry.reconcile` has them, so that its equation holds for metrics."""
        totals = self.totals()
        seen = {service: t.count for service, t in totals.items()}
        sampled = {service: t.sampled_out for service, t in totals.items()}
        for key, amount in self.counters.items():
            column = {"kernel.lost.red_full": seen, "exchanges.taught": sampled}.get(key.name)
            if column is not None:
                service = dict(key.labels).get("service") or self.name(key.svc)
                column[service] = column.get(service, 0) + amount
        return seen, sampled

    def _process(self, now_ns: int) -> list[Metric]:
        used = usage()

        def point(value: float, *attributes: tuple[str, str]) -> NumberPoint:
            return NumberPoint(attributes, self.start_ns, now_ns, value)

        cpu = [point(used.system_s, ("cpu.mode", "system")), point(used.user_s, ("cpu.mode", "user"))]
        rows: list[tuple[str, str, str, list[NumberPoint]]] = [
            ("process.cpu.time", "s", "counter", cpu),
            ("process.memory.usage", "By", "gauge", [point(used.rss_bytes)]),
            ("stingless.processes.watched", "{process}", "gauge", [point(self.watched())]),
            ("stingless.ring.fill", "1", "gauge", [point(v, ("ring", r)) for r, v in sorted(self.ring_fill().items())]),
        ]
        return [self._metric(n, unit, _DESCRIPTIONS[n], kind, points) for n, unit, kind, points in rows if points]


@functools.lru_cache(maxsize=4096)
def _attributes(key: Key, service: str) -> Attributes:
    """A counter's labels as attributes; `service` and svc, whose name is given, both become `stingless.service`."""
    labels = dict(key.labels)
    service = labels.pop("service", "") or service
    if service:
        labels["stingless.service"] = service
    return tuple(sorted((dict(MEANINGS[key.name].attributes) | labels).items()))


_DESCRIPTIONS: Final[Mapping[str, str]] = {
    "stingless.exchanges.seen": "Exchanges that the kernel counted, whether or not their span was kept.",
    "stingless.exchanges.sampled_out": "Exchanges whose span the sampler left out; they are in the metrics.",
    "stingless.exchanges.lost": "What the kernel could not record, by reason.",
    "stingless.spans.dropped": "Spans that did not reach a receiver, by reason.",
    "process.cpu.time": "CPU time that the agent itself used.",
    "process.memory.usage": "Memory of the agent itself that is resident.",
    "stingless.processes.watched": "Processes whose sockets are watched now.",
    "stingless.ring.fill": "Share of a ring's bytes that are written and not read yet.",
}
_COUNTED: Final[Mapping[str, tuple[str, str, str]]] = {  # unit, description and kind of each metric of counters
    meaning.metric: (
        meaning.unit,
        _DESCRIPTIONS.get(meaning.metric, meaning.sentence),
        "gauge" if name in GAUGES else "counter",
    )
    for name, meaning in MEANINGS.items()
}
