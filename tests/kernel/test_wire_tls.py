# SPDX-License-Identifier: Apache-2.0
"""Encrypted connections give the same exchanges as plain ones: once, on the connection's own ports, marked as TLS."""

from __future__ import annotations

import pytest

from instrumenter.bpf.abi import Flag, Outcome, Protocol
from kernel.harness import Wire
from kernel.http1 import answer, chunks, head, response_head
from kernel.secure import Way, more, secure
from kernel.seen import Row, Seen
from kernel.test_wire_splits import messages

pytestmark = pytest.mark.kernel


@pytest.fixture
def wire(tls_wire: Wire) -> Wire:
    tls_wire.begin()
    return tls_wire


@pytest.fixture
def way(tls_way: Way) -> Way:
    return tls_way


def check(wire: Wire, rows: list[Row]) -> list[Seen]:
    found = wire.check(rows)
    assert all(each.x["key"]["tls"] == 1 for each in found)
    assert {each.local[1] for each in found} > {wire.ports["ipv4"]}
    return found


def test_one_exchange_each_side(wire: Wire, way: Way) -> None:
    talk = secure(wire, way).client(head("GET", "/a", host="secret")).server(answer(200, b"hello"))
    wire.run(talk.close())
    check(wire, [Row("GET", "/a", 200, 0, 5, host="secret")])


def test_kept_alive_and_pipelined(wire: Wire, way: Way) -> None:
    requests, responses, rows = messages(6)
    talk = secure(wire, way)
    for request, response in zip(requests, responses, strict=True):
        talk.client(request).server(response)
    talk.client(*requests).server(*responses)
    wire.run(talk.close())
    check(wire, rows * 2)


def test_bodies_of_many_records(wire: Wire, way: Way) -> None:
    up, down = b"u" * 100_000, b"d" * 150_000
    talk = secure(wire, way)
    for _ in range(2):
        talk.client(head("POST", "/up", f"Content-Length: {len(up)}"), up)
        talk.server(response_head(200, "Transfer-Encoding: chunked"), chunks(down, b"e"))
    wire.run(talk.close())
    check(wire, [Row("POST", "/up", 200, len(up), len(down) + 1, flags=Flag.CHUNKED_RESPONSE)] * 2)


def test_connections_in_turns(wire: Wire, way: Way) -> None:
    """One thread has them all open, and each one's records are its own."""
    talks = [secure(wire, way, str(i)) for i in range(8)]
    wire.run(*talks)
    for turn in range(3):
        for i in (0, 5, 2, 7, 1, 6, 3, 4):
            target = f"/{i}/{turn}"
            wire.run(more(str(i)).client(head("GET", target)).server(answer(200, b"x" * i)))
    wire.run(*(more(str(i)).close() for i in range(8)))
    rows = [Row("GET", f"/{i}/{turn}", 200, 0, i) for turn in range(3) for i in (0, 5, 2, 7, 1, 6, 3, 4)]
    found = check(wire, rows)
    by_target: dict[str, set[int]] = {}
    for each in found:
        by_target.setdefault(each.row.target.split("/")[1], set()).add(each.connection)
    assert all(len(connections) == 2 for connections in by_target.values())


def test_through_a_tunnel(wire: Wire, way: Way) -> None:
    """CONNECT (RFC 9110, 9.3.6), then TLS on the same connection."""
    talk = wire.talk().client(head("CONNECT", "h:443")).server(response_head(200))
    talk.op("tls", "c", "s", *way).client(head("GET", "/inside")).server(answer(200, b"ok"))
    wire.run(talk.close())
    found = wire.check([Row("CONNECT", "h:443", 200, flags=Flag.UPGRADE), Row("GET", "/inside", 200, 0, 2)])
    assert [int(each.x["key"]["tls"]) for each in found] == [0, 0, 1, 1]


@pytest.mark.parametrize("how", ["close", "reset"])
def test_client_hangs_up(wire: Wire, way: Way, how: str) -> None:
    """It has read all that came, or its end would be a reset."""
    talk = secure(wire, way).client(head()).server(answer()).client(head("GET", "/slow")).op(how, "c")
    wire.run(talk.op("end", "s").op("close", "s"))
    outcome = Outcome.PEER_CLOSED if how == "close" else Outcome.RESET
    local = Row("GET", "/slow", 0, outcome=Outcome.LOCAL_CLOSED)
    first = Row("GET", "/", 200)
    wire.check([first, Row("GET", "/slow", 0, outcome=outcome)], [first, local])


def test_body_until_the_end(wire: Wire, way: Way) -> None:
    body = b"b" * 40_000
    talk = secure(wire, way).client(head("GET", "/all", version="1.0"))
    wire.run(talk.server(response_head(200, version="1.0"), body).close("server"))
    check(wire, [Row("GET", "/all", 200, 0, len(body), version=Protocol.HTTP_1_0)])


def test_nothing_stays_behind(wire: Wire, way: Way) -> None:
    """Of a connection that is over, and of the library's objects for it."""
    before = wire.connections(), wire.entries("tls_links")
    for _ in range(5):
        wire.run(secure(wire, way).client(head()).server(answer()).close())
    check(wire, [Row("GET", "/", 200)] * 5)
    wire.peer.run([["collect"]])
    assert (wire.connections(), wire.entries("tls_links")) <= before
