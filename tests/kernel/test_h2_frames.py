# SPDX-License-Identifier: Apache-2.0
"""HTTP/2 by hand-made frames over real sockets: however cut, packed or broken off, a stream is one exchange.

Both ends are watched, so each exchange is there twice: as the server's and as the client's.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from instrumenter.bpf.abi import Direction, Loss, Outcome, Protocol
from kernel.harness import Talk, Wire
from kernel.http1 import answer, head
from kernel.http2 import ACK, SETTINGS, START, Side, block_frames, data, frame
from kernel.seen import Row, check_times

pytestmark = pytest.mark.kernel

STEP = 7 if os.environ.get("STINGLESS_VM") == "1" else 1  # between two places to cut: emulated, each takes its time
TRACE = "0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def row(method: str, target: str, status: int, asked: int = 0, answered: int = 0, **more: Any) -> Row:
    return Row(method, target, status, asked, answered, version=Protocol.HTTP_2, **more)


def check_all(wire: Wire, rows: list[Row]) -> None:
    """As `check`, of streams that end together, in any order."""
    found = wire.collect()
    assert wire.losses() == {}
    for direction in (Direction.SERVER, Direction.CLIENT):
        ours = [each for each in found if each.direction == direction]
        assert Counter(each.row for each in ours) == Counter(rows)
        for each in ours:
            check_times(each)
    places = [(each.local, each.remote, each.request_seq) for each in found if each.direction == Direction.SERVER]
    peers = [(each.remote, each.local, each.request_seq) for each in found if each.direction == Direction.CLIENT]
    assert sorted(places) == sorted(peers)


class Ends:
    """A connection that has begun, and each end's encoder."""

    def __init__(self, wire: Wire, talk: Talk | None = None) -> None:
        self.client, self.server = Side(), Side()
        self.talk = (talk or wire.talk()).client(START).server(SETTINGS, ACK).client(ACK)


def test_streams_one_after_the_other(wire: Wire) -> None:
    """The second of each path is in the table, and many frames that mean nothing are in between."""
    ends = Ends(wire)
    idle = frame(6, 0, 0, bytes(8)) + frame(8, 0, 0, b"\0\0\1\0") + frame(2, 0, 1, bytes(5)) + frame(200, 9, 0, b"ext")
    for stream in range(1, 40, 2):
        ends.talk.client(idle + ends.client.ask(stream, f"/things/{stream % 6}", more=[("user-agent", "me")]))
        ends.talk.server(idle + ends.server.answer(stream, 200 + stream % 6, b"x" * stream))
    wire.run(ends.talk.close())
    wire.check([row("GET", f"/things/{n % 6}", 200 + n % 6, 0, n, agent="me") for n in range(1, 40, 2)])


def test_many_streams_at_once(wire: Wire) -> None:
    """A hundred requests in one write, answered in another order, their bodies in turns."""
    ends = Ends(wire)
    streams = range(1, 200, 2)
    ends.talk.client(b"".join(ends.client.ask(n, f"/p{n}", "POST", end=False) for n in streams))
    ends.talk.client(b"".join(data(n, b"q" * (n % 7), end=False) for n in streams))
    ends.talk.client(b"".join(data(n, b"r", end=True) for n in reversed(streams)))
    heads = [ends.server.answer(n, 201, b"") for n in reversed(streams)]
    ends.talk.server(b"".join(heads[:50]), b"".join(heads[50:]))
    wire.run(ends.talk.close())
    check_all(wire, [row("POST", f"/p{n}", 201, n % 7 + 1, 0) for n in streams])


def conversation(odd: bool = False) -> tuple[bytes, bytes, list[Row]]:
    """Both halves of a connection that has everything, and what comes of it."""
    client, server = Side(), Side()
    one = client.request("/one?x=1", "POST", [("traceparent", f"00-{TRACE}"), ("cookie", "c" * 90)])
    two = client.request("/two", "GET", [("x-long", "y" * 60)])
    asked = START + ACK + block_frames(1, one, False, sizes=(3, 9), odd=odd) + data(1, b"abc", pad=5 if odd else None)
    asked += frame(8, 0, 1, b"\0\0\0\5") + block_frames(3, two, True, odd=odd)
    early = block_frames(1, server.block([(":status", "103"), ("link", "</a>")]), False)
    head = server.block([(":status", "200"), ("x-table", "z" * 40)])
    end = server.trailers(1, [("x-sum", "9")])
    answered = SETTINGS + ACK + early + block_frames(1, head, False, sizes=(4,)) + data(1, b"hello", end=False)
    answered += server.answer(3, 404) + end
    return asked, answered, [row("GET", "/two", 404), row("POST", "/one?x=1", 200, 3, 5, trace=TRACE)]


@pytest.mark.parametrize("odd", [False, True], ids=["plain", "padded"])
@pytest.mark.parametrize("by", ["client", "server"])
def test_frames_cut_anywhere(wire: Wire, by: str, odd: bool) -> None:
    asked, answered, rows = conversation(odd)
    said = asked if by == "client" else answered
    talks = []
    for at in range(1, len(said), STEP):
        parts = (said[:at], said[at:])
        talk = wire.talk()
        talk = talk.client(*parts) if by == "client" else talk.client(asked)
        talks.append((talk.server(*parts) if by == "server" else talk.server(answered)).close())
    wire.run(*talks)
    check_all(wire, rows * len(talks))


@pytest.mark.parametrize("how", ["send", "writev", "sendmsg", "sendmmsg"])
def test_frames_byte_by_byte(wire: Wire, how: str) -> None:
    asked, answered, rows = conversation()
    talk = wire.talk()
    for byte in asked:
        talk.client(bytes([byte]), how=how)
    talk.server(*(bytes([byte]) for byte in answered), how=how)
    wire.run(talk.close())
    check_all(wire, rows)


def test_bodies_are_passed_unread(wire: Wire) -> None:
    """Frames of 16 KiB, sent by sendfile behind their heads, as servers do; the next frame is found behind them."""
    ends = Ends(wire)
    big = b"b" * 16384
    ends.talk.client(ends.client.ask(1, "/big"))
    ends.talk.server(ends.server.answer(1, 200, b"")[:-9])
    for i in range(4):
        ends.talk.server(frame(0, int(i == 3), 1, big)[:9]).server(big, how="sendfile")
    ends.talk.client(ends.client.ask(3, "/next")).server(ends.server.answer(3, 204))
    wire.run(ends.talk.close())
    wire.check([row("GET", "/big", 200, 0, 65536), row("GET", "/next", 204)])


ENDINGS: dict[str, tuple[Callable[[Ends], Talk], Outcome, int]] = {
    "reset by the client": (lambda e: e.talk.client(frame(3, 0, 1, b"\0\0\0\x08")), Outcome.RESET, 0),
    "reset by the server": (lambda e: e.talk.server(frame(3, 0, 1, b"\0\0\0\x02")), Outcome.RESET, 0),
    "refused by GOAWAY": (lambda e: e.talk.server(frame(7, 0, 0, bytes(8))), Outcome.RESET, 0),
    "head, then reset": (
        lambda e: e.talk.server(e.server.answer(1, 200, b"")[:-9] + frame(3, 0, 1, bytes(4))), Outcome.RESET, 200,
    ),
}  # fmt: skip


@pytest.mark.parametrize("ending", list(ENDINGS))
def test_a_stream_that_is_given_up(wire: Wire, ending: str) -> None:
    """The connection goes on where GOAWAY does not end it, and streams that were complete before are not concerned."""
    give_up, outcome, status = ENDINGS[ending]
    ends = Ends(wire)
    ends.talk.client(ends.client.ask(1, "/one", end=False))
    give_up(ends)
    wire.run(ends.talk.close())
    wire.check([row("GET", "/one", status, outcome=outcome)])


@pytest.mark.parametrize(("first", "server", "client"), [
    ("client", Outcome.PEER_CLOSED, Outcome.LOCAL_CLOSED),
    ("server", Outcome.LOCAL_CLOSED, Outcome.PEER_CLOSED),
])  # fmt: skip
def test_a_connection_that_ends_under_way(wire: Wire, first: str, server: Outcome, client: Outcome) -> None:
    ends = Ends(wire)
    ends.talk.client(ends.client.ask(1, "/a")).server(ends.server.answer(1, 200, b"ok"))
    ends.talk.client(ends.client.ask(3, "/b", end=False))
    wire.run(ends.talk.close(first))
    done = row("GET", "/a", 200, 0, 2)
    wire.check([done, row("GET", "/b", 0, outcome=server)], [done, row("GET", "/b", 0, outcome=client)])


def test_not_frames_any_more(wire: Wire) -> None:
    """What is no frame is counted, and the half is found again where a call begins with one."""
    ends = Ends(wire)
    ends.talk.client(ends.client.ask(1, "/a")).server(ends.server.answer(1, 200, b"ok"))
    ends.talk.client(b"\0\0\1\0\0\0\0\0\0zz")
    fresh = Side()
    ends.talk.client(fresh.ask(3, "/b")).server(ends.server.answer(3, 204))
    wire.run(ends.talk.close())
    wire.check([row("GET", "/a", 200, 0, 2), row("GET", "/b", 204)], losses={Loss.MALFORMED: 2})


def test_joined_in_its_life(wire: Wire) -> None:
    """Static and literal fields are known at once; what was in the table before is empty until said again."""
    wire.ignore()
    ends = Ends(wire)
    ends.talk.client(ends.client.ask(1, "/before", more=[("user-agent", "me")]))
    ends.talk.server(ends.server.answer(1, 200, b"ok"))
    wire.run(ends.talk)
    wire.watch()
    later = Talk(0)
    later.ops = []
    later.client(ends.client.ask(3, "/before", more=[("user-agent", "me")])).server(ends.server.answer(3, 200, b"ok"))
    later.client(ends.client.ask(5, "/after", more=[("user-agent", "me")])).server(ends.server.answer(5, 404, b"no"))
    later.client(ends.client.ask(7, "/after", more=[("user-agent", "me")])).server(ends.server.answer(7, 404, b"no"))
    wire.run(later.close())
    found = wire.collect()
    assert [each.row.target for each in found if each.direction == Direction.SERVER] == ["", "/after", "/after"]
    assert [each.row.status for each in found if each.direction == Direction.SERVER] == [200, 404, 404]
    assert [each.row.host for each in found if each.direction == Direction.SERVER] == ["", "", ""]
    assert wire.losses() == {}


@pytest.mark.parametrize("long", [False, True], ids=["short", "long"])
def test_an_upgrade_to_h2c(wire: Wire, long: bool) -> None:
    """The request of HTTP/1.1 is stream 1 (RFC 7540, 3.2), answered behind the 101, perhaps in the same write."""
    client, server = Side(), Side()
    target = "/first?" + "k" * (700 if long else 7)
    fields = ("Upgrade: h2c", "Connection: Upgrade, HTTP2-Settings", "HTTP2-Settings: AAMA", f"traceparent: 00-{TRACE}")
    switching = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n"
    talk = wire.talk().client(head("POST", target, *fields, "Content-Length: 3") + b"abc")
    talk.server(switching + SETTINGS + server.answer(1, 202, b"hello"))
    talk.client(START + ACK + client.ask(3, "/second")).server(ACK + server.answer(3, 204))
    wire.run(talk.close())
    wire.check([row("POST", target, 202, 3, 5, trace=TRACE), row("GET", "/second", 204)])


def test_a_websocket_is_one_exchange(wire: Wire) -> None:
    """Its frames are no requests, whatever they look like."""
    upgrade = head("GET", "/chat", "Upgrade: websocket", "Connection: Upgrade")
    talk = wire.talk().client(upgrade).server(b"HTTP/1.1 101 x\r\nUpgrade: websocket\r\n\r\n")
    side = Side()
    for _ in range(10):
        talk.client(b"\x82\x05hello", side.ask(1, "/x")).server(head("GET", "/y"), answer(200, b"z"))
    wire.run(talk.close())
    found = wire.collect()
    assert [(each.row.method, each.row.target, each.row.status) for each in found] == [("GET", "/chat", 101)] * 2
    assert wire.losses() == {}
