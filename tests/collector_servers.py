# SPDX-License-Identifier: Apache-2.0
"""The two servers of collector.py: requests off the wire in, `take(signal, body, headers)` called, its `Answer` out."""

from __future__ import annotations

import gzip
import ssl
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final

TRACES: Final = "traces"
METRICS: Final = "metrics"


@dataclass(frozen=True, slots=True)
class Answer:
    """How to answer one request: for gRPC `code` (a status name), for HTTP `status`. Only 200/OK counts what came.

    retry_info_s: google.rpc.RetryInfo of gRPC; retry_after: the header of HTTP. rejected, message: partial success.
    hold: the request is answered only when it is set (or the collector stops).
    """

    status: int = 200
    code: str = "OK"
    retry_after: str = ""
    retry_info_s: float | None = None
    rejected: int = 0
    message: str = ""
    hold: threading.Event | None = None


@dataclass(frozen=True, slots=True)
class Tls:
    """PEM files of the server; client_ca: client certificates signed by it are demanded."""

    certificate: str
    key: str
    client_ca: str | None = None


Take = Callable[[str, bytes, Mapping[str, str]], Answer]


def _response(what: str, answer: Answer) -> bytes:
    if what == TRACES:
        from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as pb

        message: Any = pb.ExportTraceServiceResponse()
        message.partial_success.rejected_spans = answer.rejected
    else:
        from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2

        message = metrics_service_pb2.ExportMetricsServiceResponse()
        message.partial_success.rejected_data_points = answer.rejected
    message.partial_success.error_message = answer.message
    if not answer.rejected and not answer.message:
        message.Clear()
    body: bytes = message.SerializeToString()
    return body


def grpc_server(take: Take, port: int, tls: Tls | None) -> tuple[Any, int]:
    import grpc as untyped

    grpc: Any = untyped

    def handler(what: str, service: str) -> Any:
        def export(body: bytes, context: Any) -> bytes:
            metadata = {k: v if isinstance(v, str) else repr(v) for k, v in context.invocation_metadata()}
            answer = take(what, body, metadata)
            if answer.code != "OK":
                if answer.retry_info_s is not None:
                    context.set_trailing_metadata((("grpc-status-details-bin", _retry_info(answer)),))
                context.abort(grpc.StatusCode[answer.code], answer.message or "scripted")
            return _response(what, answer)

        return grpc.method_handlers_generic_handler(
            f"opentelemetry.proto.collector.{service}", {"Export": grpc.unary_unary_rpc_method_handler(export)}
        )

    options = (("grpc.so_reuseport", 0), ("grpc.max_receive_message_length", 4 << 20))
    server = grpc.server(ThreadPoolExecutor(8, "collector-grpc"), options=options)
    for what, service in ((TRACES, "trace.v1.TraceService"), (METRICS, "metrics.v1.MetricsService")):
        server.add_generic_rpc_handlers((handler(what, service),))
    address = f"localhost:{port}"
    bound = server.add_secure_port(address, _grpc_credentials(tls)) if tls else server.add_insecure_port(address)
    return server, bound


def _grpc_credentials(tls: Tls) -> Any:
    import grpc as untyped

    grpc: Any = untyped
    pair = (Path(tls.key).read_bytes(), Path(tls.certificate).read_bytes())
    ca = Path(tls.client_ca).read_bytes() if tls.client_ca else None
    return grpc.ssl_server_credentials([pair], ca, require_client_auth=ca is not None)


def _retry_info(answer: Answer) -> bytes:
    from google.rpc import error_details_pb2, status_pb2

    status: Any = status_pb2.Status(code=8, message=answer.message)
    info: Any = error_details_pb2.RetryInfo()
    info.retry_delay.FromNanoseconds(int((answer.retry_info_s or 0) * 1e9))
    status.details.add().Pack(info)
    body: bytes = status.SerializeToString()
    return body


class HttpServer(ThreadingHTTPServer):
    take: Take
    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, *args: Any) -> None:
        self._connections: set[Any] = set()
        super().__init__(*args)

    def process_request(self, request: Any, client_address: Any) -> None:
        self._connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._connections.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away, or failed the TLS handshake, is no error here."""

    def server_close(self) -> None:
        """A collector that stops takes its open connections with it."""
        for connection in list(self._connections):
            self.shutdown_request(connection)
        super().server_close()


def http_server(take: Take, port: int, tls: Tls | None) -> HttpServer:
    server = HttpServer(("127.0.0.1", port), _HttpHandler)
    server.take = take
    if tls:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(tls.certificate, tls.key)
        if tls.client_ca:
            context.load_verify_locations(tls.client_ca)
            context.verify_mode = ssl.CERT_REQUIRED
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    return server


class _HttpHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: HttpServer
    disable_nagle_algorithm = True

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        what = self.path.removeprefix("/v1/")
        if what not in (TRACES, METRICS):
            self._send(404, b"not found", {"Content-Type": "text/plain"})
            return
        answer = self.server.take(what, body, dict(self.headers.items()))
        headers = {"Content-Type": "application/x-protobuf"}
        if answer.retry_after:
            headers["Retry-After"] = answer.retry_after
        self._send(answer.status, _response(what, answer) if answer.status == 200 else _status(answer), headers)

    def _send(self, status: int, body: bytes, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet."""


def _status(answer: Answer) -> bytes:
    from google.rpc import status_pb2

    message: Any = status_pb2.Status(message=answer.message or "scripted")
    body: bytes = message.SerializeToString()
    return body
