# SPDX-License-Identifier: Apache-2.0
"""The stages in their order, for a batch of records and for a reading of the kernel's maps.

In: `Records`, the kernel's RED and loss maps. Out: `Spans` and `Metric`s to the exporters. The rules: a batch's
events are known before its exchanges are named; a fault in one batch costs that batch, counted by service.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final, Protocol

from numpy.typing import NDArray

from instrumenter.bpf.abi import EventKind
from instrumenter.columns import amounts
from instrumenter.discovery.services import ServiceInfo
from instrumenter.metrics import RedCollector
from instrumenter.model import Metric, MetricExporter, Resource, SpanExporter
from instrumenter.names import Labels, Namer
from instrumenter.own_metrics import OwnMetrics
from instrumenter.records import Exchanges, Records
from instrumenter.streams import Streams
from instrumenter.telemetry import LOSS_NAMES, SENTENCES, Counters

log = logging.getLogger("stingless")
_SAID_QUIETLY: Final = frozenset({"series_folded", "unanswered_response", "gap", "malformed"})  # traffic's, not ours
_LOSSES: Final = {f"kernel.lost.{reason}": reason for reason in LOSS_NAMES.values()}
_REMEMBER_GONE_S: Final = 900.0
BATCH_ROWS: Final = 4096  # named at once: more would only make the columns, and with them the agent, larger


class Services(Protocol):
    """What the pipeline needs of `Registry`, or of a recording."""

    def handle(self, events: NDArray[Any]) -> None: ...

    def resource(self, svc: int) -> Resource | None: ...

    def name(self, svc: int) -> str: ...

    def services(self) -> Sequence[ServiceInfo]: ...


class Pipeline:
    """One batch after the other through all stages. `take` is the main loop's; it never waits."""

    def __init__(
        self,
        services: Services,
        namer: Namer,
        labels: Labels,
        counters: Counters,
        exporters: Sequence[SpanExporter],
        streams: Streams,
    ) -> None:
        self._streams = streams
        self._services = services
        self._namer = namer
        self._labels = labels
        self._counters = counters
        self._exporters = tuple(exporters)
        self._faults: set[str] = set()
        self.seen: set[int] = set()  # service numbers of exchanges
        self._left: dict[int, float] = {}  # of those, the ones without processes, and since when

    def take(self, records: Records) -> None:
        """All that became of one poll."""
        if len(records.events):
            self._counters.add("events.received", len(records.events))
            handled = False
            with self._guard("process events could not be handled"):
                of_routes = records.events["kind"] == EventKind.ROUTE
                if of_routes.any():
                    self._register_routes(records.events[of_routes])
                self._services.handle(records.events[~of_routes])
                handled = True
            if not handled:
                self._counters.add("events.failed", len(records.events))
        made: list[Exchanges] = []
        with self._guard("frames of HTTP/2 connections could not be read"):
            made = self._streams.take(records.frames)
        for whole in (*records.exchanges, *made):
            for start in range(0, len(whole.x), BATCH_ROWS):
                rows = slice(start, start + BATCH_ROWS)
                self._exchanges(Exchanges(whole.x[rows], whole.text[rows]), records.clock_offset_ns)

    def _register_routes(self, events: NDArray[Any]) -> None:
        for route, pattern in zip(events["route"].tolist(), events["filename"].tolist(), strict=True):
            self._labels.register(route, pattern)
            self._namer.register(route, pattern)

    def _exchanges(self, exchanges: Exchanges, clock_offset_ns: int) -> None:
        by_svc = dict(amounts(exchanges.x["key"]["svc"]))
        self.seen.update(by_svc)
        self._counters.add("exchanges.received", len(exchanges.x))
        with self._guard("the labels of a batch could not be learnt"):
            self._labels.learn(exchanges, clock_offset_ns)
        if not self._exporters:  # what came up was for its labels, or for a recording
            self._book("exchanges.taught", by_svc)
            return
        batches = None
        with self._guard("a batch of exchanges could not be named"):
            batches = self._namer.batches(exchanges, clock_offset_ns)
        if batches is None:
            self._book("records.malformed", by_svc)
            return
        for spans in batches:
            for exporter in self._exporters:
                with self._guard("an exporter did not take a batch of spans"):
                    exporter.export_spans(spans)

    def _book(self, name: str, by_svc: Mapping[int, int]) -> None:
        for svc, amount in by_svc.items():
            self._counters.add(name, amount, svc)

    @contextmanager
    def _guard(self, what: str) -> Iterator[None]:
        """A fault of ours must not end the agent: it is said once with where it is, and the next batch is tried."""
        try:
            yield
        except Exception as error:
            if repr(error) not in self._faults:
                self._faults.add(repr(error))
                log.exception("%s; further ones alike are only counted", what)

    def departed(self) -> list[int]:
        """Service numbers that have exchanges but no process any more, for the metrics to let go of."""
        now = time.monotonic()
        live = {svc for info in self._services.services() for svc in info.svcs}
        self._left = {svc: self._left.get(svc, now) for svc in self.seen - live}
        for svc in [svc for svc, since in self._left.items() if now - since > _REMEMBER_GONE_S]:
            self.seen.discard(svc)
        return list(self._left)


class Meter:
    """Reads what the kernel counted. `collect` may be called from several threads, `export` is the main loop's."""

    def __init__(
        self,
        red: RedCollector,
        own: OwnMetrics,
        counters: Counters,
        read_losses: Callable[[], Mapping[tuple[int, int], int]],
        read_missed: Callable[[], Mapping[str, int]] = dict,
    ) -> None:
        self._red = red
        self._own = own
        self._counters = counters
        self._read_losses = read_losses
        self._read_missed = read_missed
        self._exporters: Sequence[MetricExporter] = ()
        self._warned: set[str] = set()

    def use(self, exporters: Sequence[MetricExporter]) -> None:
        """To whom `export` gives the metrics."""
        self._exporters = tuple(exporters)

    def check_losses(self) -> None:
        """Books what the kernel lost, and says each reason once with its sentence."""
        self._counters.add_kernel_losses(self._read_losses())
        lost = {key.name for key, amount in self._counters.items() if amount and key.name in _LOSSES}
        for name in sorted(lost - self._warned):
            self._warned.add(name)
            reason = _LOSSES[name]
            level = logging.DEBUG if reason in _SAID_QUIETLY else logging.WARNING
            log.log(level, "%s: %s Counted as stingless.exchanges.lost.", reason, SENTENCES[name])

    def collect(self, final: bool = False) -> list[Metric]:
        """All metrics now, cumulative."""
        self.check_losses()
        self._counters.set_missed(self._read_missed())
        now = time.time_ns()
        return [*self._red.collect(now, final), *self._own.collect(now)]

    def export(self, final: bool = False) -> None:
        """To all exporters. Without any the maps are read all the same: for the account, and to let go of who ended."""
        if not self._exporters:
            self.check_losses()
            self._red.read(time.time_ns(), final)
            return
        metrics = self.collect(final)
        for exporter in self._exporters:
            exporter.export_metrics(metrics)
