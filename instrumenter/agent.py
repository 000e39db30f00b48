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
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from instrumenter import account
from instrumenter.bpf.abi_go import GO_STACK
from instrumenter.config_load import Loaded
from instrumenter.discovery.go_stacks import KEY, GoStacks
from instrumenter.discovery.procfs import ProcFS
from instrumenter.discovery.tls import TlsProbes
from instrumenter.enrich.host import read_host
from instrumenter.errors import StinglessError
from instrumenter.loading import Loading
from instrumenter.metrics import RedCollector
from instrumenter.names import Labels, Namer
from instrumenter.outputs import Outputs
from instrumenter.own_metrics import OwnMetrics
from instrumenter.parts import make_registry, make_selection, name_options, own_resource
from instrumenter.pipeline import Meter, Pipeline
from instrumenter.records import Records, RecordSource
from instrumenter.run import Stop, keep_heap, notify, seconds_since_exec
from instrumenter.sizes import make_histograms
from instrumenter.source import SELDOM_S
from instrumenter.streams import Streams
from instrumenter.telemetry import Counters

if TYPE_CHECKING:
    from instrumenter.bpf.program import Program

CHECK_S: Final = 2.0  # between two looks at the kernel's losses, at least: they cost a walk over a map
POLL_S: Final = 10.0  # longest wait for records
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
        self._tls = TlsProbes(self._counters)
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
        self._ring, self._stacks = program.source(), GoStacks(program.map("go_stacks", KEY, GO_STACK))
        if not (self._outputs.spans or self._outputs.endpoint or self._recording):
            self._ring.look_s = SELDOM_S
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
        self._meter = Meter(self.red, own, self._counters, program.read_losses, program.missed)
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
        if self._complete:
            self._stacks.close()
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
        self._stacks.follow(records.events)
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
