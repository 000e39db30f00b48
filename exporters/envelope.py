# SPDX-License-Identifier: Apache-2.0
"""Encoded spans are put into requests, none larger than a receiver takes.

In: runs of encoded spans by resource. Out: ExportTraceServiceRequests. The rule this file protects: a request is
closed before it would pass its limits, and no span is in two of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from exporters import template as t
from instrumenter.model import I64, U8

_NESTING = 24  # most bytes of the tags and lengths of ResourceSpans and ScopeSpans
_ROOM = 1 << 14  # bytes before and behind the spans of a run: for what is around them, and a few more spans

Body = bytes | memoryview


def with_room(size: int) -> U8:
    """Memory for a run that a request can be made of in place: copying a megabyte costs as much as writing it."""
    return np.empty(size + 2 * _ROOM, np.uint8)[_ROOM : _ROOM + size]


class Run(NamedTuple):
    """Spans of one resource as fields ScopeSpans.spans, back to back; `ends` are where each ends."""

    resource: int
    data: U8
    ends: I64


class Envelope(NamedTuple):
    """What is around the spans of a resource, as fields of their messages."""

    resources: Sequence[bytes]  # ResourceSpans.resource, by number
    scope: bytes  # ScopeSpans.scope
    schema: bytes  # ScopeSpans.schema_url

    def around(self, resource: int, spans: list[memoryview]) -> list[bytes | memoryview]:
        """The pieces of one field ExportTraceServiceRequest.resource_spans."""
        inner = len(self.scope) + sum(map(len, spans)) + len(self.schema)
        scope_spans = t.tag(t.RESOURCE_SPANS_SCOPE_SPANS, t.LENGTH) + t.varint(inner)
        outer = len(self.resources[resource]) + len(scope_spans) + inner
        front = t.tag(t.REQUEST_RESOURCE_SPANS, t.LENGTH) + t.varint(outer)
        return [front, self.resources[resource], scope_spans, self.scope, *spans, self.schema]

    def size(self, resource: int) -> int:
        """At least the bytes that `around` adds to the spans."""
        return _NESTING + len(self.resources[resource]) + len(self.scope) + len(self.schema)


class Filler:
    """Fills one request after the other."""

    def __init__(self, envelope: Envelope, max_bytes: int, max_spans: int) -> None:
        self._envelope = envelope
        self._max_bytes = max_bytes
        self._max_spans = max_spans
        self._done: list[tuple[Body, int]] = []
        self._groups: dict[int, list[memoryview]] = {}  # of the request being filled: resource -> spans
        self._whole: U8 | None = None  # the run that is whole in the request being filled, and first in it
        self._used = 0
        self._spans = 0

    def add(self, run: Run) -> None:
        begin = 0
        while begin < len(run.ends):
            offset = int(run.ends[begin - 1]) if begin else 0
            new_group = 0 if run.resource in self._groups else self._envelope.size(run.resource)
            room = self._max_bytes - self._used - new_group
            fits = len(run.ends) - begin
            if int(run.ends[-1]) - offset > room:
                fits = int(np.searchsorted(run.ends, offset + room, side="right")) - begin
            fits = min(fits, self._max_spans - self._spans)
            if fits <= 0 and self._spans:
                self._close()
                continue
            fits = max(fits, 1)  # a span larger than any request is alone in its own
            end = int(run.ends[begin + fits - 1])
            if not self._spans:
                self._whole = run.data if fits == len(run.ends) else None
            self._groups.setdefault(run.resource, []).append(run.data[offset:end].data)
            self._used += new_group + end - offset
            self._spans += fits
            begin += fits

    def finish(self) -> list[tuple[Body, int]]:
        """All requests: (ExportTraceServiceRequest, spans in it)."""
        if self._spans:
            self._close()
        return self._done

    def _close(self) -> None:
        pieces: list[bytes | memoryview] = []
        for resource, spans in self._groups.items():
            pieces += self._envelope.around(resource, spans)
        whole = self._in_place(pieces) if len(self._groups) == 1 and self._whole is not None else None
        self._done.append((whole or b"".join(pieces), self._spans))
        self._groups, self._used, self._spans = {}, 0, 0

    def _in_place(self, pieces: list[bytes | memoryview]) -> memoryview | None:
        """The request around its first spans where they lie. None: there is no room."""
        spans, memory = self._whole, self._whole.base if self._whole is not None else None
        if spans is None or not isinstance(memory, np.ndarray) or memory.dtype != np.uint8 or memory.ndim != 1:
            return None
        before, behind = b"".join(pieces[:4]), b"".join(pieces[5:])
        begin = spans.__array_interface__["data"][0] - memory.__array_interface__["data"][0] - len(before)
        end = begin + len(before) + len(spans) + len(behind)
        if begin < 0 or end > len(memory):
            return None
        view = memory.data
        view[begin : begin + len(before)] = before
        view[end - len(behind) : end] = behind
        return view[begin:end]
