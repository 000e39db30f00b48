# SPDX-License-Identifier: Apache-2.0
"""OTLP span export at its limits: queues, time-outs, shutdown, faulty encoders."""

from __future__ import annotations

import gzip
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from collector import METRICS, TRACES, Answer, Collector, count_spans
from otlp_parts import QUICK, ProtoEncoder, account, eventually, make_spans, options_for

from exporters.otlp import BatchOptions, OtlpOptions, OtlpSpanExporter
from instrumenter.telemetry import Counters

PROTOCOLS = ("grpc", "http/protobuf")
SOON = BatchOptions(delay_s=0.01, export_timeout_s=10.0)
both = pytest.mark.parametrize("protocol", PROTOCOLS)


def exporter_to(
    options: OtlpOptions, counters: Counters, batch: BatchOptions = SOON, encoder: Any = None, policy: Any = QUICK
) -> OtlpSpanExporter:
    return OtlpSpanExporter(options, counters, encoder or ProtoEncoder(), batch, policy)


def export(options: OtlpOptions, n: int = 10, **more: Any) -> dict[str, int]:
    """Export n spans, close, and return the account."""
    counters = Counters()
    exporter = exporter_to(options, counters, **more)
    exporter.export_spans(make_spans(n))
    exporter.close(10)
    return account(counters)


@both
def test_timeout_of_one_attempt(collector: Collector, protocol: str) -> None:
    """A receiver that does not answer in time is asked again."""
    hold = threading.Event()
    collector.script(TRACES, Answer(code="UNAVAILABLE", status=503, hold=hold))
    counters = Counters()
    exporter = exporter_to(options_for(collector.url(protocol), "traces", protocol, TIMEOUT="200"), counters)
    exporter.export_spans(make_spans(10))
    assert collector.wait_spans(10)
    hold.set()
    exporter.close(10)
    assert account(counters) == {"spans.exported": 10}


@both
def test_queue_overflow_is_exact(collector: Collector, protocol: str) -> None:
    """While the receiver holds one batch, the queue fills to its bound; what is shed is counted, by service."""
    hold = threading.Event()
    collector.script(TRACES, Answer(hold=hold))
    counters = Counters()
    batch = BatchOptions(max_queue_spans=100, max_batch_spans=40, delay_s=0.0)
    exporter = exporter_to(options_for(collector.url(protocol), "traces", protocol), counters, batch)
    exporter.export_spans(make_spans(10, ("a", "b")))
    assert collector.wait_attempts(1)
    for first in range(1001, 1151, 30):  # 5 batches of 30: 100 fit, 50 do not
        exporter.export_spans(make_spans(30, ("a", "b"), first=first))
    assert account(counters) == {"spans.dropped.queue_full": 50, "spans.in_flight": 110}
    assert counters.value("spans.dropped.queue_full", service="a") == 25
    hold.set()
    exporter.close(10)
    assert account(counters) == {"spans.dropped.queue_full": 50, "spans.exported": 110}
    assert counters.value("spans.exported", service="a", exporter="otlp") == 55
    assert collector.span_count == 110
    assert max(len(r.resource_spans[0].scope_spans[0].spans) * 2 for r in collector.trace_requests()) <= 40


@both
def test_close_counts_what_is_left(collector: Collector, protocol: str, caplog: pytest.LogCaptureFixture) -> None:
    """A receiver that hangs does not hang the end; what was under way or queued is counted, once."""
    hold = threading.Event()
    collector.script(TRACES, *[Answer(hold=hold)] * 5)
    counters = Counters()
    batch = BatchOptions(max_batch_spans=10, delay_s=0.0)
    exporter = exporter_to(options_for(collector.url(protocol), "traces", protocol), counters, batch)
    for first in (1, 11, 21):
        exporter.export_spans(make_spans(10, first=first))
    assert collector.wait_attempts(1)
    begin = time.monotonic()
    exporter.close(0.3)
    assert time.monotonic() - begin < 2
    assert account(counters) == {"spans.dropped.shutdown": 30}
    exporter.export_spans(make_spans(5))
    assert account(counters) == {"spans.dropped.shutdown": 35}
    hold.set()
    exporter.close(0.1)
    assert account(counters) == {"spans.dropped.shutdown": 35}
    assert [r.getMessage() for r in caplog.records] == [
        "OTLP traces: 30 spans were still unsent at shutdown and are dropped"
    ]


def test_close_interrupts_a_wait(collector: Collector, caplog: pytest.LogCaptureFixture) -> None:
    """A long Retry-After does not delay the end: closing tries once more, at once."""
    collector.script(TRACES, Answer(status=503, retry_after="200"))
    counters = Counters()
    batch = BatchOptions(delay_s=0.0, export_timeout_s=300)
    exporter = exporter_to(options_for(collector.http_url), counters, batch)
    exporter.export_spans(make_spans(10))
    assert eventually(lambda: "cannot deliver" in caplog.text)
    begin = time.monotonic()
    exporter.close(30)
    assert time.monotonic() - begin < 5
    assert account(counters) == {"spans.exported": 10}


def test_close_does_not_wait_for_what_comes_too_late(collector: Collector) -> None:
    """Asked at the end to come back after the end, the exporter gives up at once."""
    collector.script(TRACES, *[Answer(status=503, retry_after="200")] * 3)
    counters = Counters()
    exporter = exporter_to(options_for(collector.http_url), counters, BatchOptions(delay_s=100, export_timeout_s=300))
    exporter.export_spans(make_spans(10))
    begin = time.monotonic()
    exporter.close(30)
    assert time.monotonic() - begin < 5
    assert account(counters) == {"spans.dropped.shutdown": 10}


def test_small_batches_are_joined(collector: Collector) -> None:
    counters = Counters()
    batch = BatchOptions(delay_s=30, max_batch_spans=1000)
    exporter = exporter_to(options_for(collector.http_url), counters, batch)
    for first in range(1, 501):
        exporter.export_spans(make_spans(1, first=first))
    exporter.close(10)
    assert [int.from_bytes(s.span_id, "big") for s in collector.spans()] == list(range(1, 501))
    assert collector.received[TRACES].requests == 1


def test_batches_that_encode_to_several_requests(collector: Collector) -> None:
    """They are halved until each is one request, so that a refusal is counted under the right service."""
    collector.script(TRACES, Answer(status=400))
    assert export(options_for(collector.http_url), 1000, encoder=ProtoEncoder(max_spans=300)) == {
        "spans.dropped.export_failed": 1000
    }
    assert export(options_for(collector.http_url), 1000, encoder=ProtoEncoder(max_spans=300)) == {
        "spans.exported": 1000
    }
    assert collector.span_count == 1000


class Faulty:
    """An encoder with a bug, and with a span that it cannot place."""

    def encode(self, spans: Any) -> list[tuple[bytes, int]]:
        number = int.from_bytes(spans.span_id[0].tobytes(), "big")
        if number >= 1000:
            raise ZeroDivisionError("bug")
        whole = [r for r in range(len(spans)) if spans.span_id[r, -1] != 7]
        return [(body, n) for body, n in ProtoEncoder().encode(spans.take(whole)) if n]


def test_encoder_failures_are_counted(collector: Collector, caplog: pytest.LogCaptureFixture) -> None:
    counters = Counters()
    exporter = exporter_to(options_for(collector.http_url), counters, encoder=Faulty())
    exporter.export_spans(make_spans(10))
    exporter.export_spans(make_spans(4, first=1000))
    exporter.close(10)
    assert account(counters) == {
        "spans.exported": 9,
        "spans.dropped.too_large": 1,
        "spans.dropped.export_failed": 4,
    }
    assert "4 spans could not be encoded" in caplog.text


def test_offering_from_many_threads_is_exact(collector: Collector) -> None:
    counters = Counters()
    batch = BatchOptions(max_queue_spans=300, max_batch_spans=100, delay_s=0.0)
    exporter = exporter_to(options_for(collector.http_url), counters, batch)

    def offer(thread: int) -> None:
        for i in range(50):
            exporter.export_spans(make_spans(7, first=1 + thread * 1000 + i * 7))

    threads = [threading.Thread(target=offer, args=(t,)) for t in range(4)]
    for thread in threads:
        thread.start()
    exporter.close(0.05)  # in the middle of it
    for thread in threads:
        thread.join()
    exporter.close(0)
    totals = account(counters)
    assert sum(totals.values()) == 4 * 50 * 7
    assert "spans.in_flight" not in totals
    assert collector.span_count >= totals.get("spans.exported", 0)


def test_wrong_path_is_said(collector: Collector, caplog: pytest.LogCaptureFixture) -> None:
    from exporters.otlp import otlp_options

    options = otlp_options("traces", {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": collector.http_url})
    assert export(options) == {"spans.dropped.export_failed": 10}
    assert "HTTP 404 Not Found" in caplog.text


@pytest.mark.parametrize(
    ("url", "protocol", "said"),
    [
        ("grpc_url", "http/protobuf", "its answer is not HTTP; is it a gRPC port? Then --otlp-protocol grpc"),
        ("http_url", "grpc", "is it an HTTP port? Then --otlp-protocol http/protobuf"),
        ("tls", "http/protobuf", "its answer is not TLS; does it want http:// in place of https://?"),
    ],
)
def test_the_wrong_protocol_is_said_with_the_remedy(collector: Collector, url: str, protocol: str, said: str) -> None:
    from exporters.otlp_transport import open_transport

    address = collector.http_url.replace("http:", "https:") if url == "tls" else getattr(collector, url)
    transport = open_transport(options_for(address, "traces", protocol))
    reply = transport.send(transport.prepare(b""), 10)
    transport.close()
    assert reply.verdict == "retry"
    assert reply.message.endswith(said)
    assert reply.message.isprintable()


def test_an_answer_before_the_body_was_read_counts() -> None:
    """A receiver that refuses a large body need not read it; what it says is final, not a lost connection."""
    from exporters.otlp_transport import open_transport

    answer = b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"

    def refuse(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection:
            connection.sendall(answer)
            connection.shutdown(socket.SHUT_WR)
            connection.recv(10_000)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=refuse, args=(listener,))
        thread.start()
        transport = open_transport(options_for(f"http://127.0.0.1:{listener.getsockname()[1]}"))
        reply = transport.send(transport.prepare(bytes(30_000_000)), 10)
        transport.close()
        thread.join()
    assert (reply.verdict, reply.message) == ("refused", "HTTP 413 Too Large")


def test_relay_of_gzip_is_what_was_encoded(collector: Collector) -> None:
    """The body is compressed once, and reads back bit for bit."""
    from exporters.otlp_http import HttpTransport

    transport = HttpTransport(options_for(collector.http_url, COMPRESSION="gzip"))
    body = ProtoEncoder().encode(make_spans(100))[0][0]
    assert gzip.decompress(transport.prepare(body)) == body
    assert transport.send(transport.prepare(body), 5).verdict == "delivered"
    transport.close()
    assert collector.received[TRACES].bodies == [body]
    assert collector.received[METRICS].attempts == 0


def test_own_encoder(collector: Collector) -> None:
    """With the encoder that is used when none is given: columns in, the same spans out, several requests."""
    counters = Counters()
    options = options_for(collector.http_url)
    exporter = OtlpSpanExporter(options, counters, batch=BatchOptions(delay_s=0.0, max_batch_spans=4000))
    exporter.export_spans(make_spans(10_000, ("a", "b")))
    exporter.close(20)
    assert account(counters) == {"spans.exported": 10_000}
    assert counters.value("spans.exported", service="b") == 5000
    assert sorted(int.from_bytes(s.span_id, "big") for s in collector.spans()) == list(range(1, 10_001))
    scopes = [s for r in collector.trace_requests() for rs in r.resource_spans for s in rs.scope_spans]
    assert {s.scope.name for s in scopes} == {"stingless"}
    assert len(collector.trace_requests()) == 3


def test_the_collector_counts_what_it_would_decode(collector: Collector) -> None:
    body = ProtoEncoder().encode(make_spans(3000, ("a", "b", "c")))[0][0]
    assert count_spans(body) == 3000
    assert count_spans(b"") == 0
    assert count_spans(body + body) == 6000


@pytest.mark.parametrize(
    ("protocol", "needed", "unneeded"),
    [("", set(), {"grpc", "requests", "urllib3", "google.protobuf", "pydantic"}), ("grpc", {"grpc"}, {"urllib3"}),
     ("http/protobuf", {"http.client"}, {"grpc", "requests", "urllib3"})],
)  # fmt: skip
def test_only_what_is_used_is_imported(
    collector: Collector, protocol: str, needed: set[str], unneeded: set[str]
) -> None:
    """Memory: the agent has 80 MB, and grpc alone takes 20."""
    program = f"""
import sys
import exporters.console
from exporters.otlp import OtlpSpanExporter, otlp_options
from instrumenter.telemetry import Counters
from otlp_parts import make_spans
if {protocol!r}:
    options = otlp_options("traces", {{"OTEL_EXPORTER_OTLP_PROTOCOL": {protocol!r}}}, {collector.url(protocol)!r})
    exporter = OtlpSpanExporter(options, Counters())
    exporter.export_spans(make_spans(3))
    exporter.close(10)
print(*sys.modules)
"""
    paths = [str(Path(__file__).parent), str(Path(__file__).parent.parent)]
    environ = {"PYTHONPATH": ":".join(paths), "PATH": ""}
    ran = subprocess.run([sys.executable, "-c", program], env=environ, capture_output=True, text=True, check=True)
    modules = set(ran.stdout.split())
    assert needed <= modules
    assert not modules & unneeded
    assert collector.span_count == (3 if protocol else 0)
