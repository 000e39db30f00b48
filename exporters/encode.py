# SPDX-License-Identifier: Apache-2.0
"""Spans become OTLP requests (ExportTraceServiceRequest, OTLP 1.x), by columns.

In: `Spans`. Out: protobuf bytes, each below a size. The rule this file protects: the bytes are bit for bit what
opentelemetry-proto would write for the same spans, and no Python runs per span.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Final

import numpy as np
from numpy.typing import NDArray

from exporters import template as t
from exporters.envelope import Body, Envelope, Filler, Run
from exporters.page import Packed, Page, Scratch, fixed64
from exporters.uniform import uniform
from instrumenter.model import KIND_SERVER, Spans, Text

SCOPE: Final = "stingless"
MAX_BYTES: Final = 3_500_000  # gRPC receivers refuse more than 4 MiB unless told otherwise
MAX_SPANS: Final = 8192
_PAGE_BYTES: Final = 1 << 21  # large enough to make the cost of each NumPy call small, small beside the agent
_SMALLEST_LIMIT: Final = 65_536
_FIXED_PART: Final = 512  # a guess at a span's bytes beside its texts, for the size of a page


class SpanEncoder:
    """Encodes batches. Not thread-safe.

    max_bytes: of a request before compression, at least 64 KiB; a resource or a span larger than that is alone in
    its request. max_spans: of a request. scope_version, schema_url: of the instrumentation scope, empty to omit.
    """

    def __init__(
        self, max_bytes: int = MAX_BYTES, max_spans: int = MAX_SPANS, scope_version: str = "", schema_url: str = ""
    ) -> None:
        if max_bytes < _SMALLEST_LIMIT or max_spans < 1:
            raise ValueError(f"max_bytes is at least {_SMALLEST_LIMIT} and max_spans at least 1")
        self._max_bytes = max_bytes
        self._max_spans = max_spans
        self._scope = t.scope_field(SCOPE, scope_version)
        self._schema = t.message(t.SCOPE_SPANS_SCHEMA_URL, t.text(schema_url)) if schema_url else b""
        self._fragments = t.Remembered(t.fragments, 8192)
        self._resources = t.Remembered(t.resource_field, 1024)
        self._scratch = Scratch()

    def encode(self, spans: Spans) -> list[tuple[Body, int]]:
        """Requests that together hold all spans, grouped by resource: (ExportTraceServiceRequest, spans in it)."""
        if not len(spans):
            return []
        resources = [self._resources.get(resource) for resource in spans.resources]
        filler = Filler(Envelope(resources, self._scope, self._schema), self._max_bytes, self._max_spans)
        for run in self._runs(spans):
            filler.add(run)
        return filler.finish()

    def _runs(self, spans: Spans) -> Iterator[Run]:
        """The encoded spans, those of a resource together, as far as they take the same way."""
        shapes = [self._fragments.get(shape) for shape in spans.shapes]
        runs, rows = uniform(spans, shapes)
        yield from runs
        if len(rows):
            yield from self._pages(spans if len(rows) == len(spans) else spans.take(rows), shapes)

    def _pages(self, spans: Spans, shapes: list[t.Fragments]) -> Iterator[Run]:
        tables = [t.table(column) for column in zip(*shapes, strict=True)]
        server = np.array([shape.kind == KIND_SERVER for shape in spans.shapes], np.bool_)[spans.shape]
        order = np.argsort(spans.resource.astype(np.int64) * 2 + server, kind="stable")
        sorted_already = bool((np.diff(order) == 1).all())
        step = _page_rows(spans)
        for start in range(0, len(order), step):
            # A slice shares memory with the batch, an array of rows copies.
            rows = slice(start, start + step) if sorted_already else order[start : start + step]
            part = spans.take(rows)
            yield from _split(part.resource, _encode(part, tables, server[rows], self._scratch))


def _page_rows(spans: Spans) -> int:
    widths = sum(int(text.data.shape[1]) for text in spans.texts.values())
    return max(64, min(4096, _PAGE_BYTES // (_FIXED_PART + widths)))


def _encode(spans: Spans, tables: list[t.Table], server: NDArray[np.bool_], scratch: Scratch) -> Packed:
    """Spans as fields ScopeSpans.spans, in their order. tables: of the shapes' heads, attributes and tails."""
    page = Page(len(spans))
    head, constant, tail = tables
    parent: NDArray[np.bool_] = np.asarray(spans.parent_id.any(axis=1))
    page.literal(t.tag(t.SPAN_TRACE_ID, t.LENGTH) + t.varint(16))
    page.block(spans.trace_id)
    page.literal(t.tag(t.SPAN_SPAN_ID, t.LENGTH) + t.varint(8))
    page.block(spans.span_id)
    state = spans.trace_state.length > 0
    if state.any():
        page.text(t.SPAN_TRACE_STATE, _cleared(spans.trace_state), None if state.all() else state)
    if parent.any():
        present = None if parent.all() else parent
        page.literal(t.tag(t.SPAN_PARENT_SPAN_ID, t.LENGTH) + t.varint(8), present)
        page.block(spans.parent_id, present)
    _shared(page, head, spans.shape)
    for number, times in ((t.SPAN_START, spans.start_ns), (t.SPAN_END, spans.end_ns)):
        timed = None if times.all() else times.astype(np.bool_)
        page.literal(t.tag(number, t.FIXED64), timed)
        page.block(fixed64(times), timed)
    _shared(page, constant, spans.shape)
    for key, numbers in spans.ints.items():
        page.integer(t.SPAN_ATTRIBUTES, t.message(t.KEY_VALUE_KEY, t.text(key)), numbers)
    for key, texts in spans.texts.items():
        page.string(t.SPAN_ATTRIBUTES, t.message(t.KEY_VALUE_KEY, t.text(key)), texts)
    _shared(page, tail, spans.shape)
    page.literal(t.tag(t.SPAN_FLAGS, t.FIXED32))
    # The parent of a server's span is in another process, any other's is here.
    remote = np.where(parent & server, t.FLAGS_HAS_IS_REMOTE | t.FLAGS_IS_REMOTE, t.FLAGS_HAS_IS_REMOTE)
    flags = spans.flags | remote
    page.block(flags.astype("<u4").view(np.uint8).reshape(-1, 4))
    return page.pack(t.SCOPE_SPANS_SPANS, scratch)


def _shared(page: Page, fragments: t.Table, shape: NDArray[np.int32]) -> None:
    """Each row's part of its shape."""
    if fragments.data.shape[1]:
        length = fragments.length[shape]
        page.ragged(fragments.data.take(shape, 0)[:, : int(length.max())], length)


def _cleared(text: Text) -> Text:
    return Text(text.data, np.maximum(text.length, 0))


def _split(resource: NDArray[np.int32], packed: Packed) -> Iterator[Run]:
    """Cut rows that are sorted by resource where it changes."""
    ends = np.cumsum(packed.length)
    cuts = [0, *(np.flatnonzero(np.diff(resource)) + 1).tolist(), len(resource)]
    for first, last in pairwise(cuts):
        begin = int(ends[first - 1]) if first else 0
        yield Run(int(resource[first]), packed.data[begin : int(ends[last - 1])], ends[first:last] - begin)
