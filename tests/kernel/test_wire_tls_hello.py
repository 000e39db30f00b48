# SPDX-License-Identifier: Apache-2.0
"""What a handshake says in plain of its connection: the version, and the server where a request names none."""

from __future__ import annotations

from pathlib import Path

import pytest

from instrumenter.bpf.abi import Flag, Loss, Protocol
from kernel.harness import Wire
from kernel.http1 import answer, head
from kernel.http2 import ACK, SETTINGS, START, Side, block_frames
from kernel.secure import Way, more, secure
from kernel.seen import Row, Seen

pytestmark = pytest.mark.kernel

VERSIONS = {"TLSv1": 0x0301, "TLSv1_1": 0x0302, "TLSv1_2": 0x0303, "TLSv1_3": 0x0304}
NAMED = Flag.SERVER_NAME


@pytest.fixture
def wire(tls_wire: Wire) -> Wire:
    tls_wire.begin()
    return tls_wire


def check(wire: Wire, way: Way, rows: list[Row]) -> list[Seen]:
    found = wire.check(rows)
    assert {each.tls_version for each in found} == {VERSIONS[way[1]]}
    assert {int(each.x["key"]["peer"]) for each in found if each.row.flags & NAMED} <= {0}
    return found


def test_each_exchange_has_the_version(wire: Wire, tls_way: Way) -> None:
    requests, answers = [head("GET", f"/{i}") for i in range(3)], [answer(200)] * 3
    talk = secure(wire, tls_way).client(requests[0]).server(answers[0])
    wire.run(talk.client(*requests).server(*answers).close())
    check(wire, tls_way, [Row("GET", f"/{i}", 200) for i in (0, 0, 1, 2)])


@pytest.mark.parametrize("version", ["TLSv1", "TLSv1_1"])
@pytest.mark.parametrize("how", ["on_sockets", "through_memory"])
def test_older_versions(wire: Wire, how: str, version: str, pem: Path) -> None:
    way = how, version, str(pem)
    wire.run(secure(wire, way).client(head("GET", "/")).server(answer(200)).close())
    check(wire, way, [Row("GET", "/", 200)])


@pytest.mark.parametrize("version", ["TLSv1_2", "TLSv1_3"])
def test_hello_in_pieces(wire: Wire, version: str, pem: Path) -> None:
    way = "in_pieces", version, str(pem)
    wire.run(secure(wire, way).client(head(host="")).server(answer(200)).close())
    check(wire, way, [Row("GET", "/", 200, host="localhost", flags=NAMED)])


@pytest.mark.parametrize("target", ["/a", "/" + "long" * 300])
def test_server_name_where_there_is_no_host(wire: Wire, tls_way: Way, target: str) -> None:
    talk = secure(wire, tls_way)
    for host in ("", "other", ""):
        talk.client(head("GET", target, "User-Agent: me", host=host)).server(answer(200))
    wire.run(talk.close())
    named = Row("GET", target, 200, host="localhost", flags=NAMED, agent="me")
    check(wire, tls_way, [named, Row("GET", target, 200, host="other", agent="me"), named])


def test_no_server_name(wire: Wire, tls_way: Way) -> None:
    """No host is made up."""
    talk = wire.talk()
    talk.op("tls", talk.c, talk.s, *tls_way, "").client(head(host="")).server(answer(200))
    wire.run(talk.close())
    check(wire, tls_way, [Row("GET", "/", 200, host="")])


@pytest.mark.parametrize("version", ["TLSv1_2", "TLSv1_3"])
def test_server_name_that_is_not_the_servers(wire: Wire, version: str, pem: Path) -> None:
    way = "with_hidden_name", version, str(pem)
    wire.run(secure(wire, way).client(head(host="")).server(answer(200)).close())
    check(wire, way, [Row("GET", "/", 200, host="")])


def test_http2(wire: Wire, tls_way: Way) -> None:
    client, server = Side(), Side()
    talk = secure(wire, tls_way).client(START).server(SETTINGS, ACK).client(ACK)
    bare = client.block([(":method", "GET"), (":scheme", "https"), (":path", "/1")])
    talk.client(block_frames(1, bare, True)).server(server.answer(1, 200, b""))
    talk.client(client.ask(3, "/3")).server(server.answer(3, 200, b""))
    wire.run(talk.close())
    named = Row("GET", "/1", 200, host="localhost", flags=NAMED, version=Protocol.HTTP_2)
    check(wire, tls_way, [named, Row("GET", "/3", 200, version=Protocol.HTTP_2)])


def test_handshake_older_than_the_agent(wire: Wire, tls_way: Way) -> None:
    """Neither is known. Through memory the first exchange is lost, as it is not known on which socket it goes."""
    wire.ignore()
    wire.run(secure(wire, tls_way))
    wire.watch()
    talk = more()
    for i in range(2):
        talk.client(head("GET", f"/{i}", host="")).server(answer(200))
    wire.run(talk.close())
    rows = [Row("GET", f"/{i}", 200, host="") for i in range(2)]
    memory = tls_way[0] == "through_memory"
    found = wire.check(rows[memory:], losses={Loss.TLS_UNLINKED: 2} if memory else None)
    assert {each.tls_version for each in found} == {0}
