# SPDX-License-Identifier: Apache-2.0
"""A span as the score needs it, read from OTLP: ids, kind, and which request it is about by its own path.

In: ExportTraceServiceRequest of any tracer. Out: `Span` rows. The rule it protects: the truth is in the request's path,
so it is in the span whatever the tracer thinks the span's parent is.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

SERVER: Final = 2  # opentelemetry.proto.trace.v1.Span.SpanKind
CLIENT: Final = 3
FRONT: Final = 0  # call number of the request to the front itself

Key = tuple[int, int]  # number of the request, number of the call (FRONT: none)

# Of the stable conventions for HTTP first, then those before them.
_PATHS: Final = ("url.path", "url.full", "http.target", "http.url")
_STATUSES: Final = ("http.response.status_code", "http.status_code")
_PATH: Final = re.compile(r"/(?:front/(\d+)|leaf/(\d+)/(\d+))(?=$|[?#])")


class Span(NamedTuple):
    """key: None if its path says nothing; status: 0 if it has none. parent: empty if it has none."""

    trace: bytes
    span: bytes
    parent: bytes
    kind: int
    key: Key | None
    status: int = 0


def key_of(path: str) -> Key | None:
    found = _PATH.search(path)
    if found is None:
        return None
    return (int(found[1]), FRONT) if found[1] else (int(found[2]), int(found[3]))


def spans_of(body: bytes) -> Iterator[Span]:
    """body: an ExportTraceServiceRequest."""
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    parse: Any = ExportTraceServiceRequest
    for resource in parse.FromString(body).resource_spans:
        for scope in resource.scope_spans:
            for span in scope.spans:
                yield _span(span)


def _span(span: Any) -> Span:
    key, status = None, 0
    for attribute in span.attributes:
        if attribute.key in _PATHS:
            key = key or key_of(attribute.value.string_value)
        elif attribute.key in _STATUSES:
            status = attribute.value.int_value or int(attribute.value.string_value or 0)
    parent = b"" if span.parent_span_id.strip(b"\0") == b"" else span.parent_span_id
    return Span(span.trace_id, span.span_id, parent, span.kind, key, status)
