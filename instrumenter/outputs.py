# SPDX-License-Identifier: Apache-2.0
"""The exporters that are configured, as the agent holds them: made first, closed last. Part of the composition root.

In: settings. Out: exporters of spans and of metrics. The rule it protects: what a user got wrong about an endpoint ends
the start before the kernel is touched.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from instrumenter.config_load import Loaded, otel_environment
from instrumenter.model import Metric, MetricExporter, SpanExporter
from instrumenter.run import Stop
from instrumenter.telemetry import Counters

REPLAY_AHEAD: Final = 8_192  # spans that a replay may have queued: far below what any queue sheds at
LIVE_S: Final = 1.0  # between two pictures of the live view


@dataclass
class Outputs:
    """The exporters that are configured. Made before the kernel is touched; `close` sends what is held."""

    spans: list[SpanExporter] = field(default_factory=list)
    metrics: list[MetricExporter] = field(default_factory=list)
    endpoint: MetricExporter | None = None  # collects itself, when it is scraped
    live: bool = False
    ready: bool = False
    _collect: Callable[[], Sequence[Metric]] = tuple

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
        self,
        collect: Callable[[], Sequence[Metric]],
        counters: Counters,
        attach: str,
        tls: Callable[[], Sequence[str]] = tuple,
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
