# SPDX-License-Identifier: Apache-2.0
"""RED metrics from the kernel's maps: what was counted there, under names learned here.

In: the RED map, read whole, once per collection; `Labels` for what its keys' hashes stand for; the registry for whose
they are. Out: cumulative `Metric`s. The rule it protects: an exchange counted in the kernel is in exactly one point,
every point's count is the sum of its buckets, and no point ever goes back while its start time stands.

Cost depends on the number of metric keys, never on the rate of requests.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from instrumenter.bpf.abi import DURATION_BUCKETS, SIZE_BUCKETS
from instrumenter.conventions import Convention, convention
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
from instrumenter.red_table import BUCKETS, RedTable
from instrumenter.telemetry import Counters, Seen

GRACE_NS: Final = 300 * NS_PER_S  # how long the metrics of a service outlive its last process


class RedReader(Protocol):
    """The kernel's RED map (`bpf.program.Program`)."""

    def read_red(self) -> tuple[NDArray[np.void], NDArray[np.void]]:
        """Keys RED_KEY (n,) and values RED (n, cpus)."""
        ...

    def delete_red(self, keys: NDArray[np.void]) -> object: ...


class LabelSource(Protocol):
    """What first exchanges taught. key: the bytes of a RED_KEY."""

    def knows(self, key: bytes) -> bool:
        """Whether an exchange has taught this key, so that `attributes` will not change."""
        ...

    def attributes(self, key: bytes) -> Attributes | None:
        """Of a key that was not taught: what its numbers alone say. None: they are not an exchange's."""
        ...

    def exemplars(self, key: bytes) -> Sequence[Exemplar]: ...

    def forget(self, key: bytes) -> None: ...


class Services(Protocol):
    """Who a service number is. None: not selected, nothing of it is exported."""

    def resource(self, svc: int) -> Resource | None: ...


# Where the three histograms lie in a row's buckets.
_PARTS: Final = (
    slice(0, DURATION_BUCKETS),
    slice(DURATION_BUCKETS, DURATION_BUCKETS + SIZE_BUCKETS),
    slice(DURATION_BUCKETS + SIZE_BUCKETS, BUCKETS),
)
_CHUNK: Final = 128

Counted = tuple[int, float, ExponentialBuckets | ExplicitBuckets]  # a histogram: count, sum, buckets


class Kind(NamedTuple):
    """Which instruments a row fills."""

    convention: Convention
    direction: int


@dataclass(slots=True)
class _Series:
    """One time series of each of three instruments: all metric keys that fold to the same resource and attributes."""

    resource: Resource
    kind: Kind
    attributes: Attributes
    start_ns: int
    rows: dict[int, bytes] = field(default_factory=dict)  # row -> its key
    gone: U64 | None = None  # buckets of rows dropped while others live on
    gone_sums: U64 | int = 0
    counted: tuple[Counted, ...] = ()  # empty: to be computed


class RedCollector:
    """Reads, accumulates and names. `collect` may be called from several threads; each call sees all that came before.

    started_ns: when counting began (ns since the epoch); series already counted at the first read start there.
    exited: service numbers without processes now; asked at each collection. Who is among them for grace_ns is dropped.
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
        self._histograms = histograms
        self._exited = exited
        self._grace_ns = grace_ns
        self._read_ns = started_ns
        self._lock = threading.Lock()
        self._table = RedTable()
        self._resources: dict[Resource, Resource] = {}
        self._resource_of: dict[int, Resource | None] = {}  # by svc
        self._series: dict[tuple[Resource, Kind, Attributes], _Series] = {}
        self._series_of: dict[int, _Series] = {}  # by row
        self._first_ns: dict[int, int] = {}  # by row: no count is older
        self._exited_ns: dict[int, int] = {}  # by svc
        self._names: dict[int, str] = {}  # by svc, as long as it has rows
        self._gone: dict[str, Seen] = {}  # by service, of dropped rows
        self._learned: set[int] = set()  # rows whose labels are final
        self._waiting = 0

    def collect(self, now_ns: int, final: bool = False) -> list[Metric]:
        """Read the map and give every selected service's metrics, cumulative, at now_ns (ns since the epoch).

        A key whose labels are still on their way through the ring waits for the next collection; final: it does not.
        """
        with self._lock:
            self._read(now_ns, final)
            return self._metrics(now_ns)

    def read(self, now_ns: int, final: bool = False) -> None:
        """As `collect`, for `totals` alone."""
        with self._lock:
            self._read(now_ns, final)

    def _read(self, now_ns: int, final: bool) -> None:
        keys, values = self._reader.read_red()
        for row in self._table.update(keys, values):
            if row in self._series_of:
                self._series_of[row].counted = ()
        del keys, values
        self._drop_exited(now_ns)
        self._assign(final)
        self._read_ns = now_ns

    def totals(self) -> dict[str, Seen]:
        """What was counted up to the last `collect` by service.name, for ever; under "" what is of unselected ones."""
        with self._lock:
            totals = dict(self._gone)
            for row in self._table.rows().values():
                self._add(totals, row)
            return totals

    def _add(self, totals: dict[str, Seen], row: int) -> None:
        name = self._names.get(int(self._table.keys[row]["svc"]), "")
        before = totals.get(name, Seen(0, 0))
        count, sampled_out = int(self._table.count[row]), int(self._table.sampled_out[row])
        totals[name] = Seen(before.count + count, before.sampled_out + sampled_out)

    def _assign(self, final: bool) -> None:
        """Put every row into the series it belongs to by now: labels are learned and resources enriched over time."""
        keys = self._table.rows()
        svcs = self._table.keys["svc"][list(keys.values())].tolist()
        moved = self._ask_resources(set(svcs))
        waiting = 0
        for (key, row), svc in zip(keys.items(), svcs, strict=True):
            series = self._series_of.get(row)
            if series and row in self._learned and svc not in moved:
                continue
            resource = self._resource_of[svc]
            wait = self._first_ns.setdefault(row, self._read_ns) == self._read_ns and not final
            attributes = self._attributes(key, row, series, wait) if resource else None
            if series and (series.resource, series.attributes) == (resource, attributes):
                continue
            self._leave(row)
            kind = self._kind(row)
            if resource and attributes is not None and kind.direction in kind.convention.instruments:
                self._join(key, row, (resource, kind, attributes))
            elif resource:
                waiting += int(self._table.count[row])
        self._counters.add("exchanges.unlabelled", waiting - self._waiting)
        self._waiting = waiting

    def _attributes(self, key: bytes, row: int, series: _Series | None, wait: bool) -> Attributes | None:
        """The labels of a row. None if it has to wait: then its first exchange has been counted but not read."""
        if row in self._learned and series:
            return series.attributes
        if self._labels.knows(key):
            self._learned.add(row)
        elif wait:
            return None
        return self._labels.attributes(key)

    def _ask_resources(self, svcs: set[int]) -> set[int]:
        """Ask who the services are; gives those whose answer changed."""
        moved = set()
        for svc in svcs:
            resource = self._services.resource(svc)
            if resource is not None:
                resource = self._resources.setdefault(resource, resource)
                self._names[svc] = str(resource.get("service.name"))
            if svc not in self._resource_of or self._resource_of[svc] is not resource:
                self._resource_of[svc] = resource
                moved.add(svc)
        return moved

    def _kind(self, row: int) -> Kind:
        key = self._table.keys[row]
        return Kind(convention(int(key["protocol"])), int(key["direction"]))

    def _join(self, key: bytes, row: int, identity: tuple[Resource, Kind, Attributes]) -> None:
        series = self._series.get(identity)
        if series is None:
            series = self._series[identity] = _Series(*identity, self._first_ns[row])
        series.rows[row] = key
        series.counted = ()
        self._series_of[row] = series

    def _leave(self, row: int, keep: bool = False) -> None:
        """Take a row out of its series. keep: its counts stay there; else the series begins anew, without them."""
        series = self._series_of.pop(row, None)
        if series is None:
            return
        del series.rows[row]
        series.counted = ()
        if not series.rows:
            del self._series[series.resource, series.kind, series.attributes]
        elif keep:
            buckets = self._table.buckets([row])[0]
            series.gone = buckets if series.gone is None else series.gone + buckets
            series.gone_sums = self._table.sums[row] + series.gone_sums
        else:
            series.start_ns = self._read_ns

    def _drop_exited(self, now_ns: int) -> None:
        """Forget services that ended more than grace_ns ago. Nothing counts under their numbers any more."""
        self._exited_ns = {svc: self._exited_ns.get(svc, now_ns) for svc in self._exited()}
        due = {svc for svc, ended in self._exited_ns.items() if now_ns - ended >= self._grace_ns}
        if not due:
            return
        rows = {k: row for k, row in self._table.rows().items() if int(self._table.keys[row]["svc"]) in due}
        for key, row in rows.items():
            self._add(self._gone, row)
            self._leave(row, keep=True)
            self._first_ns.pop(row, None)
            self._learned.discard(row)
            self._labels.forget(key)
        if rows:
            self._reader.delete_red(self._table.keys[list(rows.values())])
            self._table.drop(rows)
        for svc in due:
            self._resource_of.pop(svc, None)
            self._counters.retire(svc, self._names.pop(svc, ""))
        used = {id(resource) for resource in self._resource_of.values()}
        self._resources = {r: r for r in self._resources if id(r) in used}

    def _count(self) -> None:
        """Compute the three histograms of every series that changed, a few at once."""
        stale: dict[Convention, list[_Series]] = {}
        for series in self._series.values():
            if not series.counted:
                stale.setdefault(series.kind.convention, []).append(series)
        for said, several in stale.items():
            for at in range(0, len(several), _CHUNK):
                self._count_some(said, several[at : at + _CHUNK])

    def _count_some(self, said: Convention, part: list[_Series]) -> None:
        firsts = [next(iter(series.rows)) for series in part]
        buckets, sums = self._table.buckets(firsts), self._table.sums[firsts]
        for i, series in enumerate(part):
            others = list(series.rows)[1:]
            if others:
                buckets[i] += self._table.buckets(others).sum(axis=0)
                sums[i] += self._table.sums[others].sum(axis=0)
            if series.gone is not None:
                buckets[i] += series.gone
                sums[i] += series.gone_sums
        histograms = [
            zip(counts.sum(axis=1).tolist(), (sums[:, k] / unit).tolist(), layout.buckets(counts), strict=True)
            for k, (layout, unit) in enumerate(zip(said.layouts(self._histograms), (said.unit_ns, 1, 1), strict=True))
            for counts in (buckets[:, _PARTS[k]],)
        ]
        for series, counted in zip(part, zip(*histograms, strict=True), strict=True):
            series.counted = counted

    def _metrics(self, now_ns: int) -> list[Metric]:
        self._count()
        points: dict[tuple[int, Kind], tuple[Resource, tuple[list[HistogramPoint], ...]]] = {}
        for series in self._series.values():
            of = points.setdefault((id(series.resource), series.kind), (series.resource, ([], [], [])))[1]
            exemplars: tuple[Exemplar, ...] = ()
            for key in series.rows.values():
                exemplars += tuple(self._labels.exemplars(key))
            attributes, start_ns = series.attributes, series.start_ns
            for held, (count, total, buckets) in zip(of, series.counted, strict=True):
                held.append(HistogramPoint(attributes, start_ns, now_ns, count, total, buckets, exemplars))
                exemplars = ()  # their values are durations
        return [
            Metric(resource, *instrument, "histogram", tuple(held))
            for (_, kind), (resource, parts) in points.items()
            for instrument, held in zip(kind.convention.instruments[kind.direction], parts, strict=True)
        ]
