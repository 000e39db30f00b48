# SPDX-License-Identifier: Apache-2.0
"""Spans and metrics as JSON lines: one object per span or per metric point, written batch by batch to a descriptor.

The rule it protects: a reader that is slow or gone (`| less`, `| head`) never stops the agent. Spans go through the
same bounded queue and account as with OTLP; once the pipe is closed, everything is counted as dropped, quietly.
"""

from __future__ import annotations

import json
import logging
import os
import select
import threading
from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np

from exporters.otlp_options import BatchOptions
from exporters.queue import SnapshotWorker, SpanWorker, merge_tallies
from instrumenter.model import (
    KIND_CLIENT,
    KIND_INTERNAL,
    KIND_SERVER,
    STATUS_ERROR,
    STATUS_OK,
    STATUS_UNSET,
    ExponentialBuckets,
    HistogramPoint,
    Metric,
    NumberPoint,
    Spans,
    Text,
)
from instrumenter.telemetry import Counters, tally

log = logging.getLogger(__name__)
_KINDS: Final = {KIND_INTERNAL: "internal", KIND_SERVER: "server", KIND_CLIENT: "client"}
_STATUSES: Final = {STATUS_UNSET: "unset", STATUS_OK: "ok", STATUS_ERROR: "error"}
_BATCH: Final = BatchOptions(delay_s=0.1, max_batch_spans=2048)  # for eyes: soon, not in large batches
_ROOT: Final = "0" * 16

Fragments = list[str] | None  # of one attribute: for each row `, "key": value`, or empty where it is absent


class LineWriter:
    """Whole lines to a file descriptor, from several threads. False from the first write that fails, and ever after."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._lock = threading.Lock()
        self._closed = False

    def write(self, text: str) -> bool:
        """Write all of it, waiting for a slow reader. Straight to the descriptor: no buffer can tear at exit."""
        data = memoryview(text.encode("utf-8", "replace"))
        with self._lock:
            while data and not self._closed:
                try:
                    data = data[os.write(self._fd, data) :]
                except BlockingIOError:  # somebody made the terminal non-blocking
                    select.select([], [self._fd], [])
                except OSError as error:
                    self._closed = True
                    log.debug("console: %s", error)
            return not self._closed


class ConsoleExporter:
    """model.SpanExporter and model.MetricExporter on a file descriptor (default: standard output)."""

    def __init__(
        self,
        counters: Counters,
        fd: int = 1,
        batch: BatchOptions | None = None,
        name: str = "console",
        traces: bool = True,
    ) -> None:
        """traces: whether it will be given spans."""
        self._counters = counters
        self._name = name
        self._lines = LineWriter(fd)
        self._spans = SpanWorker(name, counters, batch or _BATCH, self._write_spans) if traces else None
        self._lock = threading.Lock()
        self._snapshot: Sequence[Metric] = ()
        self._metrics: SnapshotWorker | None = None

    def export_spans(self, spans: Spans) -> None:
        """Queue the batch; what does not fit is counted as spans.dropped.queue_full. Never waits."""
        if len(spans) and self._spans:
            self._spans.offer(spans)

    def export_metrics(self, metrics: Sequence[Metric]) -> None:
        """Write the snapshot soon; one that is still unwritten is replaced and counted. Never waits."""
        with self._lock:
            unwritten, self._snapshot = self._snapshot, metrics
            if self._metrics is None:  # the thread exists only where metrics are asked for
                self._metrics = SnapshotWorker(f"{self._name}-metrics", self._write_metrics)
        self._count("metrics.queue_full", unwritten)
        self._metrics.kick()

    def close(self, timeout_s: float) -> None:
        """Write what is queued, for about timeout_s at most; the rest is counted."""
        if self._spans:
            self._spans.close(timeout_s)
        if self._metrics:
            self._metrics.close(timeout_s)
            self._count("metrics.export_failed", self._take())

    @property
    def busy(self) -> bool:
        """Whether a thread still runs: after `close`, only while it waits for a reader that does not read."""
        return any(worker.alive for worker in (self._spans, self._metrics) if worker is not None)

    def _write_spans(self, batch: list[Spans]) -> None:
        assert self._spans is not None
        written = self._lines.write("".join(map(span_lines, batch)))
        name = "spans.exported" if written else "spans.dropped.export_failed"
        self._spans.ledger.settle(name, merge_tallies(map(tally, batch)))

    def _write_metrics(self) -> None:
        if snapshot := self._take():
            written = self._lines.write("".join(map(metric_lines, snapshot)))
            self._count("metrics.exported" if written else "metrics.export_failed", snapshot)

    def _take(self) -> Sequence[Metric]:
        with self._lock:
            snapshot, self._snapshot = self._snapshot, ()
            return snapshot

    def _count(self, name: str, metrics: Sequence[Metric]) -> None:
        if points := sum(len(m.points) for m in metrics):
            self._counters.add(name, points, exporter=self._name)


def _json(value: Any) -> str:
    """ASCII only: what a peer put into a URL must not steer a terminal, nor break a line for any reader."""
    return json.dumps(value)


def span_lines(spans: Spans) -> str:
    """One JSON object and a newline per span. start: RFC 3339 with nanoseconds; duration: seconds."""
    services = [_json(str(r.get("service.name"))) for r in spans.resources]
    shapes = [
        (
            f', "name": {_json(s.name)}, "kind": "{_KINDS.get(s.kind, s.kind)}"',
            f', "status": "{_STATUSES.get(s.status, s.status)}"'
            + (f', "status_message": {_json(s.status_message)}' if s.status_message else ""),
            "".join(f", {_json(k)}: {_json(v)}" for k, v in s.attributes),
        )
        for s in spans.shapes
    ]
    varying = [f for f in map(_int_fragments, *_pairs(spans.ints)) if f]
    varying += [f for f in map(_text_fragments, *_pairs(spans.texts)) if f]
    columns = zip(
        _hex(spans.trace_id), _hex(spans.span_id), _hex(spans.parent_id), spans.resource.tolist(), spans.shape.tolist(),
        np.datetime_as_string(spans.start_ns.astype("datetime64[ns]")).tolist(),
        # A clock that was set back must not give durations of 584 years.
        (np.maximum((spans.end_ns - spans.start_ns).astype(np.int64), 0) / 1e9).tolist(),
        zip(*varying, strict=True) if varying else [()] * len(spans),
        strict=True,
    )  # fmt: skip
    lines = []
    for trace_id, span_id, parent_id, resource, shape, start, duration, attributes in columns:
        name, status, constant = shapes[shape]
        parent = "null" if parent_id == _ROOT else f'"{parent_id}"'
        lines.append(
            f'{{"trace_id": "{trace_id}", "span_id": "{span_id}", "parent_id": {parent}, '
            f'"service": {services[resource]}{name}, "start": "{start}Z", "duration": {duration!r}{status}, '
            f'"attributes": {{{(constant + "".join(attributes))[2:]}}}}}\n'
        )
    return "".join(lines)


def _pairs(columns: Any) -> tuple[list[str], list[Any]]:
    return list(columns.keys()), list(columns.values())


def _hex(ids: Any) -> list[str]:
    """Rows of bytes as hexadecimal strings."""
    width = ids.shape[1]
    whole = np.ascontiguousarray(ids).tobytes().hex()
    return [whole[i : i + 2 * width] for i in range(0, len(whole), 2 * width)]


def _int_fragments(key: str, column: Any) -> Fragments:
    head = f", {_json(key)}: "
    if not (column >= 0).any():
        return None
    return [f"{head}{v}" if v >= 0 else "" for v in column.tolist()]


def _text_fragments(key: str, column: Text) -> Fragments:
    lengths = column.length.tolist()
    if not lengths or max(lengths) < 0:
        return None
    head = f", {_json(key)}: "
    encode: Callable[[str], str] = json.encoder.encode_basestring_ascii
    data, width = np.ascontiguousarray(column.data).tobytes(), column.data.shape[1]
    return [
        head + encode(data[row * width : row * width + n].decode("utf-8", "replace")) if n >= 0 else ""
        for row, n in enumerate(lengths)
    ]


def metric_lines(metric: Metric) -> str:
    """One JSON object and a newline per point."""
    head = {
        "metric": metric.name,
        "unit": metric.unit,
        "kind": metric.kind,
        "service": metric.resource.get("service.name"),
    }
    return "".join(_json(head | _point(point)) + "\n" for point in metric.points)


def _point(point: HistogramPoint | NumberPoint) -> dict[str, Any]:
    first, now = np.datetime_as_string(np.array([point.start_ns, point.time_ns], "datetime64[ns]")).tolist()
    common = {"start": first + "Z", "time": now + "Z", "attributes": dict(point.attributes)}
    if isinstance(point, NumberPoint):
        return common | {"value": point.value}
    buckets = point.buckets
    if isinstance(buckets, ExponentialBuckets):
        shown: dict[str, Any] = {
            "scale": buckets.scale,
            "offset": buckets.offset,
            "zero_count": buckets.zero_count,
            "counts": buckets.counts,
        }
    else:
        shown = {"bounds": buckets.bounds, "counts": buckets.counts}
    return common | {"count": point.count, "sum": point.sum, "buckets": shown}
