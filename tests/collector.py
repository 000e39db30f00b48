# SPDX-License-Identifier: Apache-2.0
"""A small real OTLP receiver on loopback: gRPC and HTTP/protobuf in; counts, requests and scripted answers out.

For all tests and benchmarks. The rule it protects: what it counts is what went over the wire. As a program,
`python tests/collector.py --grpc PORT --http PORT --count-only` prints its totals as JSON lines, and keeps nothing.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Self

from collector_servers import METRICS, TRACES, Answer, Tls, grpc_server, http_server

__all__ = ["METRICS", "TRACES", "Answer", "Collector", "Tls", "attributes", "count_spans"]


@dataclass(slots=True)
class Received:
    """What came for one signal. `attempts` counts every request, also those answered with an error."""

    attempts: int = 0
    requests: int = 0
    items: int = 0
    size: int = 0  # bytes, uncompressed
    bodies: list[bytes] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    script: deque[Answer] = field(default_factory=deque)


class Collector:
    """Both servers. Port 0: any free one. Without `keep`, bodies of traces are counted and forgotten."""

    def __init__(self, grpc_port: int = 0, http_port: int = 0, tls: Tls | None = None, keep: bool = True) -> None:
        self._changed = threading.Condition()
        self._keep = keep
        self._stopped = threading.Event()
        self.received: Final[Mapping[str, Received]] = {TRACES: Received(), METRICS: Received()}
        self._scheme = "https" if tls else "http"
        self._http = http_server(self.take, http_port, tls)
        self._grpc, self._grpc_port = grpc_server(self.take, grpc_port, tls)
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.05,), name="collector-http")
        self._thread.start()
        self._grpc.start()

    @property
    def grpc_url(self) -> str:
        return f"{self._scheme}://localhost:{self._grpc_port}"

    @property
    def http_url(self) -> str:
        return f"{self._scheme}://localhost:{self._http.server_address[1]}"

    def url(self, protocol: str) -> str:
        """The base URL for "grpc" or "http/protobuf"."""
        return self.grpc_url if protocol == "grpc" else self.http_url

    def script(self, what: str, *answers: Answer) -> None:
        """Answer the next requests of this signal so, one each; then again 200/OK."""
        with self._changed:
            self.received[what].script.extend(answers)

    def take(self, what: str, body: bytes, headers: Mapping[str, str]) -> Answer:
        """Called by the servers: the answer to this request, which is counted if it is a good one."""
        received = self.received[what]
        with self._changed:
            received.attempts += 1
            received.headers.append({k.lower(): v for k, v in headers.items()})
            del received.headers[:-1000]
            answer = received.script.popleft() if received.script else Answer()
            self._changed.notify_all()
        while answer.hold and not answer.hold.wait(0.05) and not self._stopped.is_set():
            pass
        if answer.status == 200 and answer.code == "OK":
            items = count_spans(body) if what == TRACES else 0
            with self._changed:
                received.requests += 1
                received.items += items
                received.size += len(body)
                if self._keep or what == METRICS:
                    received.bodies.append(body)
                self._changed.notify_all()
        return answer

    def wait(self, condition: Callable[[], bool], timeout_s: float = 10.0) -> bool:
        """Whether the condition becomes true in time; looked at whenever something comes."""
        with self._changed:
            return self._changed.wait_for(condition, timeout_s)

    def wait_spans(self, n: int, timeout_s: float = 10.0) -> bool:
        return self.wait(lambda: self.span_count >= n, timeout_s)

    def wait_attempts(self, n: int, what: str = TRACES, timeout_s: float = 10.0) -> bool:
        return self.wait(lambda: self.received[what].attempts >= n, timeout_s)

    @property
    def span_count(self) -> int:
        return self.received[TRACES].items

    def trace_requests(self) -> list[Any]:
        """Decoded ExportTraceServiceRequests, in order of arrival."""
        from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

        parse: Any = ExportTraceServiceRequest
        return [parse.FromString(body) for body in list(self.received[TRACES].bodies)]

    def spans(self) -> list[Any]:
        """All spans, decoded."""
        return [s for r in self.trace_requests() for rs in r.resource_spans for ss in rs.scope_spans for s in ss.spans]

    def metric_requests(self) -> list[Any]:
        """Decoded ExportMetricsServiceRequests, in order of arrival."""
        from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

        parse: Any = ExportMetricsServiceRequest
        return [parse.FromString(body) for body in list(self.received[METRICS].bodies)]

    def points(self, name: str) -> list[Any]:
        """All points of the metric of this name as (resource attributes, metric, point), in order of arrival."""
        return [
            (attributes(resource.resource.attributes), metric, point)
            for request in self.metric_requests()
            for resource in request.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
            if metric.name == name
            for point in getattr(metric, metric.WhichOneof("data")).data_points
        ]

    def metric_totals(self, name: str, *by: str) -> dict[tuple[Any, ...], float]:
        """Count of a histogram, or value of a sum, added up over series by these attributes (of point or resource).

        Cumulative series and gauges count with their newest value, deltas with their sum.
        """
        series: dict[Any, float] = {}
        group: dict[Any, tuple[Any, ...]] = {}
        for resource, metric, point in self.points(name):
            own = attributes(point.attributes)
            data = getattr(metric, metric.WhichOneof("data"))
            temporality = getattr(data, "aggregation_temporality", 0)
            key = json.dumps([resource, own, point.start_time_unix_nano * (temporality == 2)])
            value = point.count if hasattr(point, "count") else point.as_int or point.as_double
            series[key] = value + (series.get(key, 0) if temporality == 1 else 0)
            group[key] = tuple((resource | own).get(k) for k in by)
        totals: dict[tuple[Any, ...], float] = {}
        for key, value in series.items():
            totals[group[key]] = totals.get(group[key], 0) + value
        return totals

    def totals(self) -> dict[str, int]:
        """What --count-only prints."""
        traces, metrics = self.received[TRACES], self.received[METRICS]
        server, client = (f"http.{side}.request.duration" for side in ("server", "client"))
        return {
            "spans": traces.items,
            "trace_requests": traces.requests,
            "trace_bytes": traces.size,
            "metric_requests": metrics.requests,
            server: int(self.metric_totals(server).get((), 0)),
            client: int(self.metric_totals(client).get((), 0)),
        }

    def stop(self) -> None:
        """Close both servers at once, with all their connections."""
        self._stopped.set()
        self._grpc.stop(0).wait(5)
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def attributes(key_values: Any) -> dict[str, Any]:
    """OTLP attributes as a dictionary; arrays as lists."""

    def plain(value: Any) -> Any:
        kind = value.WhichOneof("value")
        return [plain(v) for v in value.array_value.values] if kind == "array_value" else getattr(value, kind)

    return {kv.key: plain(kv.value) for kv in key_values}


def count_spans(body: bytes) -> int:
    """Spans in a serialized ExportTraceServiceRequest: resource_spans=1 > scope_spans=2 > spans=2, not decoded."""
    return sum(
        1
        for resource in _fields(body, 0, len(body), 0x0A)
        for scope in _fields(body, *resource, 0x12)
        for _ in _fields(body, *scope, 0x12)
    )


def _fields(body: bytes, at: int, end: int, wanted: int) -> Iterator[tuple[int, int]]:
    """(begin, end) of each length-delimited field with this one-byte tag. OTLP's containers hold no other wire type."""
    while at < end:
        tag = body[at]
        size = body[at + 1]
        at += 2
        if size > 0x7F:
            size &= 0x7F
            shift = 7
            while True:
                byte = body[at]
                at += 1
                size |= (byte & 0x7F) << shift
                if byte < 0x80:
                    break
                shift += 7
        if tag == wanted:
            yield at, at + size
        at += size


def main() -> int:
    """Serve until SIGTERM or SIGINT; a JSON line of totals whenever they change, at most every --interval, and last."""
    parser = argparse.ArgumentParser(description="A small OTLP receiver.")
    parser.add_argument("--grpc", type=int, default=4317, metavar="PORT")
    parser.add_argument("--http", type=int, default=4318, metavar="PORT")
    parser.add_argument("--count-only", action="store_true", help="keep no spans")
    parser.add_argument("--interval", type=float, default=1.0, metavar="SECONDS")
    options = parser.parse_args()
    end = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: end.set())
    with Collector(options.grpc, options.http, keep=not options.count_only) as collector:
        print(f"ready grpc={collector.grpc_url} http={collector.http_url}", file=sys.stderr, flush=True)
        before: dict[str, int] = {}
        while not end.wait(options.interval):
            if (now := collector.totals()) != before:
                print(json.dumps({"time": round(time.time(), 3)} | now), flush=True)
                before = now
        print(json.dumps({"time": round(time.time(), 3)} | collector.totals()), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
