# SPDX-License-Identifier: Apache-2.0
"""What the receiver got, sorted by the process that it is about and by the number of the request.

In: a stopped `Collector`. Out: counts by (method, route, status), from spans and from metrics, of one process: its
spans' and series' resource has its pid, which for pre-forking servers is the leader's.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

from collector import Collector, attributes

from truth.senders import Sent

Count = Counter[tuple[str, str, int]]  # by method, route, status (0: none)
SERVER: Final = 2  # opentelemetry.proto.trace.v1.Span.SpanKind
CLIENT: Final = 3
_NUMBER: Final = re.compile(r"[?&]?n=(\d+)$")


@dataclass(frozen=True, slots=True)
class Seen:
    """A span: its resource's and its own attributes, and itself."""

    resource: dict[str, Any]
    attributes: dict[str, Any]
    span: Any

    @property
    def number(self) -> int:
        """Of the request; 0 if it has none."""
        found = _NUMBER.search(self.attributes.get("url.query") or self.attributes.get("url.full") or "")
        return int(found[1]) if found else 0

    @property
    def start(self) -> int:
        return int(self.span.start_time_unix_nano)

    @property
    def end(self) -> int:
        return int(self.span.end_time_unix_nano)

    @property
    def took(self) -> int:
        return self.end - self.start


class Ledger:
    """Of everything that a collector got. Built when the agent has ended, so that nothing is under way."""

    def __init__(self, collector: Collector) -> None:
        self._collector = collector

    @cached_property
    def spans(self) -> list[Seen]:
        return [
            Seen(resource, attributes(span.attributes), span)
            for request in self._collector.trace_requests()
            for part in request.resource_spans
            for resource in (attributes(part.resource.attributes),)
            for scope in part.scope_spans
            for span in scope.spans
        ]

    def of(self, pid: int, kind: int) -> list[Seen]:
        """The spans of one process."""
        return [s for s in self.spans if s.span.kind == kind and s.resource.get("process.pid") == pid]

    def counted(self, pid: int, kind: int, versions: Collection[str] = ()) -> Count:
        """The newest count of every series of one process, which are cumulative. versions: of HTTP, all if none."""
        name = "http.server.request.duration" if kind == SERVER else "http.client.request.duration"
        route = "http.route" if kind == SERVER else "url.template"
        by = ("process.pid", "network.protocol.version", "http.request.method", route, "http.response.status_code")
        totals = self._collector.metric_totals(name, *by)
        counts: Count = Counter()
        for (owner, version, method, path, status), n in totals.items():
            if owner == pid and (not versions or version in versions):
                counts[method, path, status or 0] += int(n)
        return counts

    def called(self, pid: int, kind: int) -> Count:
        """The same of gRPC: by ("POST", service and method, code; -1: none)."""
        name = "rpc.server.duration" if kind == SERVER else "rpc.client.duration"
        by = ("process.pid", "rpc.service", "rpc.method", "rpc.grpc.status_code")
        counts: Count = Counter()
        for (owner, service, method, code), n in self._collector.metric_totals(name, *by).items():
            if owner == pid:
                counts["POST", f"{service}/{method}", -1 if code is None else code] += int(n)
        return counts

    def names(self, pid: int) -> set[str]:
        """Every service.name that a process's spans and metrics go by."""
        names = {str(s.resource["service.name"]) for s in self.spans if s.resource.get("process.pid") == pid}
        for metric in ("http.server.request.duration", "http.client.request.duration"):
            by_name = self._collector.metric_totals(metric, "process.pid", "service.name")
            names |= {name for owner, name in by_name if owner == pid}
        return names

    def totals(self, name: str, *by: str) -> dict[tuple[Any, ...], float]:
        """The newest value of every series of a metric, by attributes of it or of its resource."""
        return dict(self._collector.metric_totals(name, *by))

    @cached_property
    def lost(self) -> dict[str, dict[tuple[Any, ...], float]]:
        """What the agent says that it lost: by its metric's name, each by service and reason."""
        names = {metric.name for r in self._collector.metric_requests() for m in r.resource_metrics
                 for scope in m.scope_metrics for metric in scope.metrics}  # fmt: skip
        own = sorted(n for n in names if n.startswith("stingless.http2.") or n.endswith((".lost", ".skipped")))
        return {name: self.totals(name, "stingless.service", "reason") for name in own}

    def own(self, name: str, service: str) -> int:
        """The newest value of one of the agent's own metrics about a service, all reasons added up."""
        totals = self._collector.metric_totals(name, "stingless.service")
        return int(totals.get((service,), 0))


def by_span(spans: Iterable[Seen]) -> Count:
    """Counts of spans."""
    return Counter(
        (
            s.attributes["http.request.method"],
            s.attributes.get("http.route") or s.attributes.get("url.template", ""),
            s.attributes.get("http.response.status_code", 0),
        )
        for s in spans
    )


def by_call(spans: Iterable[Seen]) -> Count:
    """Counts of spans of gRPC."""
    return Counter(
        (
            "POST",
            f"{s.attributes.get('rpc.service')}/{s.attributes.get('rpc.method')}",
            s.attributes.get("rpc.grpc.status_code", -1),
        )
        for s in spans
    )


def truth(sent: Iterable[Sent]) -> Count:
    """Counts of what clients say."""
    return Counter((s.ask.method, s.ask.route, s.status) for s in sent)
