# SPDX-License-Identifier: Apache-2.0
"""Encrypted connections give the same exchanges as plain ones: once, on the connection's own ports, marked as TLS."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from instrumenter.binaries.tls_libraries import Files
from instrumenter.bpf.abi import Flag
from instrumenter.discovery.tls import points_of
from kernel.harness import Row, Seen, Talk, Wire
from kernel.http1 import answer, chunks, head, response_head
from kernel.test_wire_splits import messages
from kernel.tls import certificate

pytestmark = pytest.mark.kernel

WAYS = [(how, version) for how in ("on_sockets", "through_memory") for version in ("TLSv1_2", "TLSv1_3")]


@pytest.fixture(scope="module")
def probed(loaded_wire: Wire) -> Iterator[None]:
    """The peer's OpenSSL, which it has loaded late."""
    loaded_wire.peer.run([["load", "ssl"]])
    (library,) = Files().tls(loaded_wire.peer.pid).libraries
    uprobes = loaded_wire.program.uprobes()
    assert uprobes is not None, loaded_wire.program.refused
    attached = uprobes.attach(library.path, points_of(library))
    yield
    attached.close()


@pytest.fixture(scope="module")
def pem(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return certificate(tmp_path_factory.mktemp("tls"))


@pytest.fixture(params=WAYS, ids=lambda way: "-".join(way))
def way(request: pytest.FixtureRequest, probed: None, pem: Path) -> tuple[str, str, str]:
    how, version = request.param
    return how, version, str(pem)


def secure(wire: Wire, way: tuple[str, str, str], name: str = "") -> Talk:
    talk = wire.talk(name=name)
    return talk.op("tls", talk.c, talk.s, *way)


def check(wire: Wire, rows: list[Row]) -> list[Seen]:
    found = wire.check(rows)
    assert all(each.x["key"]["tls"] == 1 for each in found)
    assert {each.local[1] for each in found} > {wire.ports["ipv4"]}
    return found


def test_one_exchange_each_side(wire: Wire, way: tuple[str, str, str]) -> None:
    talk = secure(wire, way).client(head("GET", "/a", host="secret")).server(answer(200, b"hello"))
    wire.run(talk.close())
    check(wire, [Row("GET", "/a", 200, 0, 5, host="secret")])


def test_kept_alive_and_pipelined(wire: Wire, way: tuple[str, str, str]) -> None:
    requests, responses, rows = messages(6)
    talk = secure(wire, way)
    for request, response in zip(requests, responses, strict=True):
        talk.client(request).server(response)
    talk.client(*requests).server(*responses)
    wire.run(talk.close())
    check(wire, rows * 2)


def test_bodies_of_many_records(wire: Wire, way: tuple[str, str, str]) -> None:
    up, down = b"u" * 100_000, b"d" * 150_000
    talk = secure(wire, way)
    for _ in range(2):
        talk.client(head("POST", "/up", f"Content-Length: {len(up)}"), up)
        talk.server(response_head(200, "Transfer-Encoding: chunked"), chunks(down, b"e"))
    wire.run(talk.close())
    check(wire, [Row("POST", "/up", 200, len(up), len(down) + 1, flags=Flag.CHUNKED_RESPONSE)] * 2)


def test_connections_in_turns(wire: Wire, way: tuple[str, str, str]) -> None:
    """One thread has them all open, and each one's records are its own."""
    talks = [secure(wire, way, str(i)) for i in range(8)]
    wire.run(*talks)
    for turn in range(3):
        for i in (0, 5, 2, 7, 1, 6, 3, 4):
            target = f"/{i}/{turn}"
            said = Talk(0, name=str(i))
            said.ops.clear()
            wire.run(said.client(head("GET", target)).server(answer(200, b"x" * i)))
    for i in range(8):
        end = Talk(0, name=str(i))
        end.ops.clear()
        wire.run(end.close())
    rows = [Row("GET", f"/{i}/{turn}", 200, 0, i) for turn in range(3) for i in (0, 5, 2, 7, 1, 6, 3, 4)]
    found = check(wire, rows)
    by_target: dict[str, set[int]] = {}
    for each in found:
        by_target.setdefault(each.row.target.split("/")[1], set()).add(each.connection)
    assert all(len(connections) == 2 for connections in by_target.values())
