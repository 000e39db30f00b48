# SPDX-License-Identifier: Apache-2.0
"""RED metrics from the kernel's maps: what was counted there, under names learned here.

In: the RED map, read whole, once per collection; `Labels` for what its keys' hashes stand for; the registry for whose
they are. Out: cumulative `Metric`s. The rule it protects: an exchange counted in the kernel is in exactly one point,
every point's count is the sum of its buckets, and no point ever goes back while its start time stands.

Cost depends on the number of metric keys, never on the rate of requests.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from instrumenter.bpf.abi import DURATION_BUCKETS, SIZE_BUCKETS, Direction
from instrumenter.histogram import NS_PER_S, Histograms
from instrumenter.model import (
    U64,
    Attributes,
    Exemplar,
    ExplicitBuckets,
    ExponentialBuckets,
    HistogramPoint,
    Metric,
    Resource,
)
from instrumenter.red_table import BUCKETS, SUMS, RedTable
from instrumenter.telemetry import Counters, Seen

GRACE_NS: Final = 300 * NS_PER_S  # how long the metrics of a service outlive its last process


class RedReader(Protocol):
    """The kernel's RED map (`bpf.program.Program`)."""

    def read_red(self) -> tuple[NDArray[np.void], NDArray[np.void]]:
        """Keys RED_KEY (n,) and values RED (n, cpus)."""
        ...

    def delete_red(self, keys: NDArray[np.void]) -> None: ...


class LabelSource(Protocol):
    """What first exchanges taught. key: the bytes of a RED_KEY."""

    def attributes(self, key: bytes) -> Attributes | None: ...

    def exemplars(self, key: bytes) -> Sequence[Exemplar]: ...


class Services(Protocol):
    """Who a service number is. None: not selected, nothing of it is exported."""

    def resource(self, svc: int) -> Resource | None: ...


class Instrument(NamedTuple):
    """One histogram of the semantic conventions."""

    name: str
    unit: str
    description: str


def _instruments(side: str) -> tuple[Instrument, Instrument, Instrument]:
    return (
        Instrument(f"http.{side}.request.duration", "s", f"Duration of HTTP {side} requests."),
        Instrument(f"http.{side}.request.body.size", "By", f"Size of HTTP {side} request bodies."),
        Instrument(f"http.{side}.response.body.size", "By", f"Size of HTTP {side} response bodies."),
    )


INSTRUMENTS: Final[Mapping[int, tuple[Instrument, Instrument, Instrument]]] = {
    Direction.SERVER: _instruments("server"),
    Direction.CLIENT: _instruments("client"),
}

# Where the three histograms lie in a row's buckets.
_PARTS: Final = (
    slice(0, DURATION_BUCKETS),
    slice(DURATION_BUCKETS, DURATION_BUCKETS + SIZE_BUCKETS),
    slice(DURATION_BUCKETS + SIZE_BUCKETS, BUCKETS),
)

Counted = tuple[int, float, ExponentialBuckets | ExplicitBuckets]  # a histogram: count, sum, buckets


@dataclass(slots=True)
class _Series:
    """One time series of each of three instruments: all metric keys that fold to the same resource and attributes."""

    resource: Resource
    direction: int
    attributes: Attributes
    start_ns: int
    rows: list[int] = field(default_factory=list)
    gone: U64 | None = None  # buckets of rows dropped while others live on
    gone_sums: U64 | None = None
    counted: tuple[Counted, ...] = ()  # empty: to be computed


class RedCollector:
    """Reads, accumulates and names. `collect` may be called from several threads; each call sees all that came before.

    started_ns: when counting began (ns since the epoch); series already counted at the first read start there.
    exited: service numbers whose last process ended; asked at each collection, kept for `grace_ns`, then forgotten.
    """

    def __init__(
        self,
        reader: RedReader,
        labels: LabelSource,
        services: Services,
        counters: Counters,
        histograms: Histograms,
        started_ns: int,
        exited: Callable[[], Iterable[int]] = tuple,
        grace_ns: int = GRACE_NS,
    ) -> None:
        self._reader = reader
        self._labels = labels
        self._services = services
        self._counters = counters
        self._layouts = (histograms.duration, histograms.size, histograms.size)
        self._exited = exited
        self._grace_ns = grace_ns
        self._read_ns = started_ns
        self._lock = threading.Lock()
        self._table = RedTable()
        self._resources: dict[Resource, Resource] = {}
        self._resource_of: dict[int, Resource | None] = {}  # by svc
        self._series: dict[tuple[Resource, int, Attributes], _Series] = {}
        self._series_of: dict[int, _Series] = {}  # by row
        self._first_ns: dict[int, int] = {}  # by row: no count is older
        self._exited_ns: dict[int, int] = {}  # by svc
        self._gone: dict[int, Seen] = {}  # by svc, of dropped rows
        self._unlabelled = 0

    def collect(self, now_ns: int) -> list[Metric]:
        """Read the map and give every selected service's metrics, cumulative, at now_ns (ns since the epoch)."""
        with self._lock:
            keys, values = self._reader.read_red()
            for row in self._table.update(keys, values):
                if row in self._series_of:
                    self._series_of[row].counted = ()
            del keys, values
            self._drop_exited(now_ns)
            self._assign()
            self._read_ns = now_ns
            return self._metrics(now_ns)

    def totals(self) -> dict[int, Seen]:
        """What was counted per service number up to the last `collect`, unselected and dropped ones included."""
        with self._lock:
            totals = dict(self._gone)
            table = self._table
            for row in table.rows():
                self._add(totals, row)
            return totals

    def _add(self, totals: dict[int, Seen], row: int) -> None:
        svc = int(self._table.keys[row]["svc"])
        before = totals.get(svc, Seen(0, 0))
        count, sampled_out = int(self._table.count[row]), int(self._table.sampled_out[row])
        totals[svc] = Seen(before.count + count, before.sampled_out + sampled_out)

    def _assign(self) -> None:
        """Put every row into the series it belongs to by now: labels are learned and resources enriched over time."""
        rows = self._table.rows()
        svcs = self._table.keys["svc"][rows].tolist()
        moved = self._ask_resources(set(svcs))
        unlabelled = 0
        for row, svc in zip(rows, svcs, strict=True):
            if row not in self._first_ns:
                self._first_ns[row] = self._read_ns
            elif svc not in moved and row in self._series_of:
                continue
            resource = self._resource_of[svc]
            key = self._table.keys[row]
            attributes = self._labels.attributes(key.tobytes()) if resource else None
            self._leave(row)
            if resource and attributes is not None and int(key["direction"]) in INSTRUMENTS:
                self._join(row, resource, int(key["direction"]), attributes)
            elif resource:
                unlabelled += int(self._table.count[row])
        self._counters.add("exchanges.unlabelled", unlabelled - self._unlabelled)
        self._unlabelled = unlabelled

    def _ask_resources(self, svcs: set[int]) -> set[int]:
        """Ask who the services are; gives those whose answer changed."""
        moved = set()
        for svc in svcs:
            resource = self._services.resource(svc)
            if resource is not None:
                resource = self._resources.setdefault(resource, resource)
            if svc not in self._resource_of or self._resource_of[svc] is not resource:
                self._resource_of[svc] = resource
                moved.add(svc)
        return moved

    def _join(self, row: int, resource: Resource, direction: int, attributes: Attributes) -> None:
        key = (resource, direction, attributes)
        series = self._series.get(key)
        if series is None:
            series = self._series[key] = _Series(resource, direction, attributes, self._first_ns[row])
        series.rows.append(row)
        series.counted = ()
        self._series_of[row] = series

    def _leave(self, row: int, keep: bool = False) -> None:
        """Take a row out of its series. keep: its counts stay there; else the series begins anew, without them."""
        series = self._series_of.pop(row, None)
        if series is None:
            return
        series.rows.remove(row)
        series.counted = ()
        if not series.rows:
            del self._series[series.resource, series.direction, series.attributes]
        elif keep:
            buckets, sums = self._table.buckets(row), self._table.sums[row].copy()
            series.gone = buckets if series.gone is None else series.gone + buckets
            series.gone_sums = sums if series.gone_sums is None else series.gone_sums + sums
        else:
            series.start_ns = self._read_ns

    def _drop_exited(self, now_ns: int) -> None:
        """Forget services that ended more than grace_ns ago. Nothing counts under their numbers any more."""
        for svc in self._exited():
            self._exited_ns.setdefault(svc, now_ns)
        due = {svc for svc, ended in self._exited_ns.items() if now_ns - ended >= self._grace_ns}
        if not due:
            return
        rows = [row for row in self._table.rows() if int(self._table.keys[row]["svc"]) in due]
        for row in rows:
            self._add(self._gone, row)
            self._leave(row, keep=True)
            self._first_ns.pop(row, None)
        if rows:
            self._reader.delete_red(self._table.keys[rows])
            self._table.drop(rows)
        for svc in due:
            self._resource_of.pop(svc, None)
            del self._exited_ns[svc]
        used = {id(resource) for resource in self._resource_of.values()}
        self._resources = {r: r for r in self._resources if id(r) in used}

    def _count(self, series: _Series) -> tuple[Counted, ...]:
        """The three histograms of a series."""
        table = self._table
        buckets, sums = table.buckets(series.rows[0]), table.sums[series.rows[0]].copy()
        for row in series.rows[1:]:
            buckets += table.buckets(row)
            sums += table.sums[row]
        if series.gone is not None and series.gone_sums is not None:
            buckets += series.gone
            sums += series.gone_sums
        counted = []
        for part, layout, total, unit in zip(_PARTS, self._layouts, sums.tolist(), (NS_PER_S, 1, 1), strict=True):
            counts = buckets[part]
            counted.append((int(counts.sum()), total / unit, layout.buckets(counts)))
        return tuple(counted)

    def _metrics(self, now_ns: int) -> list[Metric]:
        points: dict[tuple[int, int], tuple[Resource, tuple[list[HistogramPoint], ...]]] = {}
        for series in self._series.values():
            if not series.counted:
                series.counted = self._count(series)
            of = points.setdefault((id(series.resource), series.direction), (series.resource, ([], [], [])))[1]
            exemplars: tuple[Exemplar, ...] = ()
            for row in series.rows:
                exemplars += tuple(self._labels.exemplars(self._table.keys[row].tobytes()))
            for held, (count, total, buckets) in zip(of, series.counted, strict=True):
                held.append(
                    HistogramPoint(series.attributes, series.start_ns, now_ns, count, total, buckets, exemplars)
                )
                exemplars = ()  # their values are durations
        return [
            Metric(resource, *instrument, "histogram", tuple(held))
            for (_, direction), (resource, parts) in points.items()
            for instrument, held in zip(INSTRUMENTS[direction], parts, strict=True)
        ]


assert len(SUMS) == len(_PARTS)
