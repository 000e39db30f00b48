# SPDX-License-Identifier: Apache-2.0
"""The endpoint that Prometheus scrapes: /metrics, and /healthz and /readyz for whoever keeps the agent running.

In: a callable that collects, or snapshots pushed by `export_metrics`. Out: HTTP. The rule it protects: a scrape is
answered with one consistent snapshot, and scrapers that come together share it.

Text 0.0.4 and OpenMetrics 1.0 (with exemplars) are written by prometheus_client, protobuf (with native histograms) by
`prometheus_native`; the scraper's Accept header chooses.
"""

from __future__ import annotations

import gzip
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, Final, NamedTuple, cast

from exporters.prometheus_families import Family, classic, exemplar_labels, families
from instrumenter.errors import ConfigError
from instrumenter.model import HistogramPoint, Metric
from instrumenter.telemetry import Counters

if TYPE_CHECKING:
    from prometheus_client import Metric as ClientMetric
    from prometheus_client.registry import Collector

log = logging.getLogger(__name__)
CACHE_S: Final = 1.0
TEXT, OPENMETRICS, PROTOBUF = "text", "openmetrics", "protobuf"


class Body(NamedTuple):
    content_type: str
    data: bytes


class PrometheusExporter:
    """Serves until `close`. Implements MetricExporter.

    address: ADDR:PORT, :PORT or PORT, IPv6 in brackets; port 0 takes a free one, told by `port`. collect: called in
    the server's threads, one at a time, at most once in cache_s; None: the last pushed snapshot is served.
    Raises ConfigError if the address is wrong or taken.
    """

    def __init__(
        self,
        address: str,
        counters: Counters,
        collect: Callable[[], Sequence[Metric]] | None = None,
        ready: Callable[[], bool] = lambda: True,
        cache_s: float = CACHE_S,
    ) -> None:
        self._counters = counters
        self._collect = collect
        self._ready = ready
        self._cache_s = cache_s
        self._lock = threading.Lock()
        self._metrics: Sequence[Metric] = ()
        self._collected_s = -float("inf")
        self._bodies: dict[str, Body] = {}  # of self._metrics, by format
        self._classes: dict[str, Any] = {}
        self._server = _listen(address, self)
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.1,), name="prometheus", daemon=True)
        self._thread.start()

    def export_metrics(self, metrics: Sequence[Metric]) -> None:
        """Take a snapshot; it is served until the next, or until a scrape collects."""
        with self._lock:
            self._take(metrics)

    def close(self, timeout_s: float) -> None:
        """Stop listening. Answers under way end by themselves."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(timeout_s)

    def scrape(self, accept: str) -> Body:
        """The body of /metrics in the best format that an Accept header (RFC 9110, 12.5.1) names."""
        chosen = negotiate(accept)
        with self._lock:
            if self._collect and time.monotonic() - self._collected_s >= self._cache_s:
                self._take(self._collect())
            if chosen not in self._bodies:
                self._bodies[chosen] = self._render(chosen)
            self._counters.add("metrics.scrapes")
            return self._bodies[chosen]

    def answer(self, path: str, accept: str) -> tuple[HTTPStatus, Body]:
        """Status and body of a GET."""
        plain = "text/plain; charset=utf-8"
        match path.partition("?")[0]:
            case "/metrics":
                return HTTPStatus.OK, self.scrape(accept)
            case "/healthz":
                return HTTPStatus.OK, Body(plain, b"ok\n")
            case "/readyz":
                if self._ready():
                    return HTTPStatus.OK, Body(plain, b"ready\n")
                return HTTPStatus.SERVICE_UNAVAILABLE, Body(plain, b"not ready\n")
            case "/":
                return HTTPStatus.OK, Body(plain, b"stingless: /metrics /healthz /readyz\n")
        return HTTPStatus.NOT_FOUND, Body(plain, b"not found; there are /metrics, /healthz and /readyz\n")

    def _take(self, metrics: Sequence[Metric]) -> None:
        self._metrics = metrics
        self._collected_s = time.monotonic()
        self._bodies = {}

    def _render(self, chosen: str) -> Body:
        found = families(self._metrics)
        if chosen == PROTOBUF:
            from exporters import prometheus_native

            self._classes = self._classes or prometheus_native.message_classes()
            return Body(prometheus_native.CONTENT_TYPE, prometheus_native.encode(found, self._classes))
        if chosen == OPENMETRICS:
            from prometheus_client.openmetrics import exposition as openmetrics

            generate: Any = openmetrics.generate_latest  # untyped
            return Body(openmetrics.CONTENT_TYPE_LATEST, generate(_source(found)))
        from prometheus_client import exposition

        return Body("text/plain; version=0.0.4; charset=utf-8", exposition.generate_latest(_source(found)))


def negotiate(accept: str) -> str:
    """The format with the highest quality, TEXT if none is known; of equals the first."""
    best, best_q = TEXT, 0.0
    for entry in accept.lower().split(","):
        kind, *pairs = (part.strip() for part in entry.split(";"))
        parameters = {k.strip(): v.strip(' "') for k, _, v in (pair.partition("=") for pair in pairs)}
        found = None
        if kind == "application/openmetrics-text" and parameters.get("version", "1.0.0") == "1.0.0":
            found = OPENMETRICS
        elif kind == "application/vnd.google.protobuf":
            wanted = parameters.get("proto"), parameters.get("encoding")
            found = PROTOBUF if wanted == ("io.prometheus.client.metricfamily", "delimited") else None
        elif kind in ("text/plain", "text/*", "*/*") and parameters.get("version", "0.0.4") == "0.0.4":
            found = TEXT
        try:
            q = float(parameters.get("q", "1"))
        except ValueError:
            q = 0.0
        if found and q > best_q:
            best, best_q = found, q
    return best


def _source(found: Sequence[Family]) -> Collector:
    """What prometheus_client's expositions read."""

    class Source:
        def collect(self) -> Iterator[ClientMetric]:
            return map(_client_metric, found)

    return cast("Collector", Source())


def _client_metric(family: Family) -> ClientMetric:
    from prometheus_client import Metric as ClientMetric
    from prometheus_client.samples import Exemplar

    out = ClientMetric(family.name, family.help, family.type, family.unit)
    suffix = "_total" if family.type == "counter" else ""
    for labels, point in family.points:
        named = dict(labels)
        if not isinstance(point, HistogramPoint):
            out.add_sample(family.name + suffix, named, point.value)
            continue
        for le, count, held in classic(point, family.unit):
            exemplar = Exemplar(exemplar_labels(held), held.value, held.time_ns / 1e9) if held else None
            out.add_sample(
                family.name + "_bucket",
                {**named, "le": "+Inf" if le == float("inf") else repr(le)},
                count,
                exemplar=exemplar,
            )
        out.add_sample(family.name + "_count", named, point.count)
        out.add_sample(family.name + "_sum", named, point.sum)
    return out


def parse_address(address: str) -> tuple[str, int]:
    """Host (all interfaces if empty) and port. Raises ConfigError."""
    host, _, port = address.rpartition(":")
    if not port.isdecimal() or int(port) > 65535 or (":" in host and not host.startswith("[")):
        raise ConfigError(f"--prometheus {address!r} is not ADDR:PORT, for example 127.0.0.1:9464 or [::1]:9464")
    return host.strip("[]") or "0.0.0.0", int(port)


def _listen(address: str, exporter: PrometheusExporter) -> ThreadingHTTPServer:
    host, port = parse_address(address)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        server_version = "stingless"
        sys_version = ""
        timeout = 30  # s; a connection that says nothing is closed

        def do_GET(self) -> None:
            try:
                status, body = exporter.answer(self.path, self.headers.get("Accept", ""))
            except Exception:
                log.exception("a scrape failed")
                status, body = HTTPStatus.INTERNAL_SERVER_ERROR, Body("text/plain", b"see the agent's log\n")
            data = body.data
            self.send_response(status)
            if len(data) > 1024 and "gzip" in self.headers.get("Accept-Encoding", ""):
                data = gzip.compress(data, compresslevel=1)
                self.send_header("Content-Encoding", "gzip")
            self.send_header("Content-Type", body.content_type)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data)

        do_HEAD = do_GET

        def log_message(self, format: str, *args: object) -> None:
            log.debug(format, *args)

    class Server(ThreadingHTTPServer):
        address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        block_on_close = False  # a scraper that reads slowly must not hold up the agent's end

    try:
        return Server((host, port), Handler)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ConfigError(
            f"--prometheus {address}: cannot listen there ({reason.lower()});"
            " choose another address or port, or stop what uses it"
        ) from error
