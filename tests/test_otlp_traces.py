# SPDX-License-Identifier: Apache-2.0
"""The span exporter and a real receiver on loopback: what arrives, what is retried, and that every span is counted."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Any

import pytest
from collector import TRACES, Answer, Collector, Tls
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
