# SPDX-License-Identifier: Apache-2.0
"""The console exporter on real pipes: every line is JSON with the promised keys; a reader that is gone hurts nobody."""

from __future__ import annotations

import fcntl
import json
import os
import time
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from otlp_parts import account, eventually, make_spans, text_column

from exporters.console import ConsoleExporter, metric_lines, span_lines
from exporters.otlp import BatchOptions
from instrumenter.model import ExplicitBuckets, ExponentialBuckets, HistogramPoint, Metric, NumberPoint, Resource
from instrumenter.telemetry import Counters


def parsed(text: str) -> list[dict[str, Any]]:
    assert text.endswith("\n")
    return [json.loads(line) for line in text.splitlines()]


def test_lines() -> None:
    assert parsed(span_lines(make_spans(2, ("shop", "bank")))) == [
        {
            "trace_id": "00000000000000010000000000000001",
            "span_id": "0000000000000001",
            "parent_id": None,
            "service": "shop",
            "name": "GET /cart",
            "kind": "server",
            "start": "2023-11-14T22:13:20.123457789Z",
            "duration": 0.0025,
            "status": "unset",
            "attributes": {"http.request.method": "GET", "url.scheme": "http"},
        },
        {
            "trace_id": "00000000000000020000000000000002",
            "span_id": "0000000000000002",
            "parent_id": None,
            "service": "bank",
            "name": "POST",
            "kind": "client",
            "start": "2023-11-14T22:13:20.123458789Z",
            "duration": 0.0025,
            "status": "error",
            "status_message": "boom",
            "attributes": {"error.type": "500", "http.response.status_code": 200, "url.path": "/cart/1"},
        },
    ]


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        (b'/a"b\\c', '/a"b\\c'),
        (b"/\n\x00\x1b[31m", "/\n\x00\x1b[31m"),
        ("/käse/\N{HONEYBEE}".encode(), "/käse/\N{HONEYBEE}"),
        (b"/\xff\xfe", "/��"),
        ("/a\u2028b\x85c\x9b2J".encode(), "/a\u2028b\x85c\x9b2J"),
        (b"", ""),
    ],
)
def test_any_bytes_make_one_line_of_json(raw: bytes, shown: str) -> None:
    column = text_column(["x" * len(raw)])
    column.data[0, : len(raw)] = list(raw)
    spans = replace(make_spans(1), texts={"url.path": column}, parent_id=np.full((1, 8), 0xAB, np.uint8))
    (line, rest) = span_lines(spans).split("\n")
    assert rest == ""
    assert line.isascii()
    assert line.isprintable()
    span = json.loads(line)
    assert span["attributes"]["url.path"] == shown
    assert span["parent_id"] == "ab" * 8


def test_a_clock_set_back_and_no_attributes() -> None:
    spans = make_spans(1)
    spans = replace(spans, end_ns=spans.start_ns - np.uint64(5), ints={}, texts={})
    spans = replace(spans, shapes=[replace(spans.shapes[0], attributes=())])
    (span,) = parsed(span_lines(spans))
    assert (span["duration"], span["attributes"]) == (0.0, {})


def test_metric_lines() -> None:
    shop = Resource((("service.name", "shop"),))
    points = (
        HistogramPoint((("http.route", "/"),), 0, 1_500_000_000, 3, 1.5, ExponentialBuckets(2, -1, (1, 2))),
        HistogramPoint((), 0, 1_500_000_000, 3, 1.5, ExplicitBuckets((1.0,), (1, 2))),
    )
    first, second = parsed(metric_lines(Metric(shop, "d", "s", "", "histogram", points)))
    assert first == {
        "metric": "d",
        "unit": "s",
        "kind": "histogram",
        "service": "shop",
        "start": "1970-01-01T00:00:00.000000000Z",
        "time": "1970-01-01T00:00:01.500000000Z",
        "attributes": {"http.route": "/"},
        "count": 3,
        "sum": 1.5,
        "buckets": {"scale": 2, "offset": -1, "zero_count": 0, "counts": [1, 2]},
    }
    assert second["buckets"] == {"bounds": [1.0], "counts": [1, 2]}
    (number,) = parsed(metric_lines(Metric(shop, "n", "1", "", "counter", (NumberPoint((), 0, 0, 7),))))
    assert number["value"] == 7


def test_batches_reach_the_reader() -> None:
    reader, writer = os.pipe()
    counters = Counters()
    exporter = ConsoleExporter(counters, writer, BatchOptions(delay_s=0.0))
    exporter.export_spans(make_spans(3))
    with os.fdopen(reader) as lines:
        assert [json.loads(lines.readline())["span_id"][-1] for _ in range(3)] == ["1", "2", "3"]
        shop = Resource((("service.name", "shop"),))
        exporter.export_metrics([Metric(shop, "n", "1", "", "gauge", (NumberPoint((), 0, 0, 7),))])
        assert json.loads(lines.readline())["metric"] == "n"
        exporter.close(5)
        os.close(writer)
        assert lines.read() == ""
    assert account(counters) == {"spans.exported": 3}
    assert counters.value("metrics.exported", exporter="console") == 1


def test_closed_pipe_is_quiet(caplog: pytest.LogCaptureFixture) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    counters = Counters()
    exporter = ConsoleExporter(counters, writer, BatchOptions(delay_s=0.0))
    for first in (1, 11):
        exporter.export_spans(make_spans(10, first=first))
    exporter.close(5)
    os.close(writer)
    assert account(counters) == {"spans.dropped.export_failed": 20}
    assert not [r for r in caplog.records if r.levelname != "DEBUG"]


@pytest.mark.parametrize("blocking", [True, False])
def test_a_reader_that_does_not_read_stops_nothing(blocking: bool) -> None:
    """The pipe is full: the agent goes on, the queue sheds, close comes back in time, the account is exact."""
    reader, writer = os.pipe()
    os.set_blocking(writer, blocking)
    room = fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
    counters = Counters()
    options = BatchOptions(max_queue_spans=100, max_batch_spans=100, delay_s=0.0)
    exporter = ConsoleExporter(counters, writer, options)
    begin = time.monotonic()
    for first in range(1, 1001, 100):
        exporter.export_spans(make_spans(100, first=first))
    exporter.close(0.2)
    assert time.monotonic() - begin < 5
    totals = account(counters)
    assert sum(totals.values()) == 1000
    assert totals.keys() == {"spans.dropped.queue_full", "spans.dropped.shutdown"}
    assert os.read(reader, room)  # what is left of the write ends in EPIPE
    os.close(reader)
    assert eventually(lambda: not exporter.busy)
    os.close(writer)
