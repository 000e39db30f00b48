# SPDX-License-Identifier: Apache-2.0
"""Records that a program moves for many connections in turns, so that no call's neighbour in the thread is its own.

As under anyio, where between the library's call and the socket's other tasks run. The other end is another process.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from instrumenter.bpf.abi import Direction
from kernel.harness import Peer, Wire
from kernel.http1 import answer, head
from kernel.seen import Row

pytestmark = pytest.mark.kernel

NAMES = [f"n{i}" for i in range(8)]


@pytest.fixture
def wire(tls_wire: Wire) -> Wire:
    tls_wire.begin()
    return tls_wire


@pytest.fixture
def other() -> Iterator[Peer]:
    with Peer() as peer:
        yield peer


def move(end: Peer, *steps: str) -> list[str]:
    """Each step on all connections, before the next one; what the last gave."""
    return list(end.run([["each", NAMES, step] for step in steps])[-1])


def say(end: Peer, peer: Peer, data: bytes) -> None:
    """On all connections the same."""
    end.run([["each", NAMES, "put", data.decode("latin-1")]])
    move(end, "flush")
    assert move(peer, "fill", "get") == [data.decode("latin-1")] * len(NAMES)


def begin(client: Peer, server: Peer, version: str, pem: Path) -> None:
    """Connections, without their handshakes."""
    port = server.run([["listen", "all", "ipv4"]])[0]
    client.run([["connect", name, "ipv4", port] for name in NAMES])
    server.run([["accept", name, "all"] for name in NAMES])
    client.run([["memory", name, version, str(pem), "localhost"] for name in NAMES])
    server.run([["memory", name, version, str(pem), None] for name in NAMES])


@pytest.mark.parametrize("version", ["TLSv1_2", "TLSv1_3"])
@pytest.mark.parametrize("watched", ["client", "server"])
def test_each_is_known_by_its_random(wire: Wire, other: Peer, pem: Path, watched: str, version: str) -> None:
    client, server = (wire.peer, other) if watched == "client" else (other, wire.peer)
    begin(client, server, version, pem)
    move(client, "shake", "flush")
    move(server, "fill", "shake", "flush")
    move(client, "fill", "shake", "flush")
    move(server, "fill", "shake", "flush")
    if version == "TLSv1_2":
        move(client, "fill", "shake")
    for i in range(2):
        say(client, server, head("GET", f"/{i}"))
        say(server, client, answer(200 + i, b"x"))
    move(client, "close")
    move(server, "close")
    found = wire.collect()
    assert wire.losses() == {}
    rows = [Row("GET", f"/{i}", 200 + i, 0, 1) for i in range(2) for _ in NAMES]
    assert [each.row for each in found] == rows
    assert {each.direction for each in found} == {Direction.CLIENT if watched == "client" else Direction.SERVER}
    assert len({each.connection for each in found}) == len(NAMES)


@pytest.mark.parametrize("version", ["TLSv1_2", "TLSv1_3"])
def test_written_before_the_handshake_is_over(wire: Wire, other: Peer, pem: Path, version: str) -> None:
    """As Node.js does: the request begins when it can be sent, and the connection's version is known by then."""
    client, server, request = wire.peer, other, head("GET", "/early")
    begin(client, server, version, pem)
    client.run([["each", NAMES, "hurry", request.decode("latin-1")]])
    move(client, "flush")
    move(server, "fill", "shake", "flush")
    move(client, "fill")
    if version == "TLSv1_2":
        client.run([["each", NAMES, "hurry", request.decode("latin-1")]])
        move(client, "flush")
        move(server, "fill", "shake", "flush")
        move(client, "fill")
    client.run([["each", NAMES, "put", request.decode("latin-1")]])
    move(client, "flush")
    move(server, "fill", *["shake"] * (version == "TLSv1_3"))
    assert move(server, "get") == [request.decode("latin-1")] * len(NAMES)
    say(server, client, answer(200, b"x"))
    move(client, "close")
    move(server, "close")
    found = wire.collect()
    assert wire.losses() == {}
    assert [each.row for each in found] == [Row("GET", "/early", 200, 0, 1)] * len(NAMES)
    assert {each.tls_version for each in found} == {0x0303 if version == "TLSv1_2" else 0x0304}
