# SPDX-License-Identifier: Apache-2.0
"""Parts of the exporters' tests: batches of spans, a stand-in encoder, certificates, ports, the account."""

from __future__ import annotations

import socket
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from exporters.otlp import OtlpOptions, RetryPolicy, otlp_options
from instrumenter.model import (
    KIND_CLIENT,
    KIND_SERVER,
    STATUS_ERROR,
    STATUS_UNSET,
    Resource,
    Shape,
    Spans,
    Text,
)
from instrumenter.telemetry import Counters

QUICK = RetryPolicy(first_s=0.02, factor=1.5, max_s=0.1)
T0 = 1_700_000_000_123_456_789


def text_column(values: list[str | None]) -> Text:
    """A column of strings; None is absent."""
    raw = [v.encode() if v is not None else b"" for v in values]
    width = max([1, *map(len, raw)])
    data = np.zeros((len(raw), width), np.uint8)
    for row, value in enumerate(raw):
        data[row, : len(value)] = list(value)
    length = np.array([-1 if v is None else len(v.encode()) for v in values], np.int32)
    return Text(data, length)


def make_spans(n: int, services: tuple[str, ...] = ("shop",), first: int = 1) -> Spans:
    """n spans numbered from `first` (the span id), the services taking turns; every second a client's error."""
    number = np.arange(first, first + n, dtype=np.uint64)
    ids = number.astype(">u8").view(np.uint8).reshape(n, 8)
    return Spans(
        resources=[Resource((("service.name", s),)) for s in services],
        shapes=[
            Shape("GET /cart", KIND_SERVER, STATUS_UNSET, (("http.request.method", "GET"), ("url.scheme", "http"))),
            Shape("POST", KIND_CLIENT, STATUS_ERROR, (("error.type", "500"),), "boom"),
        ],
        resource=(np.arange(n) % len(services)).astype(np.int32),
        shape=(np.arange(n) % 2).astype(np.int32),
        trace_id=np.hstack([ids, ids]),
        span_id=ids,
        parent_id=np.zeros((n, 8), np.uint8),
        flags=np.ones(n, np.uint8),
        start_ns=number * np.uint64(1000) + np.uint64(T0),
        end_ns=number * np.uint64(1000) + np.uint64(T0 + 2_500_000),
        ints={"http.response.status_code": np.where(np.arange(n) % 3, 200, -1).astype(np.int64)},
        texts={"url.path": text_column([f"/cart/{i}" if i % 2 else None for i in range(n)])},
        trace_state=text_column([None] * n),
    )


class ProtoEncoder:
    """Stands in for exporters.encode: one request a batch, in plain protobuf, or several where max_spans is lower."""

    def __init__(self, max_spans: int = 1 << 30) -> None:
        self._max_spans = max_spans

    def encode(self, spans: Spans) -> list[tuple[bytes, int]]:
        pieces = [
            spans.take(slice(i, min(i + self._max_spans, len(spans)))) for i in range(0, len(spans), self._max_spans)
        ]
        return [(_encode(piece), len(piece)) for piece in pieces]


def _encode(spans: Spans) -> bytes:
    from opentelemetry.proto.collector.trace.v1 import trace_service_pb2

    request: Any = trace_service_pb2.ExportTraceServiceRequest()
    for index, resource in enumerate(spans.resources):
        rows = np.flatnonzero(spans.resource == index).tolist()
        if not rows:
            continue
        of_resource = request.resource_spans.add()
        attribute = of_resource.resource.attributes.add(key="service.name")
        attribute.value.string_value = str(resource.get("service.name"))
        scope = of_resource.scope_spans.add()
        for row in rows:
            shape = spans.shapes[int(spans.shape[row])]
            scope.spans.add(
                name=shape.name,
                kind=shape.kind,
                trace_id=spans.trace_id[row].tobytes(),
                span_id=spans.span_id[row].tobytes(),
                start_time_unix_nano=int(spans.start_ns[row]),
                end_time_unix_nano=int(spans.end_ns[row]),
            )
    body: bytes = request.SerializeToString()
    return body


def options_for(url: str, signal: Any = "traces", protocol: str = "", **environ: str) -> OtlpOptions:
    """Options by the environment, as users set them: keyword HEADERS="a=b" is OTEL_EXPORTER_OTLP_HEADERS."""
    prefix = "OTEL_EXPORTER_OTLP_"
    values = {prefix + k: v for k, v in environ.items()} | {prefix + "PROTOCOL": protocol}
    return otlp_options(signal, values, url)


def account(counters: Counters) -> dict[str, int]:
    """All counters of spans that are not zero, over all services."""
    totals: dict[str, int] = {}
    for key, value in counters.items():
        if key.name.startswith("spans.") and value:
            totals[key.name] = totals.get(key.name, 0) + value
    return {k: v for k, v in totals.items() if v}


def eventually(condition: Callable[[], bool], timeout_s: float = 10.0) -> bool:
    """Whether the condition becomes true in time."""
    deadline = time.monotonic() + timeout_s
    pause = threading.Event()
    while not condition():
        if time.monotonic() > deadline:
            return False
        pause.wait(0.005)
    return True


def free_port() -> int:
    """A port on which nothing listens."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port: int = s.getsockname()[1]
        return port


def make_certificates(folder: Path) -> dict[str, str]:
    """A CA, and a server's and a client's certificate signed by it: PEM paths by "ca", "server", "server_key", ..."""

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)

    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    openssl("req", "-x509", *key, "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=test ca", "-days", "2")
    (folder / "extensions").write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\n")
    for name in ("server", "client"):
        openssl("req", *key, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}")
        openssl(
            *("x509", "-req", "-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial"),
            *("-out", f"{name}.pem", "-days", "2", "-extfile", "extensions"),
        )
    files = {"ca": "ca.pem"} | {
        k: v for n in ("server", "client") for k, v in ((n, f"{n}.pem"), (f"{n}_key", f"{n}.key"))
    }
    return {name: str(folder / file) for name, file in files.items()}
