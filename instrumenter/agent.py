# SPDX-License-Identifier: Apache-2.0
"""The composition root: every stage and how they are joined, on one page.

    source -> events -> registry                           who the processes are
           -> exchanges -> labels                          what the metric keys stand for
                        -> names -> exporters of spans
    kernel's RED map -> metrics, by labels and registry -> exporters of metrics

The rules this file protects: one thread moves the data, in this order; exporters have threads of their own and never
make it wait. What can fail for a user's reason fails before the kernel is touched. Nothing stays in the kernel.
"""

from __future__ import annotations

import gc
import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from instrumenter import account
from instrumenter.config_load import Loaded, otel_environment
from instrumenter.discovery.procfs import ProcFS
from instrumenter.discovery.tls import TlsProbes
from instrumenter.enrich.host import read_host
from instrumenter.errors import StinglessError
from instrumenter.loading import Loading
from instrumenter.metrics import RedCollector
from instrumenter.model import Metric, MetricExporter, SpanExporter
from instrumenter.names import Labels, Namer
from instrumenter.own_metrics import OwnMetrics
from instrumenter.parts import make_registry, make_selection, name_options, own_resource
from instrumenter.pipeline import Meter, Pipeline
from instrumenter.records import Records, RecordSource
from instrumenter.run import Stop, keep_heap, notify, seconds_since_exec
from instrumenter.sizes import make_histograms
from instrumenter.streams import Streams
from instrumenter.telemetry import Counters

if TYPE_CHECKING:
    from instrumenter.bpf.program import Program

CHECK_S: Final = 2.0  # between two looks at the kernel's losses, at least: they cost a walk over a map
POLL_S: Final = 5.0  # longest wait for records
LIVE_S: Final = 1.0  # between two pictures of the live view
REPLAY_AHEAD: Final = 8_192  # spans that a replay may have queued: far below what any queue sheds at
BUSY_S: Final = 0.2  # for a CPU that was interrupted while it wrote a record
CLOSE_S: Final = 10.0  # for exporters to send what they hold; systemd waits 90 s, Kubernetes 30 s


def run(loaded: Loaded, loading: Loading, duration_s: float | None = None, recording: Path | None = None) -> int:
    """Watch this machine until a signal, or for duration_s; returns the exit code. Raises CannotStart."""
    stop = Stop()
    agent = Live(loaded, loading, recording)
    try:
        agent.start()
        stop.wake = agent.source.wake
        print(agent.ready_line(), file=sys.stderr, flush=True)
        notify("READY=1")
        agent.loop(stop, duration_s)
    finally:
        notify("STOPPING=1")
        agent.close()
    return 0


def replay(loaded: Loaded, recording: Path) -> int:
    """Send a recording through the same pipeline; returns the exit code. Raises CannotStart."""
    from instrumenter.recording import FileSource
    from instrumenter.replay import Recorded

    settings, counters = loaded.settings, Counters()
    source = FileSource(recording)
    histograms = make_histograms(settings)
    recorded = Recorded(source.metadata, histograms)
    labels = Labels(name_options(settings), exemplars=settings.metrics.exemplars)
    streams = Streams(recorded.sampling(), histograms, counters, settings.metrics.known_methods)
    red = RedCollector(streams.beside(recorded), labels, recorded, counters, histograms, time.time_ns())
    own = OwnMetrics(own_resource(read_host()), counters, recorded.name, red.totals)
    outputs = Outputs.build(loaded, counters)
    meter = Meter(red, own, counters, dict)
    outputs.serve(meter.collect, counters, "replay")
    meter.use(outputs.metrics)
    namer = Namer(recorded, counters, name_options(settings))
    pipeline = Pipeline(recorded, namer, labels, counters, outputs.spans, streams)
    stop = Stop(source.wake)
    while not (source.exhausted or stop.requested):
        records = source.poll(POLL_S)
        recorded.count(records)
        pipeline.take(records)
        outputs.drain_if_behind(counters, stop)
    meter.export(final=True)
    outputs.close(CLOSE_S)
    source.close()
    account.report(counters, red.totals(), recorded.name)
    return 0


class Live:
    """The agent on a live kernel: `start`, `loop`, `close`."""

    def __init__(self, loaded: Loaded, loading: Loading, recording: Path | None = None) -> None:
        """Everything that needs no kernel, exporters first: a wrong address or certificate ends here."""
        self._settings, self._loading = loaded.settings, loading
        self._counters = Counters()
        self._histograms = make_histograms(self._settings)
        self._outputs = Outputs.build(loaded, self._counters)
        self._recording = recording
        self._program: Program | None = None
        self._verdicts: dict[int, tuple[int, int]] = {}  # given before there was a kernel side to tell
        self._complete = False  # every stage is there, and the probes are attached
        self._tls = TlsProbes()
        self._missed = 0  # events of processes, when the registry was last repaired
        self.source: RecordSource

    def start(self) -> None:
        """Decide on who runs, load, attach, decide on who came meanwhile."""
        settings, host = self._settings, read_host(boot_id=ProcFS().boot_id())
        selection = make_selection(settings, ProcFS())
        tell = self._set_process, self._delete_process
        self.registry = make_registry(settings, selection, host, *tell, self._counters)
        self.registry.scan()
        self._tls.scan(filter(self.registry.service_of, self._verdicts), libraries=not selection.explicit)
        self._program = program = self._loading.result()
        for tgid, (svc, verdict) in self._verdicts.items():
            self._set_process(tgid, svc, verdict)
        self._ring = program.source()
        self.source = self._ring
        if self._recording is not None:
            from instrumenter.recording import Recorder

            self.source = self._recorder = Recorder(self._recording, self._ring)
        options = name_options(settings)
        labels = Labels(options, 2 * self._loading.sizes.series, settings.metrics.exemplars)
        namer = Namer(self.registry, self._counters, options)
        streams = Streams(self._loading.constants, self._histograms, self._counters, settings.metrics.known_methods)
        self.pipeline = Pipeline(self.registry, namer, labels, self._counters, self._outputs.spans, streams)
        self.red = RedCollector(
            streams.beside(program), labels, self.registry, self._counters, self._histograms, time.time_ns(),
            self.pipeline.departed,
        )  # fmt: skip
        own = OwnMetrics(
            own_resource(host), self._counters, self.registry.name, self.red.totals, self._ring.fill, self._watched
        )
        self._meter = Meter(self.red, own, self._counters, program.read_losses)
        program.set_ports(selection.watched_ports())
        program.attach()
        self._complete = True
        self.registry.rescan(program.processes())
        self._tls.begin(program.uprobes(), program.processes(), self.registry.service_of)
        self._take(self.source.poll(0.0))
        self._check()
        self._outputs.serve(self._meter.collect, self._counters, self._attach(), self._tls.lines)
        self._meter.use(self._outputs.metrics)
        keep_heap()
        gc.freeze()  # what lives now lives for good: not to be looked at again by every later collection

    def ready_line(self) -> str:
        seconds, services = seconds_since_exec(), self.registry.active()
        return f"stingless: ready in {seconds:.2f} s (attach={self._attach()}, services={services})"

    def _attach(self) -> str:
        assert self._program is not None
        return "+".join(dict.fromkeys(self._program.modes.values()))

    def loop(self, stop: Stop, duration_s: float | None = None) -> None:
        """Until a signal, or for duration_s."""
        now = time.monotonic()
        end = now + duration_s if duration_s is not None else float("inf")
        interval = self._outputs.interval(self._settings.metrics.interval)
        checked, exported = now, now
        while not stop.requested and now < end:
            self._take(self.source.poll(max(0.0, min(POLL_S, end - now, exported + interval - now))))
            now = time.monotonic()
            if now - checked >= CHECK_S:
                self._check()
                checked = now
            if now - exported >= interval:
                self._meter.export()
                exported = now

    def close(self) -> None:
        """Detach first, so that an end is reached; then nothing that was recorded is left behind."""
        self._tls.close()
        if self._program is not None:
            self._program.detach()
            if self._complete:
                self._drain()
                self._meter.export(final=True)
                self._meter.check_losses()
                self.source.close()
            self._program.close()
        self._outputs.close(CLOSE_S)
        if self._complete:
            account.report(self._counters, self.red.totals(), self.registry.name)

    def _drain(self) -> None:
        """Takes all that is in the rings; a record that a CPU is still writing is waited for."""
        deadline = time.monotonic() + BUSY_S
        while True:
            if records := self._ring.drain():
                if self._recording is not None:
                    self._recorder.write(records)
                self._take(records)
            elif not any(self._ring.fill().values()) or time.monotonic() > deadline:
                return
            else:
                time.sleep(0.001)

    def _check(self) -> None:
        """Book the kernel's losses. Where events of processes were among them, ask the kernel for all it has."""
        assert self._program is not None
        self._meter.check_losses()
        missed = sum(self._counters.value(name) for name in ("kernel.lost.event_full", "events.failed"))
        if missed > self._missed:
            self._missed = missed
            self.registry.resync(self._program.processes())

    def _take(self, records: Records) -> None:
        known = len(self.pipeline.seen)
        self.pipeline.take(records)
        self._tls.follow(records.events)
        if self._recording is not None and len(self.pipeline.seen) > known:
            from instrumenter.replay import describe

            self._recorder.describe(describe(self.pipeline.seen, self.registry))

    def _set_process(self, tgid: int, svc: int, verdict: int) -> None:
        if self._program is None:
            self._verdicts[tgid] = (svc, verdict)
            return
        try:
            self._program.set_process(tgid, svc, verdict)
        except StinglessError:
            self._counters.add("kernel.lost.processes_full", svc=svc)

    def _delete_process(self, tgid: int) -> None:
        assert self._program is not None
        self._program.delete_process(tgid)

    def _watched(self) -> int:
        return sum(info.processes for info in self.registry.services())


Collect = Callable[[], Sequence[Metric]]


@dataclass
class Outputs:
    """The exporters that are configured. Made before the kernel is touched; `close` sends what is held."""

    spans: list[SpanExporter] = field(default_factory=list)
    metrics: list[MetricExporter] = field(default_factory=list)
    endpoint: MetricExporter | None = None  # collects itself, when it is scraped
    live: bool = False
    ready: bool = False
    _collect: Collect = tuple

    @classmethod
    def build(cls, loaded: Loaded, counters: Counters) -> Outputs:
        """Raises ConfigError: what is wrong with an endpoint, a certificate or a port."""
        out, settings = cls(), loaded.settings
        traces, metrics = settings.exporters_of("traces"), settings.exporters_of("metrics")
        if "otlp" in traces + metrics:
            out._otlp(loaded, counters, "otlp" in traces, "otlp" in metrics)
        if settings.prometheus.address:
            out._prometheus(settings.prometheus.address, counters, "prometheus" in metrics)
        if "console" in traces + metrics:
            from exporters.console import ConsoleExporter

            console = ConsoleExporter(counters, traces="console" in traces)
            out.spans += [console] if "console" in traces else []
            out.metrics += [console] if "console" in metrics else []
        wanted = settings.exporters.live
        out.live = not (traces or metrics) if wanted is None else wanted
        return out

    def _otlp(self, loaded: Loaded, counters: Counters, traces: bool, metrics: bool) -> None:
        from exporters.otlp import OtlpMetricExporter, OtlpSpanExporter, batch_options, otlp_options

        environ = otel_environment(loaded, os.environ)
        url = loaded.settings.otlp.url if loaded.source.get("otlp.url") == "--otlp" else None  # over the signals' own
        if traces:
            batch = replace(batch_options(environ), max_queue_bytes=loaded.settings.otlp.queue_bytes)
            self.spans.append(OtlpSpanExporter(otlp_options("traces", environ, url), counters, batch=batch))
        if metrics:
            self.metrics.append(OtlpMetricExporter(otlp_options("metrics", environ, url), counters))

    def _prometheus(self, address: str, counters: Counters, metrics: bool) -> None:
        """Also without metrics: it serves /healthz and /readyz."""
        from exporters.prometheus import PrometheusExporter

        self.endpoint = PrometheusExporter(
            address, counters, lambda: self._collect() if metrics else (), lambda: self.ready
        )

    def serve(
        self, collect: Collect, counters: Counters, attach: str, tls: Callable[[], Sequence[str]] = tuple
    ) -> None:
        """From now on there is something to show: scrapes are answered with what is counted at that moment."""
        self._collect = collect
        if self.live:
            from exporters.live import LiveView

            self.metrics.append(LiveView(counters, attach, tls=tls))
        self.ready = True

    def interval(self, configured_s: float) -> float:
        return min(configured_s, LIVE_S) if self.live else configured_s

    def drain_if_behind(self, counters: Counters, stop: Stop) -> None:
        """Slows a replay down to what exporters take, since a file can wait; the kernel cannot.

        It ends, whatever the receiver does: an exporter gives up what it cannot deliver in its time.
        """
        while counters.value("spans.in_flight") > REPLAY_AHEAD and not stop.requested:
            time.sleep(0.005)

    def close(self, timeout_s: float) -> None:
        """All at once, so that a receiver that hangs takes nobody else's time."""
        exporters: dict[int, SpanExporter | MetricExporter] = {id(e): e for e in self.spans}
        exporters |= {id(e): e for e in (*self.metrics, self.endpoint) if e is not None}
        threads = [threading.Thread(target=e.close, args=(timeout_s,), daemon=True) for e in exporters.values()]
        for thread in threads:
            thread.start()
        deadline = time.monotonic() + timeout_s + 1.0
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))
