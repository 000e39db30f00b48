# SPDX-License-Identifier: Apache-2.0
"""Exchanges to whole spans, by table: one differs from the next by what the row says."""

from __future__ import annotations

from typing import Any

import numpy as np
import otlp_spans
import pytest
from exchanges import START, FixedRegistry, exchange, mix, together

from exporters.encode import SpanEncoder
from instrumenter.bpf.abi import TEXT_LONG, TEXT_SHORT, Direction, Flag, Outcome, Protocol
from instrumenter.names import NameOptions, Namer
from instrumenter.records import Exchanges
from instrumenter.telemetry import Counters

OFFSET = 1_700_000_000_000_000_000
SERVER, CLIENT = Direction.SERVER, Direction.CLIENT
ERROR = 2


def named(batch: Exchanges, **options: Any) -> tuple[list[dict[str, Any]], Counters]:
    """The spans of a batch as opentelemetry-proto reads them, and what was counted."""
    counters = Counters()
    spans = Namer(FixedRegistry(), counters, NameOptions(**options)).spans(batch, OFFSET)
    return [span for _, span in otlp_spans.spans(SpanEncoder().encode(spans))], counters


SERVER_SPAN: dict[str, Any] = {
    "name": "GET /users/*",
    "kind": 2,
    "start_ns": OFFSET + START,
    "end_ns": OFFSET + START + 2_000_000,
    "trace_id": bytes(range(1, 17)),
    "span_id": bytes(range(1, 9)),
    "flags": 0x101,
    "attributes": {
        "http.request.method": "GET",
        "http.route": "/users/*",
        "http.response.status_code": 200,
        "http.request.body.size": 0,
        "http.response.body.size": 512,
        "url.scheme": "http",
        "url.path": "/users/12345",
        "server.address": "shop.example",
        "server.port": 8080,
        "client.address": "192.0.2.7",
        "client.port": 51234,
        "network.peer.address": "192.0.2.7",
        "network.peer.port": 51234,
        "network.local.address": "10.0.0.2",
        "network.local.port": 8080,
        "network.protocol.version": "1.1",
        "user_agent.original": "curl/8.5.0",
        "stingless.ttfb_ns": 1_000_000,
    },
}
CLIENT_SPAN: dict[str, Any] = {
    **{k: v for k, v in SERVER_SPAN.items() if k not in ("kind", "attributes")},
    "kind": 3,
    "attributes": {
        "http.request.method": "GET",
        "http.response.status_code": 200,
        "http.request.body.size": 0,
        "http.response.body.size": 512,
        "url.scheme": "http",
        "url.full": "http://shop.example:8080/users/12345",
        "url.template": "/users/*",
        "server.address": "shop.example",
        "server.port": 8080,
        "network.peer.address": "192.0.2.7",
        "network.peer.port": 51234,
        "network.local.address": "10.0.0.2",
        "network.local.port": 8080,
        "network.protocol.version": "1.1",
        "stingless.ttfb_ns": 1_000_000,
    },
}
NO_RESPONSE = {"status": 0, "first_ns": None, "response_bytes": 0}
GONE = ("http.response.status_code", "http.response.body.size", "stingless.ttfb_ns")  # without a response

# (what the exchange is, what of the span is new, attributes that are new, attributes that are gone)
CASES: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any], tuple[str, ...]]] = {
    "plain": ({}, {}, {}, ()),
    "query": (
        {"target": b"/users/1?page=2&sort=up"}, {},
        {"url.path": "/users/1", "url.query": "page=2&sort=up"}, (),
    ),
    "empty query": ({"target": b"/users/1?"}, {}, {"url.path": "/users/1", "url.query": ""}, ()),
    "fragment": ({"target": b"/users/1#top?x"}, {}, {"url.path": "/users/1"}, ()),
    "secret in the query": (
        {"target": b"/users/1?a=b&sig=S3CRET&Token=T&c"}, {},
        {"url.path": "/users/1", "url.query": "a=b&sig=REDACTED&Token=REDACTED&c"}, (),
    ),
    "secret behind a percent-encoded key": (
        {"target": b"/users/1?p%61ssword=S3CRET"}, {},
        {"url.path": "/users/1", "url.query": "p%61ssword=REDACTED"}, (),
    ),
    "no secret": (
        {"target": b"/users/1?design=a&mytoken=b&sig"}, {},
        {"url.path": "/users/1", "url.query": "design=a&mytoken=b&sig"}, (),
    ),
    "absolute-form": (
        {"target": b"http://user:pw@api.example:81/users/1?x=1", "host": b"proxy"}, {},
        {"url.path": "/users/1", "url.query": "x=1", "server.address": "api.example", "server.port": 81}, (),
    ),
    "asterisk-form": (
        {"target": b"*", "method": b"OPTIONS"}, {"name": "OPTIONS *"},
        {"http.request.method": "OPTIONS", "url.path": "*", "http.route": "*"}, (),
    ),
    "authority-form": (
        {"target": b"db.example:443", "method": b"CONNECT", "host": b"db.example:443"}, {"name": "CONNECT *"},
        {"http.request.method": "CONNECT", "http.route": "*", "server.address": "db.example", "server.port": 443},
        ("url.path",),
    ),
    "other method": (
        {"method": b"PURGE"}, {"name": "HTTP /users/*"},
        {"http.request.method": "_OTHER", "http.request.method_original": "PURGE"}, (),
    ),
    "method in lower case": (
        {"method": b"get"}, {"name": "HTTP /users/*"},
        {"http.request.method": "_OTHER", "http.request.method_original": "get"}, (),
    ),
    "404": ({"status": 404}, {}, {"http.response.status_code": 404}, ()),
    "500": ({"status": 500}, {"status": ERROR}, {"http.response.status_code": 500, "error.type": "500"}, ()),
    "redirect": ({"status": 302}, {}, {"http.response.status_code": 302}, ()),
    "HTTP/1.0 without Host": (
        {"protocol": Protocol.HTTP_1_0, "host": b""}, {},
        {"network.protocol.version": "1.0", "server.address": "10.0.0.2", "server.port": 8080}, (),
    ),
    "unknown version": ({"protocol": Protocol.UNKNOWN}, {}, {}, ("network.protocol.version",)),
    "host without port": ({"host": b"shop.example"}, {}, {"server.port": 80}, ()),
    "host without port, TLS": (
        {"host": b"shop.example", "tls": 1}, {}, {"server.port": 443, "url.scheme": "https"}, (),
    ),
    "host is IPv6": ({"host": b"[2001:db8::1]:81"}, {}, {"server.address": "2001:db8::1", "server.port": 81}, ()),
    "host of nothing but a port": ({"host": b":81"}, {}, {"server.address": "10.0.0.2", "server.port": 81}, ()),
    "host with a bad port": ({"host": b"h:99999"}, {}, {"server.address": "h", "server.port": 80}, ()),
    "IPv6 peer": (
        {"remote": ("2001:db8::2", 4000), "local": ("::1", 8080)}, {},
        {"client.address": "2001:db8::2", "client.port": 4000, "network.peer.address": "2001:db8::2",
         "network.peer.port": 4000, "network.local.address": "::1"}, (),
    ),
    "no user agent": ({"agent": b""}, {}, {}, ("user_agent.original",)),
    "bytes that are no UTF-8": (
        {"target": b"/users/1\xff/\x00", "agent": b"a\xe4\tb\x7f", "host": b"h\xff:1"},
        {"name": "GET /users/1%FF/%00"},
        {"url.path": "/users/1%FF/%00", "http.route": "/users/1%FF/%00", "user_agent.original": "a%E4%09b%7F",
         "server.address": "h%FF", "server.port": 1}, (),
    ),
    "bodies": (
        {"request_bytes": 300, "response_bytes": 1 << 40}, {},
        {"http.request.body.size": 300, "http.response.body.size": 1 << 40}, (),
    ),
    "sizes beyond int64": (
        {"request_bytes": (1 << 64) - 1}, {}, {"http.request.body.size": (1 << 63) - 1}, (),
    ),
    "target cut": ({"flags": Flag.SAMPLED | Flag.TARGET_CUT}, {}, {"stingless.target.truncated": True}, ()),
    "folded": ({"flags": Flag.SAMPLED | Flag.FOLDED, "route": 0}, {"name": "GET"}, {}, ("http.route",)),
    "ended before it began": (
        {"duration_ns": -5, "first_ns": -5}, {"end_ns": OFFSET + START}, {}, ("stingless.ttfb_ns",),
    ),
    "parent": (
        {"parent_id": b"\1" * 8, "flags": Flag.SAMPLED | Flag.TRACEPARENT, "state": b"a=1,b=2"},
        {"parent_id": b"\1" * 8, "trace_state": "a=1,b=2", "flags": 0x301}, {}, (),
    ),
    "tracestate that is not ASCII": (
        {"parent_id": b"\1" * 8, "flags": Flag.SAMPLED | Flag.TRACEPARENT, "state": b"a=\xff"},
        {"parent_id": b"\1" * 8, "flags": 0x301}, {}, (),
    ),
    "tracestate without traceparent": ({"state": b"a=1"}, {}, {}, ()),
    "client gone, no response": (
        {"outcome": Outcome.PEER_CLOSED, **NO_RESPONSE}, {"status": ERROR},
        {"error.type": "peer_closed", "stingless.outcome": "peer_closed"}, GONE,
    ),
    "reset, no response": (
        {"outcome": Outcome.RESET, **NO_RESPONSE}, {"status": ERROR},
        {"error.type": "connection_reset", "stingless.outcome": "connection_reset"}, GONE,
    ),
    "closed here, no response": (
        {"outcome": Outcome.LOCAL_CLOSED, **NO_RESPONSE}, {"status": ERROR},
        {"error.type": "connection_closed", "stingless.outcome": "connection_closed"}, GONE,
    ),
    "unreadable": (
        {"outcome": Outcome.UNREADABLE, "status": 0}, {"status": ERROR},
        {"error.type": "unreadable_response", "stingless.outcome": "unreadable_response"},
        ("http.response.status_code",),
    ),
    "reset in the response's body": (
        {"outcome": Outcome.RESET}, {"status": ERROR},
        {"error.type": "connection_reset", "stingless.outcome": "connection_reset"}, (),
    ),
    "reset in a 404's body": (
        {"outcome": Outcome.RESET, "status": 404}, {},
        {"http.response.status_code": 404, "stingless.outcome": "connection_reset"}, (),
    ),
    "reset in a 503's body": (
        {"outcome": Outcome.RESET, "status": 503}, {"status": ERROR},
        {"http.response.status_code": 503, "error.type": "503", "stingless.outcome": "connection_reset"}, (),
    ),
    "long target": (
        {"target": b"/users/" + b"x" * 1500}, {}, {"url.path": "/users/" + "x" * 1500}, (),
    ),
}  # fmt: skip

CLIENT_CASES: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any], tuple[str, ...]]] = {
    "plain": ({}, {}, {}, ()),
    "query with a secret": (
        {"target": b"/users/1?x=1&X-Amz-Signature=S"}, {},
        {"url.full": "http://shop.example:8080/users/1?x=1&X-Amz-Signature=REDACTED"}, (),
    ),
    "TLS": (
        {"tls": 1, "host": b"shop.example"}, {},
        {"url.scheme": "https", "url.full": "https://shop.example/users/12345", "server.port": 443}, (),
    ),
    "no Host": (
        {"host": b""}, {},
        {"url.full": "http://192.0.2.7:51234/users/12345", "server.address": "192.0.2.7", "server.port": 51234}, (),
    ),
    "no Host, IPv6": (
        {"host": b"", "remote": ("2001:db8::2", 80)}, {},
        {"url.full": "http://[2001:db8::2]:80/users/12345", "server.address": "2001:db8::2", "server.port": 80,
         "network.peer.address": "2001:db8::2", "network.peer.port": 80}, (),
    ),
    "through a proxy": (
        {"target": b"http://user:pw@api.example/users/1", "host": b"api.example"}, {},
        {"url.full": "http://REDACTED:REDACTED@api.example/users/1", "server.address": "api.example",
         "server.port": 80}, (),
    ),
    "through a proxy, no path": (
        {"target": b"http://api.example?x", "host": b"api.example"}, {"name": "GET /"},
        {"url.full": "http://api.example/?x", "url.template": "/", "server.address": "api.example",
         "server.port": 80}, (),
    ),
    "credentials in Host": (
        {"host": b"user@shop.example"}, {}, {"url.full": "http://REDACTED@shop.example/users/12345", "server.port": 80},
        (),
    ),
    "tunnel": (
        {"target": b"db.example:443", "method": b"CONNECT", "host": b"db.example:443"}, {"name": "CONNECT *"},
        {"http.request.method": "CONNECT", "url.template": "*", "url.full": "http://db.example:443",
         "server.address": "db.example", "server.port": 443}, (),
    ),
    "options of the server": (
        {"target": b"*", "method": b"OPTIONS"}, {"name": "OPTIONS *"},
        {"http.request.method": "OPTIONS", "url.template": "*", "url.full": "http://shop.example:8080"}, (),
    ),
    "404": (
        {"status": 404}, {"status": ERROR}, {"http.response.status_code": 404, "error.type": "404"}, (),
    ),
    "server hung up": (
        {"outcome": Outcome.PEER_CLOSED, **NO_RESPONSE}, {"status": ERROR},
        {"error.type": "peer_closed", "stingless.outcome": "peer_closed"}, GONE,
    ),
    "own context sent": (
        {"parent_id": b"\1" * 8, "flags": Flag.SAMPLED | Flag.TRACEPARENT}, {"parent_id": b"\1" * 8}, {}, (),
    ),
    "long target": (
        {"target": b"/users/" + b"x" * 1500}, {}, {"url.full": "http://shop.example:8080/users/" + "x" * 1500}, (),
    ),
}  # fmt: skip


def expected(
    plain: dict[str, Any], case: tuple[Any, dict[str, Any], dict[str, Any], tuple[str, ...]]
) -> dict[str, Any]:
    _, new, attributes, gone = case
    kept = {k: v for k, v in plain["attributes"].items() if k not in gone}
    return {**plain, **new, "attributes": {**kept, **attributes}}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_server_span(case: tuple[Any, ...]) -> None:
    assert named(exchange(**case[0]))[0] == [expected(SERVER_SPAN, case)]


@pytest.mark.parametrize("case", CLIENT_CASES.values(), ids=CLIENT_CASES)
def test_client_span(case: tuple[Any, ...]) -> None:
    assert named(exchange(direction=CLIENT, **case[0]))[0] == [expected(CLIENT_SPAN, case)]


@pytest.mark.parametrize("size", [TEXT_SHORT, TEXT_LONG])
def test_rows_of_a_batch_do_not_mix(size: int) -> None:
    """All short cases of both sides in one batch give what each gives alone."""
    cases = [(exchange(text_size=size, direction=d, svc=1, **c[0]), expected(p, c))
             for d, p, table in ((SERVER, SERVER_SPAN, CASES), (CLIENT, CLIENT_SPAN, CLIENT_CASES))
             for name, c in table.items() if name != "long target"]  # fmt: skip
    for number, (batch, span) in enumerate(cases):
        batch.x["span_id"][0, 7] = number
        span["span_id"] = batch.x["span_id"][0].tobytes()
        if span["name"] == "GET /users/1%FF/%00":
            batch.x["key"]["route"] += 1
    found = named(together([batch for batch, _ in cases]))[0]
    assert sorted(found, key=lambda s: s["span_id"]) == [span for _, span in cases]


def test_texts_lie_where_the_offsets_say() -> None:
    batch = exchange(host=b"", agent=b"")
    r = batch.x[0]
    begin = int(r["text_len"])
    batch.text[0, begin : begin + 12] = np.frombuffer(b"a=1curl/xh:1", np.uint8)
    r["state_off"], r["state_len"], r["agent_off"], r["agent_len"] = begin, 3, begin + 3, 6
    r["host_off"], r["host_len"], r["text_len"] = begin + 9, 3, begin + 12
    r["flags"] |= Flag.TRACEPARENT
    span = named(batch)[0][0]
    assert span["trace_state"] == "a=1"
    assert span["attributes"]["user_agent.original"] == "curl/x"
    assert (span["attributes"]["server.address"], span["attributes"]["server.port"]) == ("h", 1)


@pytest.mark.parametrize(
    "field", ["target_len", "host_len", "agent_len", "host_off", "agent_off", "text_len", "state_off"]
)
def test_lengths_beyond_the_text_leave_the_texts_out(field: str) -> None:
    batch = exchange(state=b"a=1", flags=Flag.SAMPLED | Flag.TRACEPARENT)
    batch.x[field] = np.iinfo(batch.x.dtype[field]).max
    (span,), _ = named(batch)
    assert span["name"] == "GET"
    assert "url.path" not in span["attributes"]
    assert span["attributes"]["server.address"] == "10.0.0.2"


# (what the exchange is, the counter, the options)
DROPPED: dict[str, tuple[dict[str, Any], str, dict[str, Any]]] = {
    "unselected": ({"svc": 99}, "spans.dropped.unselected", {}),
    "no trace id": ({"trace_id": bytes(16)}, "spans.dropped.unnamed", {}),
    "no span id": ({"span_id": bytes(8)}, "spans.dropped.unnamed", {}),
    "no direction": ({"direction": Direction.UNKNOWN}, "spans.dropped.unnamed", {}),
    "only taught": ({"flags": Flag.FIRST}, "exchanges.taught", {}),
    "only taught, fast": ({"flags": Flag.FIRST, "duration_ns": 9}, "exchanges.taught", {"slow_ns": 10}),
    "only taught, fine": ({"flags": Flag.FIRST, "status": 404}, "exchanges.taught", {"keep_errors": True}),
}
KEPT: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "first and sampled": ({"flags": Flag.FIRST | Flag.SAMPLED}, {}),
    "neither: kept by the kernel": ({"flags": Flag(0)}, {}),
    "slow": ({"flags": Flag.FIRST, "duration_ns": 10}, {"slow_ns": 10}),
    "failed": ({"flags": Flag.FIRST, "status": 500}, {"keep_errors": True}),
    "failed client": ({"flags": Flag.FIRST, "status": 400, "direction": CLIENT}, {"keep_errors": True}),
    "broken": ({"flags": Flag.FIRST, "outcome": Outcome.RESET}, {"keep_errors": True}),
}


@pytest.mark.parametrize("case", DROPPED.values(), ids=DROPPED)
def test_dropped_and_counted(case: tuple[dict[str, Any], str, dict[str, Any]]) -> None:
    what, counter, options = case
    what = {"svc": 1, **what}
    batch = together([exchange(), exchange(**what), exchange(), exchange(**what)])
    spans, counters = named(batch, **options)
    assert spans == [SERVER_SPAN, SERVER_SPAN]
    assert counters.value(counter, what["svc"]) == 2
    assert counters.value("spans.created", 1) == 2
    assert sum(n for _, n in counters.items()) == 4


@pytest.mark.parametrize("case", KEPT.values(), ids=KEPT)
def test_kept(case: tuple[dict[str, Any], dict[str, Any]]) -> None:
    what, options = case
    assert len(named(exchange(**what), **options)[0]) == 1


def test_nothing_gives_nothing() -> None:
    batch = exchange()
    spans = Namer(FixedRegistry(), Counters()).spans(Exchanges(batch.x[:0], batch.text[:0]), 0)
    assert len(spans) == 0
    assert SpanEncoder().encode(spans) == []
    assert named(exchange(svc=99))[0] == []


def test_invalid_tracestate_is_counted() -> None:
    batch = exchange(state=b"\xff", flags=Flag.SAMPLED | Flag.TRACEPARENT)
    assert named(batch)[1].value("spans.tracestate_invalid", 1) == 1


def test_no_redaction_if_no_parameter_is_sensitive() -> None:
    span = named(exchange(target=b"/x?sig=1&p%61ss=2"), sensitive=frozenset())[0][0]
    assert span["attributes"]["url.query"] == "sig=1&p%61ss=2"


def test_own_methods() -> None:
    batch = exchange(method=b"PURGE")
    batch.x["key"]["method"] = 2
    assert named(batch, methods=("GET", "PURGE"))[0][0]["name"] == "PURGE /users/*"


def test_what_is_remembered_stays_bounded_and_right() -> None:
    batch = mix(600, diverse=True)
    small = Namer(FixedRegistry(), Counters(), NameOptions(max_cached=7))
    large = Namer(FixedRegistry(), Counters())
    for _ in range(2):
        a, b = (otlp_spans.spans(SpanEncoder().encode(n.spans(batch, OFFSET))) for n in (small, large))
        assert a == b
    held = (small._shapes, small._routes._known, small._hosts._known, small._addresses._known)
    assert max(len(cache) for cache in held) <= 7


def test_hostile_bytes_never_break_a_span() -> None:
    rng = np.random.default_rng(7)
    batch = together([exchange(target=rng.bytes(40), host=rng.bytes(20), agent=rng.bytes(30), state=rng.bytes(10),
                               flags=Flag.SAMPLED | Flag.TRACEPARENT, direction=Direction(1 + i % 2))
                      for i in range(500)])  # fmt: skip
    spans, _ = named(batch)
    assert len(spans) == 500
    texts = [v for s in spans for v in s["attributes"].values() if isinstance(v, str)]
    assert all(t.isascii() and t.isprintable() for t in texts)


def test_random_headers_of_records_never_break_a_batch() -> None:
    rng = np.random.default_rng(8)
    batch = mix(300)
    raw = batch.x.view(np.uint8).reshape(300, -1)
    for _ in range(30):
        raw[rng.integers(300, size=40), rng.integers(raw.shape[1], size=40)] = rng.integers(256, size=40)
        found, counters = named(batch)
        assert (
            len(found)
            + counters.value("spans.dropped.unnamed")
            + counters.value("spans.dropped.unselected")
            + (counters.value("exchanges.taught"))
            == 300
        )
