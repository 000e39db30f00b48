# SPDX-License-Identifier: Apache-2.0
"""The span exporter and a real receiver on loopback: what arrives, what is retried, and that every span is counted."""

from __future__ import annotations

import gzip
import logging
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from collector import METRICS, TRACES, Answer, Collector, Tls, count_spans
from otlp_parts import QUICK, ProtoEncoder, account, eventually, free_port, make_certificates, make_spans, options_for

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
@pytest.mark.parametrize("compression", ["none", "gzip"])
def test_spans_and_headers_arrive(collector: Collector, protocol: str, compression: str) -> None:
    settings = {"HEADERS": "Api-Key=a%20b", "COMPRESSION": compression}
    assert export(options_for(collector.url(protocol), "traces", protocol, **settings)) == {"spans.exported": 10}
    assert [s.span_id for s in collector.spans()] == [n.to_bytes(8, "big") for n in range(1, 11)]
    (request,) = collector.trace_requests()
    assert request.resource_spans[0].resource.attributes[0].value.string_value == "shop"
    (headers,) = collector.received[TRACES].headers
    assert headers["api-key"] == "a b"
    assert headers["user-agent"].startswith("stingless/")
    if protocol != "grpc":
        assert headers.get("content-encoding", "none") == compression
        assert headers["content-type"] == "application/x-protobuf"


def test_grpc_compresses(collector: Collector) -> None:
    """gRPC hides its encoding from both ends, so the bytes are looked at in between."""
    from otlp_wire import Relay

    sizes = {}
    for compression in ("none", "gzip"):
        with Relay(int(collector.grpc_url.rsplit(":", 1)[1])) as relay:
            options = options_for(f"http://127.0.0.1:{relay.port}", "traces", "grpc", COMPRESSION=compression)
            assert export(options, 2000) == {"spans.exported": 2000}
        sizes[compression] = relay.sent
    assert sizes["gzip"] < sizes["none"] / 2


@both
@pytest.mark.parametrize("mutual", [False, True])
def test_tls(tmp_path: Path, protocol: str, mutual: bool) -> None:
    pem = make_certificates(tmp_path)
    tls = Tls(pem["server"], pem["server_key"], pem["ca"] if mutual else None)
    client = {"CLIENT_CERTIFICATE": pem["client"], "CLIENT_KEY": pem["client_key"]} if mutual else {}
    with Collector(tls=tls) as collector:
        options = options_for(collector.url(protocol), "traces", protocol, CERTIFICATE=pem["ca"], **client)
        assert export(options) == {"spans.exported": 10}


@both
@pytest.mark.parametrize("missing", ["ca", "client"])
def test_tls_refuses(tmp_path: Path, protocol: str, missing: str) -> None:
    """Without the server's CA, or without a client certificate where one is demanded, nothing is sent."""
    pem = make_certificates(tmp_path)
    ca = {} if missing == "ca" else {"CERTIFICATE": pem["ca"]}
    with Collector(tls=Tls(pem["server"], pem["server_key"], pem["ca"])) as collector:
        options = options_for(collector.url(protocol), "traces", protocol, **ca)
        batch = BatchOptions(delay_s=0.0, export_timeout_s=0.3)
        counters = Counters()
        exporter = exporter_to(options, counters, batch)
        exporter.export_spans(make_spans(10))
        assert eventually(lambda: account(counters) == {"spans.dropped.export_failed": 10})
        exporter.close(5)
        assert collector.received[TRACES].attempts == 0


PASSING = [
    *(("grpc", Answer(code=code)) for code in ("CANCELLED", "DEADLINE_EXCEEDED", "ABORTED", "OUT_OF_RANGE")),
    *(("grpc", Answer(code=code)) for code in ("UNAVAILABLE", "DATA_LOSS")),
    ("grpc", Answer(code="RESOURCE_EXHAUSTED", retry_info_s=0.01)),
    *(("http/protobuf", Answer(status=status)) for status in (429, 502, 503, 504)),
    ("http/protobuf", Answer(status=503, retry_after="0")),
    ("http/protobuf", Answer(status=503, retry_after="nonsense")),
    ("http/protobuf", Answer(status=503, retry_after="Wed, 21 Oct 2015 07:28:00 GMT")),
]


@pytest.mark.parametrize(("protocol", "answer"), PASSING)
def test_what_may_pass_is_retried(collector: Collector, protocol: str, answer: Answer) -> None:
    collector.script(TRACES, answer, answer)
    counters = Counters()
    exporter = exporter_to(options_for(collector.url(protocol), "traces", protocol), counters)
    exporter.export_spans(make_spans(10))
    assert collector.wait_spans(10)
    exporter.close(10)
    assert account(counters) == {"spans.exported": 10}
    assert collector.received[TRACES].attempts == 3
    assert (counters.value("export.requests"), counters.value("export.retries")) == (3, 2)


LASTING = [
    *(("grpc", Answer(code=code)) for code in ("INVALID_ARGUMENT", "UNAUTHENTICATED", "UNIMPLEMENTED", "INTERNAL")),
    *(("grpc", Answer(code=code)) for code in ("PERMISSION_DENIED", "UNKNOWN", "NOT_FOUND", "FAILED_PRECONDITION")),
    ("grpc", Answer(code="RESOURCE_EXHAUSTED")),
    *(("http/protobuf", Answer(status=status)) for status in (301, 400, 401, 403, 404, 413, 500, 501)),
]


@pytest.mark.parametrize(("protocol", "answer"), LASTING)
def test_what_never_passes_is_dropped(
    collector: Collector, protocol: str, answer: Answer, caplog: pytest.LogCaptureFixture
) -> None:
    collector.script(TRACES, answer, answer)
    counters = Counters()
    exporter = exporter_to(options_for(collector.url(protocol), "traces", protocol), counters)
    for first in (1, 11, 21):
        exporter.export_spans(make_spans(10, first=first))
        assert eventually(lambda: not account(counters).get("spans.in_flight"))
    exporter.close(10)
    assert account(counters) == {"spans.dropped.export_failed": 20, "spans.exported": 10}
    assert collector.received[TRACES].attempts == 3
    reason = answer.code if protocol == "grpc" else f"HTTP {answer.status}"
    (line,) = [r.getMessage() for r in caplog.records]
    assert "refused a request, which is dropped" in line
    assert reason in line


@pytest.mark.parametrize(
    ("protocol", "answer"),
    [
        ("grpc", Answer(code="UNAVAILABLE", retry_info_s=0.4)),
        ("grpc", Answer(code="RESOURCE_EXHAUSTED", retry_info_s=0.4)),
        ("http/protobuf", Answer(status=429, retry_after="1")),
        ("http/protobuf", Answer(status=503, retry_after="1")),
    ],
)
def test_throttling_is_obeyed(collector: Collector, protocol: str, answer: Answer) -> None:
    collector.script(TRACES, answer)
    counters = Counters()
    exporter = exporter_to(options_for(collector.url(protocol), "traces", protocol), counters)
    exporter.export_spans(make_spans(10))
    assert collector.wait_attempts(1)
    begin = time.monotonic()
    assert collector.wait_spans(10)
    waited = time.monotonic() - begin
    exporter.close(10)
    assert waited > 0.8 * (answer.retry_info_s or float(answer.retry_after))


@both
def test_partial_success(collector: Collector, protocol: str, caplog: pytest.LogCaptureFixture) -> None:
    collector.script(TRACES, *[Answer(rejected=3, message="too old")] * 2, Answer(message="soon deprecated"))
    counters = Counters()
    exporter = exporter_to(options_for(collector.url(protocol), "traces", protocol), counters)
    for first in (1, 11, 21):
        exporter.export_spans(make_spans(10, ("shop", "bank"), first=first))
        assert collector.wait_spans(first + 9)
    exporter.close(10)
    assert account(counters) == {"spans.exported": 24, "spans.dropped.rejected": 6}
    assert counters.value("export.retries") == 0
    lines = [r.getMessage() for r in caplog.records]
    assert [("rejected 3 items" in x, "too old" in x, "soon deprecated" in x) for x in lines] == [
        (True, True, False),
        (False, False, True),
    ]


def test_more_rejected_than_sent(collector: Collector) -> None:
    collector.script(TRACES, Answer(rejected=1000, message="no"))
    assert export(options_for(collector.http_url)) == {"spans.dropped.rejected": 10}


@both
def test_collector_comes_later_and_restarts(protocol: str, caplog: pytest.LogCaptureFixture) -> None:
    """Down at the start, up, down, up: nothing is lost, and each change is one line."""
    caplog.set_level(logging.INFO)
    grpc_port, http_port = free_port(), free_port()
    url = f"http://127.0.0.1:{grpc_port if protocol == 'grpc' else http_port}"
    counters = Counters()
    exporter = exporter_to(options_for(url, "traces", protocol), counters)
    arrived = 0
    for first in (1, 11):
        exporter.export_spans(make_spans(10, first=first))
        tried = counters.value("export.requests")
        assert eventually(lambda tried=tried: counters.value("export.requests") >= tried + 3)  # type: ignore[misc]
        exporter.export_spans(make_spans(10, first=first + 100))
        with Collector(grpc_port, http_port) as collector:
            assert collector.wait_spans(20, 15)
            assert eventually(lambda: not account(counters).get("spans.in_flight"))
            arrived += collector.span_count
    exporter.close(10)
    assert arrived == 40
    assert account(counters) == {"spans.exported": 40}
    lines = [r.getMessage() for r in caplog.records]
    # The second outage follows the first at once, so it is not announced: a flapping receiver fills no log.
    assert len(lines) == 2, lines
    assert "cannot deliver" in lines[0]
    assert "Connection refused" in lines[0]
    assert "again, after" in lines[1]


@both
def test_dead_collector_is_given_up_and_said_once(protocol: str, caplog: pytest.LogCaptureFixture) -> None:
    batch = BatchOptions(delay_s=0.0, export_timeout_s=0.2)
    counters = Counters()
    exporter = exporter_to(options_for(f"http://127.0.0.1:{free_port()}", "traces", protocol), counters, batch)
    for first in range(1, 51, 10):
        exporter.export_spans(make_spans(10, first=first))
        assert eventually(lambda first=first: account(counters) == {"spans.dropped.export_failed": first + 9})  # type: ignore[misc]
    begin = time.monotonic()
    exporter.export_spans(make_spans(10))
    exporter.close(10)
    assert time.monotonic() - begin < 3  # a receiver that was away before is not waited for
    assert sum(account(counters).values()) == 60
    assert len([r for r in caplog.records if "cannot deliver" in r.getMessage()]) == 1


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


def test_relay_of_gzip_is_what_was_encoded(collector: Collector) -> None:
    """The body is compressed once, and reads back bit for bit."""
    from exporters.otlp_transport import HttpTransport

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
    [("", set(), {"grpc", "requests", "google.protobuf", "pydantic"}), ("grpc", {"grpc"}, {"requests"}),
     ("http/protobuf", {"requests"}, {"grpc"})],
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
