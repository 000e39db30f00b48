# SPDX-License-Identifier: Apache-2.0
"""The live view: what every service does right now, on the terminal, when no exporter is configured.

In: snapshots of metrics, best once a second; spans, which are only counted. Out: a picture that is updated in place,
or, where standard output is no terminal, a plain table every `plain_every_s`. The rule it protects: it never makes the
agent wait. A thread draws the latest snapshot; a terminal that is held (Ctrl-S) only misses pictures.
"""

from __future__ import annotations

import math
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import IO, TYPE_CHECKING, Final

from exporters.live_window import Row, View, Window
from instrumenter.model import Metric, Spans
from instrumenter.telemetry import Counters, tally

if TYPE_CHECKING:
    from rich.console import Console, Group
    from rich.table import Table

INTERVAL_S: Final = 1.0  # how often the agent should give a snapshot
PLAIN_EVERY_S: Final = 10.0
WIDTH: Final = 80
_ROUTES: Final = 5
_SERVICES: Final = 15
_TLS_LINES: Final = 4


class LiveView:
    """Implements SpanExporter and MetricExporter. attach: how the kernel is watched. tls: lines on who speaks TLS."""

    def __init__(
        self, counters: Counters, attach: str = "", stream: IO[str] | None = None, plain_every_s: float = PLAIN_EVERY_S,
        tls: Callable[[], Sequence[str]] = tuple,
    ) -> None:  # fmt: skip
        self._counters = counters
        self.attach = attach
        self._tls = tls
        self._stream = stream or sys.stdout
        self._plain_every_s = plain_every_s
        self._window = Window(time.monotonic())
        self._wake = threading.Condition()
        self._latest: tuple[Sequence[Metric], float] | None = None
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="live", daemon=True)
        self._thread.start()

    def export_metrics(self, metrics: Sequence[Metric]) -> None:
        """Show this next; a snapshot not drawn yet is replaced."""
        with self._wake:
            self._latest = (metrics, time.monotonic())
            self._wake.notify()

    def export_spans(self, spans: Spans) -> None:
        """Count them as exported: what is shown comes from the metrics, which are exact."""
        self._counters.add_tally("spans.exported", tally(spans), exporter="live")

    def close(self, timeout_s: float) -> None:
        """Draw the latest snapshot and give the terminal back."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        self._thread.join(timeout_s)

    def _run(self) -> None:
        from rich.console import Console

        console = Console(file=self._stream, highlight=False)
        if not console.is_terminal:
            self._print_plainly(Console(file=self._stream, highlight=False, width=WIDTH, no_color=True))
            return
        from rich.live import Live

        shown = self._next()  # the terminal is left alone until there is something: the start may yet fail
        # The agent's own log lines go to standard error, which Live moves above the picture.
        if shown is None:
            return
        with Live(console=console, auto_refresh=False, redirect_stdout=False) as live:
            while shown is not None:
                live.update(draw(shown[0], self.attach, self._tls()), refresh=True)
                shown = self._next()

    def _next(self, after_s: float = 0.0) -> tuple[View, bool] | None:
        """The next picture, no sooner than after_s (monotonic), and whether it is the last. None: the end."""
        with self._wake:
            while not self._closing and (self._latest is None or time.monotonic() < after_s):
                # Snapshots come every second or so; each wakes this up.
                self._wake.wait(None if self._latest is None else max(0.0, after_s - time.monotonic()))
            latest, self._latest = self._latest, None
            closing = self._closing
        return None if latest is None else (self._window.add(*latest), closing)

    def _print_plainly(self, console: Console) -> None:
        after_s = 0.0
        while (shown := self._next(after_s)) is not None:
            console.print(draw(shown[0], self.attach, self._tls()))
            after_s = time.monotonic() + self._plain_every_s
            if shown[1]:
                return


def draw(view: View, attach: str, tls: Sequence[str] = ()) -> Group:
    """The picture, at most 80 columns wide."""
    from rich.console import Group
    from rich.text import Text

    services = _table("SERVICE", "SIDE")
    for row in view.services[:_SERVICES]:
        _add(services, row)
    if len(view.services) > _SERVICES:
        services.add_row(f"... {len(view.services) - _SERVICES} more")
    routes = _table("SLOWEST ROUTES", "SERVICE")
    for row in view.routes[:_ROUTES]:
        _add(routes, row)
    every = view.everything
    total = f"{rate(every.rate)} req/s, {percent(every.errors)} errors, {every.total} requests since the start"
    if not view.services:
        total = "No HTTP request seen yet."
    parts: list[Table | Text] = [services] if view.services else []
    parts += [routes] if view.routes else []
    parts.append(Text(total, style="bold"))
    if view.losses:
        lost = ", ".join(f"{reason} {n}" for reason, n in sorted(view.losses.items()))
        parts.append(Text(f"LOST: {lost}", style="bold red"))
    for line in tls[:_TLS_LINES]:
        parts.append(Text(line, style="dim", no_wrap=True, overflow="ellipsis"))
    if len(tls) > _TLS_LINES:
        parts.append(Text(f"... {len(tls) - _TLS_LINES} more with TLS", style="dim"))
    cpu = "-" if math.isnan(view.cpu) else percent(view.cpu)
    agent = f"agent: {cpu} of a CPU, {view.rss / 1e6:.0f} MB"
    watched = f"{view.watched} process{'' if view.watched == 1 else 'es'} watched"
    parts.append(Text(", ".join(filter(None, (agent, watched, attach and f"attach={attach}"))), style="dim"))
    return Group(*parts)


def _table(first: str, second: str) -> Table:
    """77 columns with the spaces between."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    table.add_column(first, width=25, no_wrap=True, overflow="ellipsis")
    table.add_column(second, width=10, no_wrap=True, overflow="ellipsis")
    for name, width in (("REQ/S", 7), ("ERR", 6), ("P50", 6), ("P95", 6), ("P99", 6)):
        table.add_column(name, width=width, justify="right", no_wrap=True)
    return table


def _add(table: Table, row: Row) -> None:
    from rich.text import Text

    cells = [row.name, row.side, rate(row.rate), percent(row.errors)]
    cells += [duration(seconds) for seconds in (row.p50, row.p95, row.p99)]
    texts = [Text(cell) for cell in cells]  # not strings: a route may hold what rich takes for markup
    texts[3].stylize("red" if row.errors else "")
    table.add_row(*texts)


def rate(per_s: float) -> str:
    """At most 7 characters."""
    if per_s >= 99_999.5:
        return f"{per_s / 1000:.0f}k" if per_s < 1e8 else f"{per_s:.0e}"
    return f"{per_s:.0f}" if per_s >= 99.95 else f"{per_s:.1f}"


def percent(share: float) -> str:
    """At most 6 characters up to 1000 %; a share that is not 0 never looks like 0."""
    if 0 < share < 0.0005:
        return "<0.1%"
    return f"{share * 100:.0f}%" if share >= 0.9995 else f"{share * 100:.1f}%"


def duration(seconds: float) -> str:
    """Three significant digits and a unit, at most 6 characters."""
    if math.isnan(seconds):
        return "-"
    for limit, factor, unit in ((0.9995e-3, 1e6, "us"), (0.9995, 1e3, "ms"), (math.inf, 1.0, "s")):
        if seconds < limit:
            value = seconds * factor
            digits = 2 if value < 9.995 else 1 if value < 99.95 else 0
            return f"{value:.{digits}f}{unit}"
    return "inf"
