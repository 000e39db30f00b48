# SPDX-License-Identifier: Apache-2.0
"""Metrics to an OTLP receiver: whole cumulative snapshots in, requests out, by a thread and a connection of their own.

The rule it protects: no increment is lost. Kept is the newest undelivered value of every series, also of a series that
ended meanwhile; for delta temporality what is subtracted is the last value *delivered*, never the last one tried.
"""

from __future__ import annotations

import dataclasses
import logging
import threading
from collections.abc import Sequence
from typing import Final, NamedTuple

from exporters.otlp_delta import Point, increment, went_back
from exporters.otlp_encode_metrics import Entry, MetricEncoder
from exporters.otlp_options import OtlpOptions
from exporters.otlp_retry import RetryPolicy, Sender
from exporters.otlp_transport import Reply, Transport, agent_version, open_transport
from exporters.queue import SnapshotWorker
from instrumenter.model import Attributes, Metric, Resource
from instrumenter.telemetry import Counters

log = logging.getLogger(__name__)
MAX_REQUEST_BYTES: Final = 3_500_000
MAX_HEADS: Final = 10_000  # metrics by resource that are remembered
MAX_OWED: Final = 100_000  # series that ended while the receiver was away and are still kept for it


class Key(NamedTuple):
    """One series. A series begun again has another start_ns and is another series."""

    resource: Resource
    name: str
    attributes: Attributes
    start_ns: int


class Series(NamedTuple):
    """A metric without its points, and one point."""

    head: Metric
    point: Point


class Undelivered:
    """The newest value of every series that the receiver does not have. Filled by the agent, emptied by the thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._fresh: dict[Key, Series] = {}  # not tried yet
        self._owed: dict[Key, Series] = {}  # tried, given up and counted; sent again if nothing newer comes
        self._live: frozenset[Key] = frozenset()

    def put(self, snapshot: dict[Key, Series]) -> int:
        """Returns how many values were replaced untried."""
        with self._lock:
            replaced = len(self._fresh.keys() & snapshot.keys())
            self._fresh.update(snapshot)
            self._live = frozenset(snapshot)
            return replaced

    def take(self) -> dict[Key, Series]:
        with self._lock:
            taken = {**self._owed, **self._fresh}  # the fresh value of a series is the newer one
            self._owed, self._fresh = {}, {}
            return taken

    def owe(self, failed: dict[Key, Series]) -> None:
        """Give back what was not delivered, where nothing newer has come meanwhile."""
        with self._lock:
            for key, series in failed.items():
                if key not in self._fresh and len(self._owed) < MAX_OWED:
                    self._owed[key] = series

    def known(self, key: Key) -> bool:
        """Whether the series is in the newest snapshot, or still to be delivered."""
        return key in self._live or key in self._owed or key in self._fresh

    def fresh(self) -> int:
        """How many values were never tried."""
        return len(self._fresh)


class OtlpMetricExporter:
    """model.MetricExporter over OTLP. Connects, and imports what the connection needs, with the first snapshot."""

    def __init__(
        self, options: OtlpOptions, counters: Counters, policy: RetryPolicy | None = None, name: str = "otlp"
    ) -> None:
        self._options = options
        self._counters = counters
        self._policy = policy or RetryPolicy()
        self._name = name
        self._undelivered = Undelivered()
        self._heads: dict[tuple[Resource, str], Metric] = {}  # the agent's own
        self._encoder = MetricEncoder(agent_version(), MAX_REQUEST_BYTES)  # the thread's own
        self._delivered: dict[Key, Point] = {}  # for delta temporality; the thread's own
        self._transport: Transport | None = None
        self._sender: Sender | None = None
        self._worker = SnapshotWorker(f"{name}-metrics", self._export, self._disconnect)

    def export_metrics(self, metrics: Sequence[Metric]) -> None:
        """Hand over a whole snapshot. Never waits; an older one that is still unsent is replaced and counted."""
        snapshot: dict[Key, Series] = {}
        for metric in metrics:
            head = self._head(metric)
            for point in metric.points:
                snapshot[Key(metric.resource, metric.name, point.attributes, point.start_ns)] = Series(head, point)
        self._count("metrics.queue_full", self._undelivered.put(snapshot))
        self._worker.kick()

    def _head(self, metric: Metric) -> Metric:
        """The metric without its points, one object for all snapshots."""
        key = (metric.resource, metric.name)
        head = self._heads.get(key)
        if head is None:
            if len(self._heads) >= MAX_HEADS:
                self._heads.clear()
            head = self._heads[key] = dataclasses.replace(metric, points=())
        return head

    def close(self, timeout_s: float) -> None:
        """Send what is left, for about timeout_s at most; count what was never tried."""
        self._worker.close(timeout_s, interrupt=self._disconnect)
        self._count("metrics.export_failed", self._undelivered.fresh())

    def _export(self) -> None:
        """Send the newest values, in as many requests as it takes. Each one succeeds or fails for itself."""
        sender = self._sender or self._connect()
        taken = self._undelivered.take()
        entries = [Entry(k, s.head, p, d) for k, s in taken.items() for p, d in self._due(k, s)]
        for body, keys in self._encoder.encode(entries):
            self._settle({key: taken[key] for key in keys}, sender.send(body))
        self._delivered = {k: p for k, p in self._delivered.items() if self._undelivered.known(k)}

    def _due(self, key: Key, series: Series) -> list[tuple[Point, bool]]:
        """The point to send and whether it is a delta; nothing where nothing has changed."""
        if not self._wants_delta(series.head.kind):
            return [(series.point, False)]
        last = self._delivered.get(key)
        if last is None or went_back(series.point, last):
            return [(series.point, True)]
        point = increment(series.point, last)
        return [(point, True)] if point else []

    def _wants_delta(self, kind: str) -> bool:
        """lowmemory differs from delta only for kinds of instruments that the agent does not have."""
        return self._options.temporality != "cumulative" and kind != "gauge"

    def _settle(self, sent: dict[Key, Series], reply: Reply) -> None:
        if reply.verdict == "delivered":
            rejected = min(reply.rejected, len(sent))
            self._count("metrics.rejected", rejected)
            self._count("metrics.exported", len(sent) - rejected)
            self._delivered |= {k: s.point for k, s in sent.items() if self._wants_delta(s.head.kind)}
            return
        self._count("metrics.export_failed", len(sent))
        if reply.verdict == "retry":  # a refused series that ended would be refused, with its neighbours, for ever
            self._undelivered.owe(sent)

    def _connect(self) -> Sender:
        self._transport = open_transport(self._options)
        limit = self._options.metric_timeout_s
        shutdown = self._worker.shutdown
        self._sender = Sender(
            self._options, self._transport, self._counters, shutdown, self._policy, limit, self._name
        )  # fmt: skip
        return self._sender

    def _disconnect(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def _count(self, name: str, amount: int) -> None:
        if amount:
            self._counters.add(name, amount, exporter=self._name)
