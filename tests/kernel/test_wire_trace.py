# SPDX-License-Identifier: Apache-2.0
"""What an exchange carries besides its messages: the caller's trace context (W3C Trace Context) and its times."""

from __future__ import annotations

import pytest

from kernel.harness import Wire
from kernel.http1 import answer, head, response_head
from kernel.seen import Row

pytestmark = pytest.mark.kernel

TRACE_ID, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
VALID = f"00-{TRACE_ID}-{PARENT}-01"
OK = answer(200, b"ok")
HONOURED = [
    ("traceparent", VALID, "01"),
    ("Traceparent", VALID, "01"),
    ("TRACEPARENT", VALID, "01"),
    ("traceparent", f" \t{VALID} \t", "01"),
    ("traceparent", f"00-{TRACE_ID}-{PARENT}-03", "03"),
    ("traceparent", f"cc-{TRACE_ID}-{PARENT}-01", "01"),
    ("traceparent", f"cc-{TRACE_ID}-{PARENT}-01-what-the-future-will-be-like", "01"),
]
IGNORED = [
    "",
    "garbage",
    VALID[:-1],
    VALID + "-",
    VALID + "0",
    f"ff-{TRACE_ID}-{PARENT}-01",
    f"00-{'0' * 32}-{PARENT}-01",
    f"00-{TRACE_ID}-{'0' * 16}-01",
    f"00-{TRACE_ID.upper()}-{PARENT}-01",
    f"00-{TRACE_ID}-{PARENT.upper()}-01",
    f"00-{TRACE_ID[:-1]}g-{PARENT}-01",
    f"00-{TRACE_ID}-{PARENT}-0x",
    f"00_{TRACE_ID}_{PARENT}_01",
    f"cc-{TRACE_ID}-{PARENT}-01.what",
    f"cc-{TRACE_ID}-{PARENT}-010",
]


@pytest.mark.parametrize(("name", "value", "flags"), HONOURED)
def test_a_traceparent_is_honoured(wire: Wire, name: str, value: str, flags: str) -> None:
    request = head("GET", "/", f"{name}:{value}", "tracestate: a=1,b=2")
    wire.run(wire.talk().client(request).server(OK).close())
    wire.check([Row("GET", "/", 200, 0, 2, trace=f"{TRACE_ID}-{PARENT}-{flags}", tracestate="a=1,b=2")])


@pytest.mark.parametrize("value", IGNORED)
def test_an_invalid_traceparent_is_as_none(wire: Wire, value: str) -> None:
    """And so is the tracestate with it; the trace begins with the client's exchange."""
    request = head("GET", "/", f"traceparent: {value}", "tracestate: a=1")
    wire.run(wire.talk().client(request).server(OK).close())
    server, client = sorted(wire.check([Row("GET", "/", 200, 0, 2)]), key=lambda each: each.direction)
    assert client.x["parent_id"].tobytes() == bytes(8)
    assert server.x["parent_id"].tobytes() == client.x["span_id"].tobytes()
    assert server.x["trace_id"].tobytes() == client.x["trace_id"].tobytes() != bytes(16)
    assert len({each.x["span_id"].tobytes() for each in (server, client)} - {bytes(8)}) == 2


def test_tracestate_before_traceparent_and_without(wire: Wire) -> None:
    talk = wire.talk().client(head("GET", "/", "Tracestate: x=y", f"traceparent: {VALID}")).server(OK)
    wire.run(talk.client(head("GET", "/", "tracestate: x=y")).server(OK).close())
    wire.check(
        [Row("GET", "/", 200, 0, 2, trace=f"{TRACE_ID}-{PARENT}-01", tracestate="x=y"), Row("GET", "/", 200, 0, 2)]
    )


def test_the_callers_sampled_flag_decides(wire: Wire) -> None:
    """Unsampled: counted, and up only as the first of its metric key, which teaches the labels, on each CPU."""
    unsampled = head("GET", "/u", f"traceparent: 00-{TRACE_ID}-{PARENT}-00")
    talk = wire.talk()
    for _ in range(20):
        talk.client(unsampled).server(OK)
    wire.run(talk.client(head("GET", "/s", f"traceparent: {VALID}")).server(OK).close())
    found = wire.collect()  # compares the counts with what came up and what was sampled out
    assert [each.row.target for each in found if each.sampled] == ["/s", "/s"]
    assert 2 <= len([each for each in found if each.row.target == "/u"]) <= 2 * wire.program._lib.cpus
    assert all(each.first for each in found if each.row.target == "/u")
    assert wire.losses() == {}


def test_times(wire: Wire) -> None:
    """Stamps between the steps: start is the request's first byte, first the response's, end its last."""
    response = response_head(200, "Content-Length: 6") + b"abc"
    talk = wire.talk().op("now").client(head("POST", "/", "Content-Length: 2")[:20]).op("now")
    talk.client(head("POST", "/", "Content-Length: 2")[20:]).op("now").client(b"ab").op("now")
    talk.server(response_head(100)).op("now").server(response[:12]).op("now").server(response[12:]).op("now")
    wire.run(talk.server(b"def").op("now").close())
    t = [result for result in wire.results[0] if isinstance(result, int)]
    for each in wire.check([Row("POST", "/", 200, 2, 6)]):
        assert t[0] < each.start_ns < t[1]
        assert t[4] < each.first_ns < t[5]
        assert t[6] < each.end_ns < t[7]


def test_times_of_pipelined_requests(wire: Wire) -> None:
    talk = wire.talk().op("now").client(head(target="/1") + head(target="/2")[:5]).op("now")
    talk.client(head(target="/2")[5:]).op("now").server(OK).op("now").server(OK).op("now")
    wire.run(talk.close())
    t = [result for result in wire.results[0] if isinstance(result, int)]
    for each in wire.check([Row("GET", "/1", 200, 0, 2), Row("GET", "/2", 200, 0, 2)]):
        assert t[0] < each.start_ns < t[1]
        i = 2 if each.row.target == "/1" else 3
        assert t[i] < each.first_ns <= each.end_ns < t[i + 1]


def test_the_end_of_a_response_that_is_cut_off(wire: Wire) -> None:
    """It is the end of the connection."""
    talk = wire.talk().client(head()).op("now").op("close", "s").op("now").op("end", "c").op("close", "c").op("now")
    wire.run(talk)
    t = [result for result in wire.results[0] if isinstance(result, int)]
    server, client = sorted(wire.collect(), key=lambda s: s.direction)
    assert t[0] < server.end_ns < t[1]
    assert t[0] < client.end_ns < t[2]
    assert server.first_ns == client.first_ns == 0
