# SPDX-License-Identifier: Apache-2.0
"""Events to exchanges as a table, then the limits, and connections beside each other."""

from __future__ import annotations

from typing import Any

import pytest
from hpack import Encoder

from instrumenter.bpf.abi import Direction, Outcome
from instrumenter.protocols.http2 import Connection, Connections, Counts
from instrumenter.protocols.http2_events import (
    Data,
    Event,
    Gap,
    GoAway,
    Half,
    Headers,
    NotHttp2,
    Promise,
    Reset,
    TableSize,
    Upgrade,
)
from instrumenter.protocols.http2_headers import UNKNOWN
from instrumenter.protocols.http2_streams import Exchange

Q, R = Half.REQUEST, Half.RESPONSE
SERVER, CLIENT = Direction.SERVER, Direction.CLIENT
COMPLETE, RESET, CLOSED, UNREADABLE = Outcome.COMPLETE, Outcome.RESET, Outcome.PEER_CLOSED, Outcome.UNREADABLE


def block(*fields: tuple[str, str]) -> bytes:
    """Of literals and static fields alone."""
    encoder = Encoder()
    encoder.header_table_size = 0
    return encoder.encode(fields)[1:]


def ask(stream: int, path: str = "/", method: str = "GET", end: bool = True, **more: str) -> Headers:
    extra = [(name.replace("_", "-"), value) for name, value in more.items()]
    fields = [(":method", method), (":scheme", "http"), (":authority", "a"), (":path", path), *extra]
    return Headers(stream, block(*fields), end)


def answer(stream: int, status: int = 200, end: bool = False, **more: str) -> Headers:
    extra = [(name.replace("_", "-"), value) for name, value in more.items()]
    return Headers(stream, block((":status", str(status)), *extra), end)


def trailers(stream: int, status: str = "0") -> Headers:
    return Headers(stream, block(("grpc-status", status)), True)


def lost(stream: int, end: bool = False) -> Headers:
    return Headers(stream, b"", end, cut=True)


BODY, END = Data(1, 10, False), Data(1, 5, True)
CALL = ask(1, "/p.S/M", "POST", end=False, content_type="application/grpc")
H2C = b"PUT /up?x=1 HTTP/1.1\r\nHOST: b.example\r\nUpgrade: h2c\r\nUser-Agent:  u \r\nContent-Length: 4\r\n\r\n"

# (what it shows, events: the nth begins at 10n and ends at 10n + 5; fields of each exchange as it finishes)
Case = tuple[str, list[tuple[Half, Event]], list[dict[str, Any]]]
CASES: list[Case] = [
    ("plain", [(Q, ask(1, "/p")), (R, answer(1, 404)), (R, BODY), (R, END)],
     [{"stream": 1, "outcome": COMPLETE, "status": 404, "path": b"/p", "method": b"GET", "scheme": b"http",
       "authority": b"a", "start_ns": 10, "first_ns": 20, "end_ns": 45, "response_bytes": 15, "request_bytes": 0,
       "partial": False, "grpc": False, "user_agent": None, "path_full": 2, "reset_code": None}]),
    ("no body", [(Q, ask(1)), (R, answer(1, 204, True))], [{"status": 204, "first_ns": 20, "end_ns": 25}]),
    ("with body", [(Q, ask(1, end=False)), (Q, BODY), (Q, END), (R, answer(1, 200, True))], [{"request_bytes": 15}]),
    ("request trailers", [(Q, ask(1, end=False)), (Q, BODY), (Q, Headers(1, block(("x", "y")), True)),
     (R, answer(1, 200, True))], [{"request_bytes": 10, "path": b"/", "end_ns": 45}]),
    ("answered before the request ends", [(Q, ask(1, end=False)), (R, answer(1, 413)), (R, END), (Q, BODY), (Q, END)],
     [{"status": 413, "end_ns": 55, "request_bytes": 15, "outcome": COMPLETE}]),
    ("answered, then no more wanted", [(Q, ask(1, end=False)), (R, answer(1, 200, True)), (R, Reset(1, 0)), (Q, BODY)],
     [{"outcome": COMPLETE, "end_ns": 25, "reset_code": 0}]),
    ("interim", [(Q, ask(1)), (R, answer(1, 100)), (R, answer(1, 103, link="l")), (R, answer(1, 200, True))],
     [{"status": 200, "first_ns": 40, "end_ns": 45}]),
    ("reset by the client", [(Q, ask(1)), (R, answer(1)), (R, BODY), (Q, Reset(1, 8)), (R, END)],
     [{"outcome": RESET, "status": 200, "reset_code": 8, "end_ns": 45, "response_bytes": 10}]),
    ("refused", [(Q, ask(1)), (R, Reset(1, 7))], [{"outcome": RESET, "status": None, "first_ns": 0, "reset_code": 7}]),
    ("closed", [(Q, ask(1)), (Q, ask(3, "/3")), (R, answer(3))],
     [{"stream": 1, "outcome": CLOSED, "status": None, "end_ns": 1000},
      {"stream": 3, "outcome": CLOSED, "status": 200, "path": b"/3"}]),
    ("closed while the request was on its way", [(Q, ask(1, end=False)), (R, answer(1, 200, True))],
     [{"outcome": COMPLETE, "end_ns": 25}]),
    ("goaway", [(Q, ask(1)), (Q, ask(3)), (Q, ask(5)), (R, GoAway(2**31 - 1, 0)), (R, GoAway(3, 0)), (Q, ask(7)),
     (R, answer(3, 200, True)), (R, answer(1, 200, True))],
     [{"stream": 5, "outcome": RESET, "reset_code": 7}, {"stream": 7, "outcome": RESET, "start_ns": 60},
      {"stream": 3, "outcome": COMPLETE}, {"stream": 1, "outcome": COMPLETE}]),
    ("a client's goaway", [(Q, ask(1)), (Q, GoAway(0, 0)), (R, answer(1, 200, True))], [{"outcome": COMPLETE}]),
    ("pushed", [(Q, ask(1)), (R, Promise(2, block((":path", "/x")))), (R, answer(2, 200, True)),
     (R, answer(1, 200, True))], [{"stream": 1}]),
    ("interleaved", [(Q, ask(1, "/1")), (Q, ask(3, "/3")), (R, answer(3, 203)), (Q, ask(5, "/5")), (R, answer(1, 201)),
     (R, Data(3, 3, True)), (R, answer(5, 205, True)), (R, Data(1, 1, True))],
     [{"stream": 3, "status": 203, "path": b"/3"}, {"stream": 5, "status": 205, "path": b"/5"},
      {"stream": 1, "status": 201, "path": b"/1"}]),
    ("CONNECT", [(Q, Headers(1, block((":method", "CONNECT"), (":authority", "a:1")), False)), (R, answer(1)),
     (Q, BODY), (R, BODY), (R, END)], [{"method": b"CONNECT", "path": None, "end_ns": 25, "response_bytes": 0}]),
    ("host", [(Q, Headers(1, block((":method", "GET"), (":path", "/"), ("host", "h")), True)),
     (R, answer(1, 200, True))], [{"authority": b"h", "scheme": None}]),
    ("context", [(Q, Headers(1, block((":method", "GET"), (":path", "/"), ("user-agent", "u"), ("traceparent", "00-1"),
     ("tracestate", "a=1"), ("tracestate", "b=2")), True)), (R, answer(1, 200, True))],
     [{"user_agent": b"u", "traceparent": b"00-1", "tracestate": b"a=1,b=2"}]),
    ("long texts", [(Q, ask(1, "/" + "p" * 3000, user_agent="u" * 500, tracestate="s" * 300)),
     (R, answer(1, 200, True))],
     [{"path": b"/" + b"p" * 1471, "path_full": 3001, "user_agent": b"u" * 128, "tracestate": None}]),
    ("gRPC, unary", [(Q, CALL), (Q, Data(1, 9, True, 1)),
     (R, answer(1, content_type="application/grpc")), (R, Data(1, 7, False, 1)), (R, trailers(1))],
     [{"grpc": True, "grpc_status": b"0", "end_ns": 55, "request_messages": 1, "response_messages": 1,
       "response_type": b"application/grpc"}]),
    ("gRPC, streams", [(Q, CALL), (Q, Data(1, 9, False, 2)), (R, answer(1)),
     (R, Data(1, 7, False, 0)), (R, Data(1, 7, False, 3)), (Q, Data(1, 9, False, 1)), (Q, Data(1, 0, True, 0)),
     (R, trailers(1, "14"))], [{"grpc_status": b"14", "request_messages": 3, "response_messages": 3, "end_ns": 85}]),
    ("gRPC, trailers only", [(Q, CALL), (Q, END), (R, answer(1, end=True, grpc_status="12"))],
     [{"grpc_status": b"12", "first_ns": 30, "response_messages": 0, "request_messages": None}]),
    ("gRPC, no status", [(Q, CALL), (Q, END), (R, answer(1, 502, True))],
     [{"grpc": True, "grpc_status": None, "status": 502}]),
    ("h2c", [(Q, Upgrade(H2C, 4)), (R, answer(1, 200, True)), (Q, ask(3)), (R, answer(3, 200, True))],
     [{"stream": 1, "method": b"PUT", "path": b"/up?x=1", "authority": b"b.example", "user_agent": b"u",
       "request_bytes": 4, "start_ns": 10, "scheme": b"http", "end_ns": 25}, {"stream": 3}]),
    ("h2c, told as HTTP/1", [(R, answer(1, 200, True)), (Q, ask(3)), (R, answer(3, 200, True))], [{"stream": 3}]),
    ("not HTTP/2", [(Q, ask(1)), (R, NotHttp2("why")), (R, answer(1)), (Q, ask(3))],
     [{"outcome": UNREADABLE, "end_ns": 25}]),
    ("a request's block lost", [(Q, lost(1, True)), (R, answer(1, 200, True))],
     [{"method": UNKNOWN, "path": UNKNOWN, "status": 200, "grpc": UNKNOWN, "traceparent": UNKNOWN, "start_ns": 10,
       "partial": False}]),
    ("a response's block lost", [(Q, ask(1)), (R, lost(1)), (R, BODY), (R, END)],
     [{"status": UNKNOWN, "path": b"/", "first_ns": 20, "end_ns": 45, "grpc_status": UNKNOWN}]),
    ("interim known, head lost", [(Q, ask(1)), (R, answer(1, 103)), (R, lost(1)), (R, trailers(1, "3"))],
     [{"status": UNKNOWN, "first_ns": 30, "grpc_status": b"3"}]),
    ("interim lost", [(Q, ask(1)), (R, lost(1)), (R, answer(1, 200)), (R, trailers(1, "3"))],
     [{"status": 200, "first_ns": 30, "grpc_status": b"3"}]),
    ("trailers lost", [(Q, CALL), (Q, END), (R, answer(1)), (R, lost(1, True))],
     [{"status": 200, "grpc_status": UNKNOWN, "outcome": COMPLETE}]),
    ("the head in a gap", [(Q, ask(1)), (R, Gap()), (R, END)],
     [{"status": UNKNOWN, "first_ns": 0, "partial": True, "outcome": COMPLETE, "response_bytes": 5}]),
    ("trailers unreadable after a gap", [(Q, ask(1)), (R, Gap()), (R, Headers(1, b"\xbe", True))],
     [{"status": UNKNOWN, "first_ns": 0, "grpc_status": UNKNOWN}]),
    ("the end in a gap", [(Q, ask(1)), (R, answer(1)), (R, Gap()), (Q, ask(3)), (R, answer(3, 200, True))],
     [{"stream": 3, "partial": False, "path": b"/"},
      {"stream": 1, "outcome": UNREADABLE, "status": 200, "grpc_status": UNKNOWN, "partial": True}]),
    ("the request's end in a gap", [(Q, ask(1, end=False)), (R, answer(1, 200, True)), (Q, Gap())],
     [{"outcome": COMPLETE, "end_ns": 25, "partial": True}]),
    ("a gap before the answer", [(Q, ask(1, end=False)), (Q, Gap()), (R, answer(1, 200, True))],
     [{"outcome": COMPLETE, "end_ns": 35, "partial": True}]),
    ("a table smaller and larger", [(R, TableSize(0)), (Q, TableSize(65536)), (Q, ask(1)), (R, answer(1, 200, True))],
     [{"status": 200}]),
]  # fmt: skip


def values(exchange: Exchange, names: dict[str, Any]) -> dict[str, Any]:
    return {name: getattr(exchange if hasattr(exchange, name) else exchange.request, name) for name in names}


@pytest.mark.parametrize("direction", [SERVER, CLIENT])
@pytest.mark.parametrize(("told", "expected"), [c[1:] for c in CASES], ids=[c[0] for c in CASES])
def test_exchanges(told: list[tuple[Half, Event]], expected: list[dict[str, Any]], direction: Direction) -> None:
    connection = Connection(direction)
    found: list[Exchange] = []
    for number, (half, event) in enumerate(told, 1):
        found += connection.handle(half, event, 10 * number, 10 * number + 5)
    found += connection.close(CLOSED, 1000)
    assert [values(x, names) for x, names in zip(found, expected, strict=True)] == expected
    assert {x.direction for x in found} == {direction}
    assert (len(connection), connection.counts.exchanges) == (0, len(expected))


def run(connection: Connection, *told: tuple[Half, Event]) -> list[Exchange]:
    return [x for n, (half, event) in enumerate(told, 1) for x in connection.handle(half, event, n, n)]


def test_joined() -> None:
    """What began before is counted when it ends; a request's trailers are no request; what begins now is exact."""
    connection = Connection(SERVER, joined=True)
    tail = Headers(5, b"\xbe", True)
    assert run(connection, (Q, tail), (R, BODY), (R, END), (R, trailers(5)), (R, answer(2, 200, True))) == []
    assert connection.counts.unanswered == 2
    (found,) = run(connection, (Q, ask(7, "/7")), (R, answer(7, 200, True)))
    assert values(found, {"path": 0, "status": 0, "partial": 0}) == {"path": b"/7", "status": 200, "partial": False}
    (found,) = run(connection, (Q, Headers(9, b"\x82\xff\x49\x86\x84", True)), (R, Headers(9, b"\x88\xff\x49", True)))
    assert values(found, {"path": 0, "status": 0, "traceparent": 0, "authority": 0, "grpc_status": 0}) == {
        "path": b"/", "status": 200, "traceparent": None, "authority": UNKNOWN, "grpc_status": UNKNOWN,
    }  # fmt: skip
    assert connection.counts.nameless == 0


def test_a_pushed_block_moves_the_table() -> None:
    connection = Connection(SERVER)
    fields = [[(":path", "/pushed"), ("grpc-status", "7")], [(":status", "200"), ("grpc-status", "7")]]
    encoder = Encoder()
    pushed, answered = (encoder.encode(each) for each in fields)
    (found,) = run(connection, (Q, ask(1)), (R, Promise(2, pushed)), (R, Headers(1, answered, True)))
    assert (found.grpc_status, connection.counts.undecodable) == (b"7", 0)


def test_settings_reach_the_other_half() -> None:
    """SETTINGS of the client allow the server's encoder a larger table."""
    connection = Connection(SERVER)
    run(connection, (Q, TableSize(1 << 16)))
    for n in range(60):
        fields = ((":status", "200"), (f"x-{n}", "v" * 200))
        run(connection, (Q, ask(2 * n + 1)), (R, Headers(2 * n + 1, block(*fields), True)))
    assert run(connection, (Q, ask(1001)), (R, Headers(1001, b"\x88\xf9", True)))[0].status == 200
    assert connection.counts.undecodable == 0


def test_expire() -> None:
    """Only what may have ended in a gap, and was quiet since."""
    connection = Connection(SERVER)
    run(connection, (Q, ask(1)), (Q, ask(3)), (R, Gap()), (Q, ask(5)), (R, Data(3, 1, False)))
    assert connection.expire(1) == []
    found = connection.expire(5) + connection.expire(6) + connection.expire(100)
    assert [(x.stream, x.outcome, x.end_ns) for x in found] == [(1, UNREADABLE, 1), (3, UNREADABLE, 5)]
    assert len(connection) == 1


def test_streams_are_bounded() -> None:
    """The oldest goes, once; what comes of it later is neither an exchange nor a response without a request."""
    connection = Connection(SERVER, max_streams=10)
    found = [x for n in range(50) for x in connection.handle(Q, ask(2 * n + 1), n, n)]
    assert [(x.stream, x.outcome) for x in found] == [(2 * n + 1, UNREADABLE) for n in range(40)]
    assert (len(connection), connection.counts.streams_evicted) == (10, 40)
    assert run(connection, (R, answer(1, 200, True))) == []
    assert connection.counts.unanswered == 0
    assert len(connection.close(RESET, 60)) == 10


@pytest.mark.parametrize("streams", [1, 2, 10, 100, 1000])
def test_concurrent(streams: int) -> None:
    connection = Connection(CLIENT)
    numbers = [2 * n + 1 for n in range(streams)]
    run(connection, *((Q, ask(n, f"/{n}")) for n in numbers))
    run(connection, *((R, answer(n, 200 + n % 100)) for n in reversed(numbers)))
    found = run(connection, *((R, Data(n, n, True)) for n in numbers))
    assert [(x.request.path, x.status, x.response_bytes) for x in found] == [
        (b"/%d" % n, 200 + n % 100, n) for n in numbers
    ]


def test_connections_are_bounded_and_apart() -> None:
    counts = Counts()
    connections = Connections(counts, max_connections=3)
    for key in range(3):
        assert connections.open(key, SERVER, 0) == []
        connections.handle(key, SERVER, Q, ask(1, f"/{key}"), 1, 1)
    connections.handle(0, SERVER, Q, Gap(), 2, 2)
    evicted = connections.handle("late", SERVER, Q, ask(1, "/late"), 3, 3)
    assert [(x.request.path, x.outcome) for x in evicted] == [(b"/1", UNREADABLE)]
    done = [connections.handle(key, SERVER, R, answer(1, 200, True), 4, 4) for key in (0, 2, "late")]
    assert [[x.request.path for x in found] for found in done] == [[b"/0"], [b"/2"], [b"/late"]]
    connections.handle(2, SERVER, Q, ask(3), 5, 5)
    assert [x.outcome for x in connections.open(2, SERVER, 6)] == [UNREADABLE]
    assert connections.close(2, CLOSED, 7) == connections.close("none", CLOSED, 7) == []
    assert (len(connections), counts.connections_evicted, counts.exchanges, counts.gaps) == (2, 1, 5, 1)
