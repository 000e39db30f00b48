# SPDX-License-Identifier: Apache-2.0
"""The live view: what it computes of two snapshots, what it draws in 80 columns, how it ends."""

from __future__ import annotations

import fcntl
import io
import math
import os
import pty
import re
import select
import struct
import termios
import time
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from rich.console import Console
from test_telemetry import spans_of

from exporters.live import LiveView, draw, duration, percent, rate
from exporters.live_window import NOTHING, Row, View, Window
from instrumenter.histogram import Histograms, explicit, exponential
from instrumenter.model import Attributes, HistogramPoint, Metric, NumberPoint, Resource
from instrumenter.telemetry import Counters

S = 1_000_000_000
OK: Attributes = (("http.request.method", "GET"), ("http.response.status_code", 200), ("http.route", "/a"))
BAD: Attributes = (("error.type", "500"), ("http.request.method", "GET"), ("http.route", "/a"))
SLOW: Attributes = (("http.request.method", "PUT"), ("http.route", "/b"))


def point(
    values_s: Sequence[float], attributes: Attributes = OK, histograms: Histograms | None = None
) -> HistogramPoint:
    layout = (histograms or exponential()).duration
    ns = np.rint(np.array(values_s) * 1e9).astype(np.uint64)
    counts = np.bincount(np.searchsorted(layout.bounds, ns, side="left"), minlength=257).astype(np.uint64)
    return HistogramPoint(attributes, S, 2 * S, len(values_s), sum(values_s), layout.buckets(counts[np.newaxis])[0])


def durations(*points: HistogramPoint, service: str = "shop", side: str = "server") -> Metric:
    resource = Resource((("service.name", service),))
    return Metric(resource, f"http.{side}.request.duration", "s", "", "histogram", points)


def number(name: str, kind: str, *values: tuple[Attributes, float]) -> Metric:
    own = Resource((("service.name", "stingless"),))
    return Metric(own, name, "", "", kind, tuple(NumberPoint(a, 0, 0, v) for a, v in values))


@pytest.mark.parametrize("histograms", [exponential(), explicit([0.001, 0.01, 0.1])], ids=["exponential", "explicit"])
def test_rows_are_of_the_window_only(histograms: Histograms) -> None:
    window = Window(0.0, window_s=10.0)
    before = [5.0] * 100
    window.add([durations(point(before, OK, histograms))], 20.0)
    window.add([durations(point(before, OK, histograms))], 30.0)
    after = [*before, *[0.01] * 40]
    view = window.add([durations(point(after, OK, histograms), point([0.01] * 10, BAD, histograms)), durations()], 35.0)
    (row,) = view.services
    assert (row.name, row.side, row.rate, row.errors, row.total) == ("shop", "server", 10.0, 0.2, 150)
    assert row.p99 == pytest.approx(0.01, rel=0.2)
    assert view.everything.total == 150
    assert view.everything.rate == row.rate


def test_old_snapshots_leave_the_window() -> None:
    window = Window(0.0, window_s=10.0)
    rates = [
        window.add([durations(point([0.1] * n))], t).everything.rate for t, n in ((5, 50), (10, 50), (16, 50), (25, 80))
    ]
    assert rates == [10.0, 5.0, 0.0, pytest.approx(30 / 9)]


def test_quantiles() -> None:
    view = Window(0.0).add([durations(point([0.001] * 50 + [0.1] * 45 + [2.0] * 5))], 1.0)
    for told, true in zip(view.services[0][4:7], (0.001, 0.1, 2.0), strict=True):
        assert told == pytest.approx(true, rel=0.0434)


def test_a_series_that_begins_anew_is_counted_whole() -> None:
    window = Window(0.0, window_s=1.0)
    window.add([durations(point([0.1] * 100))], 1.0)
    assert window.add([durations(point([0.1] * 30))], 2.0).everything.rate == 30.0


def test_services_instances_and_routes() -> None:
    metrics = [
        durations(point([0.01] * 10), point([0.01] * 10, BAD), point([0.5] * 4, SLOW)),
        durations(point([0.01] * 5), side="client"),
        durations(point([0.02] * 90), service="stock"),
    ]
    view = Window(0.0).add(metrics, 2.0)
    assert [(r.name, r.side, r.rate) for r in view.services] == [
        ("stock", "server", 45.0), ("shop", "server", 12.0), ("shop", "client", 2.5),
    ]  # fmt: skip
    assert [(r.name, r.side, r.errors) for r in view.routes] == [
        ("PUT /b", "shop", 0.0), ("GET /a", "stock", 0.0), ("GET /a", "shop", 10 / 20), ("→ GET /a", "shop", 0.0),
    ]  # fmt: skip


def test_the_agents_own_numbers() -> None:
    def own(cpu: float) -> list[Metric]:
        return [
            number("process.cpu.time", "counter", ((("cpu.mode", "user"),), cpu), ((("cpu.mode", "system"),), 1.0)),
            number("process.memory.usage", "gauge", ((), 50e6)),
            number("stingless.processes.watched", "gauge", ((), 3)),
            number(
                "stingless.exchanges.lost", "counter",
                ((("reason", "ring_full"), ("stingless.service", "a")), 2),
                ((("reason", "ring_full"), ("stingless.service", "b")), 3),
                ((("reason", "series_folded"),), 9),
            ),
            number(
                "stingless.spans.dropped", "counter", ((("reason", "queue_full"),), 4), ((("reason", "unselected"),), 4)
            ),
        ]  # fmt: skip

    window = Window(0.0)
    assert math.isnan(window.add(own(1.0), 1.0).cpu)
    view = window.add(own(1.5), 3.0)
    assert (view.cpu, view.rss, view.watched) == (0.25, 50_000_000, 3)
    assert view.losses == {"ring_full": 5, "queue_full": 4}


# -- drawing -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tell", "value", "expected"),
    [
        (rate, 0.0, "0.0"), (rate, 12.34, "12.3"), (rate, 99.96, "100"), (rate, 99_999.0, "99999"),
        (rate, 123_456.0, "123k"), (rate, 99_999.6, "100k"), (rate, 1.5e9, "2e+09"),
        (percent, 0.0, "0.0%"), (percent, 0.0001, "<0.1%"), (percent, 0.01234, "1.2%"), (percent, 0.9996, "100%"),
        (percent, 1.0, "100%"), (duration, math.nan, "-"), (duration, 0.0, "0.00us"), (duration, 12.34e-6, "12.3us"),
        (duration, 123.4e-6, "123us"), (duration, 999.6e-6, "1.00ms"), (duration, 0.01234, "12.3ms"),
        (duration, 0.9996, "1.00s"), (duration, 3600.0, "3600s"),
    ],
)  # fmt: skip
def test_numbers(tell: Callable[[float], str], value: float, expected: str) -> None:
    assert tell(value) == expected


def drawn(view: View, attach: str = "fentry") -> str:
    console = Console(file=io.StringIO(), width=80, record=True, force_terminal=True, color_system="truecolor")
    console.print(draw(view, attach))
    return console.export_text()


VIEW = View(
    (
        Row("shop", "server", 123.4, 0.021, 0.0012, 0.034, 1.5, 4711),
        Row("idle", "client", 0.0, 0.0, math.nan, math.nan, math.nan, 3),
    ),
    (Row("GET /orders/*", "shop", 3.0, 0.0, 0.1, 0.9, 1.5, 70),),
    Row("", "", 123.4, 0.021, 0.0012, 0.034, 1.5, 4714),
    {"ring_full": 5, "queue_full": 4},
    0.034,
    52_000_000,
    1,
)  # fmt: skip


def test_drawing() -> None:
    lines = drawn(VIEW).splitlines()
    rows = [line.split() for line in lines]
    assert rows[0] == ["SERVICE", "SIDE", "REQ/S", "ERR", "P50", "P95", "P99"]
    assert ["shop", "server", "123", "2.1%", "1.20ms", "34.0ms", "1.50s"] in rows
    assert ["idle", "client", "0.0", "0.0%", "-", "-", "-"] in rows
    assert ["GET", "/orders/*", "shop", "3.0", "0.0%", "100ms", "900ms", "1.50s"] in rows
    assert "123 req/s, 2.1% errors, 4714 requests since the start" in lines
    assert "LOST: queue_full 4, ring_full 5" in lines
    assert "agent: 3.4% of a CPU, 52 MB, 1 process watched, attach=fentry" in lines


def test_nothing_lost_nothing_said() -> None:
    assert "LOST" not in drawn(View((VIEW.services[0],), (), NOTHING))
    assert "No HTTP request seen yet." in drawn(View())


def test_eighty_columns_whatever_the_names() -> None:
    widest = Row("x" * 100, "y" * 100, 1e12, 9.999, 1e-6, 12345.0, math.inf, 10**15)
    odd = Row("[red]/a[/b] \u7530" * 9, "s", 1.0, 0.0, 0.1, 0.1, 0.1, 1)
    text = drawn(View((widest, odd) * 10, (widest, odd), widest, {}, 1.0, 1, 1))
    assert max(map(len, text.splitlines())) <= 80
    assert "[red]/a[/b]" in text
    assert "... 5 more" in text


# -- running -------------------------------------------------------------------------------------------------------


def wait_for(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        select.select([], [], [], 0.01)


def test_plain_tables_where_there_is_no_terminal() -> None:
    out, counters = io.StringIO(), Counters()
    view = LiveView(counters, "kprobe", out, plain_every_s=3600.0)
    view.export_metrics([durations(point([0.1] * 7))])
    wait_for(lambda: "attach=kprobe" in out.getvalue())
    view.export_metrics([durations(point([0.1] * 8))])
    view.export_metrics([durations(point([0.1] * 9))])
    view.export_spans(spans_of("shop", "shop"))
    view.close(5.0)
    text = out.getvalue()
    assert re.findall(r"(\d+) requests since", text) == ["7", "9"]  # the first, and the last at the end
    assert "\x1b" not in text
    assert counters.value("spans.exported", exporter="live", service="shop") == 2


def test_plain_tables_keep_their_distance() -> None:
    class Clocked(io.StringIO):
        def write(self, text: str) -> int:
            times.append(time.monotonic())
            return super().write(text)

    times: list[float] = []
    out = Clocked()
    view = LiveView(Counters(), "", out, plain_every_s=0.3)

    def shown() -> bool:
        view.export_metrics([durations(point([0.1]))])
        return out.getvalue().count("requests since") >= 3

    wait_for(shown)
    assert max(times) - min(times) >= 0.6
    view.close(5.0)


def test_in_place_on_a_terminal() -> None:
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    got = bytearray()

    def shown(text: bytes) -> bool:
        while select.select([ours], [], [], 0)[0]:
            got.extend(os.read(ours, 65536))
        return text in got

    with os.fdopen(theirs, "w") as stream:
        view = LiveView(Counters(), "fentry", stream)
        for n in (7, 8):
            view.export_metrics([durations(point([0.1] * n))])
            wait_for(lambda n=n: shown(f"{n} requests since".encode()))  # type: ignore[misc]
        view.close(5.0)
        wait_for(lambda: shown(b"\x1b[?25h"))  # the cursor is back
    assert b"\x1b[?25l" in got
    assert re.search(rb"7 requests.*\x1b\[1A.*8 requests", got, re.DOTALL)  # drawn over
    os.close(ours)


def test_closing_before_anything_was_shown() -> None:
    out = io.StringIO()
    LiveView(Counters(), stream=out).close(5.0)
    assert out.getvalue() == ""
