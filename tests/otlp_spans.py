# SPDX-License-Identifier: Apache-2.0
"""OTLP requests read back by opentelemetry-proto, as plain values that tests compare whole."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from exporters.envelope import Body


def parse(request: Body) -> Any:
    """The request; fails unless opentelemetry-proto writes it again bit for bit."""
    message: Any = ExportTraceServiceRequest()
    message.ParseFromString(request)
    assert message.SerializeToString() == request
    return message


def value(any_value: Any) -> Any:
    kind = any_value.WhichOneof("value")
    if kind == "array_value":
        return tuple(value(v) for v in any_value.array_value.values)
    return getattr(any_value, kind)


def attributes(pairs: Iterable[Any]) -> dict[str, Any]:
    found = [(p.key, value(p.value)) for p in pairs]
    assert len(dict(found)) == len(found), "an attribute twice"
    return dict(found)


def span(message: Any) -> dict[str, Any]:
    """A span as plain values; what a span has by default is left out."""
    whole = {
        "name": message.name,
        "kind": message.kind,
        "status": message.status.code,
        "start_ns": message.start_time_unix_nano,
        "end_ns": message.end_time_unix_nano,
        "trace_id": message.trace_id,
        "span_id": message.span_id,
        "parent_id": message.parent_span_id,
        "trace_state": message.trace_state,
        "flags": message.flags,
        "attributes": attributes(message.attributes),
    }
    return {k: v for k, v in whole.items() if v}


def spans(requests: Iterable[tuple[Body, int]]) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """(resource attributes, span) of all spans, in the order of the requests."""
    found: list[tuple[dict[str, Any], dict[str, Any]]] = []
    for data, count in requests:
        message = parse(data)
        before = len(found)
        for resource_spans in message.resource_spans:
            resource = attributes(resource_spans.resource.attributes)
            for scope_spans in resource_spans.scope_spans:
                assert scope_spans.scope.name == "stingless"
                found += [(resource, span(s)) for s in scope_spans.spans]
        assert len(found) - before == count
    return found
