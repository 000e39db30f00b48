# SPDX-License-Identifier: Apache-2.0
"""How connections end: who hung up, with what outstanding, and that nothing of a connection outlives it."""

from __future__ import annotations

import pytest

from instrumenter.bpf.abi import Flag, Outcome, Protocol
from kernel.harness import Talk, Wire
from kernel.http1 import answer, chunks, head, response_head
from kernel.seen import Row

pytestmark = pytest.mark.kernel

HTTP_1_0 = Protocol.HTTP_1_0
GET = head()
PART = response_head(200, "Content-Length: 1000") + b"p" * 400
PART_CHUNKED = response_head(200, "Transfer-Encoding: chunked") + chunks(b"c" * 400)[:-5]
POST_PART = head("POST", "/", "Content-Length: 100") + b"r" * 30
CHUNKED = Flag.CHUNKED_RESPONSE

# What was said before the end (client, server), and the exchange of then: without outcome.
BEFORE = {
    "no response": (GET, b"", Row("GET", "/", 0)),
    "an interim response": (GET, response_head(100), Row("GET", "/", 0)),
    "half a request body": (POST_PART, b"", Row("POST", "/", 0, 30)),
    "half a response head": (GET, b"HTTP/1.1 200 OK\r\nContent-Le", Row("GET", "/", 0)),
    "half a body": (GET, PART, Row("GET", "/", 200, 0, 400)),
    "half a chunked body": (GET, PART_CHUNKED, Row("GET", "/", 200, 0, 400, flags=CHUNKED)),
}
# Who ends it and how -> outcome as the server sees it, and the client.
ENDS = {
    "client closes": ([["close", "c"], ["end", "s"], ["close", "s"]], Outcome.PEER_CLOSED, Outcome.LOCAL_CLOSED),
    "client resets": ([["reset", "c"], ["end", "s"], ["close", "s"]], Outcome.RESET, Outcome.LOCAL_CLOSED),
    "server closes": ([["close", "s"], ["end", "c"], ["close", "c"]], Outcome.LOCAL_CLOSED, Outcome.PEER_CLOSED),
    "server resets": ([["reset", "s"], ["end", "c"], ["close", "c"]], Outcome.LOCAL_CLOSED, Outcome.RESET),
    "server shuts down": (
        [["shutdown", "s"], ["end", "c"], ["close", "c"], ["close", "s"]],
        Outcome.LOCAL_CLOSED,
        Outcome.PEER_CLOSED,
    ),
}


def ended(row: Row, outcome: Outcome) -> Row:
    return Row(**{**vars(row), "outcome": outcome})


@pytest.mark.parametrize("before", list(BEFORE))
@pytest.mark.parametrize("end", list(ENDS))
def test_ended_too_early(wire: Wire, before: str, end: str) -> None:
    request, response, row = BEFORE[before]
    ops, server, client = ENDS[end]
    talk = wire.talk().client(request)
    if response:
        talk.server(response)
    talk.ops += ops
    wire.run(talk)
    wire.check([ended(row, server)], [ended(row, client)])


@pytest.mark.parametrize("end", list(ENDS))
def test_ended_with_several_outstanding(wire: Wire, end: str) -> None:
    ops, server, client = ENDS[end]
    talk = wire.talk().client(head(target="/1") + head(target="/2") + head("POST", "/3", "Content-Length: 9") + b"half")
    talk.server(answer(201, b"one") + PART)
    talk.ops += ops
    wire.run(talk)
    rows = [Row("GET", "/2", 200, 0, 400), Row("POST", "/3", 0, 4)]
    one = Row("GET", "/1", 201, 0, 3)
    wire.check([one, *(ended(r, server) for r in rows)], [one, *(ended(r, client) for r in rows)])


@pytest.mark.parametrize("end", list(ENDS))
def test_ended_between_exchanges(wire: Wire, end: str) -> None:
    talk = wire.talk().client(GET).server(answer(200, b"ok"))
    talk.ops += ENDS[end][0]
    wire.run(talk)
    wire.check([Row("GET", "/", 200, 0, 2)])


@pytest.mark.parametrize("end", list(ENDS))
def test_ended_inside_a_head(wire: Wire, end: str) -> None:
    """A request that was not made: no exchange."""
    talk = wire.talk().client(b"GET / HTTP/1.1\r\nHost:")
    talk.ops += ENDS[end][0]
    wire.run(talk)
    wire.check([])


@pytest.mark.parametrize(
    ("end", "server", "client"),
    [
        ("server closes", Outcome.COMPLETE, Outcome.COMPLETE),
        ("server shuts down", Outcome.COMPLETE, Outcome.COMPLETE),
        ("server resets", Outcome.COMPLETE, Outcome.RESET),
        ("client resets", Outcome.RESET, Outcome.LOCAL_CLOSED),
        # The server cannot know: clients that half-close and read on look the same.
        ("client closes", Outcome.COMPLETE, Outcome.LOCAL_CLOSED),
    ],
)
def test_a_response_that_lasts_until_the_end(wire: Wire, end: str, server: Outcome, client: Outcome) -> None:
    talk = wire.talk().client(head(version="1.0")).server(response_head(200, version="1.0") + b"u" * 70)
    talk.ops += ENDS[end][0]
    wire.run(talk)
    row = Row("GET", "/", 200, 0, 70, version=HTTP_1_0)
    wire.check([ended(row, server)], [ended(row, client)])


@pytest.mark.parametrize(
    ("response", "row"),
    [
        (answer(200, b"ok"), Row("GET", "/", 200, 0, 2)),
        (response_head(200) + b"until close", Row("GET", "/", 200, 0, 11)),
        (response_head(200, "Transfer-Encoding: chunked") + chunks(b"abc"), Row("GET", "/", 200, 0, 3, flags=CHUNKED)),
    ],
)
def test_a_client_that_closes_its_half_first(wire: Wire, response: bytes, row: Row) -> None:
    talk = wire.talk().client(GET).op("shutdown", "c").op("end", "s")
    wire.run(talk.server(response).op("close", "s").op("end", "c").op("close", "c"))
    wire.check([row])


def test_a_response_split_by_the_clients_half_close(wire: Wire) -> None:
    response = response_head(200, "Content-Length: 6") + b"abc"
    talk = wire.talk().client(GET).server(response).op("shutdown", "c").op("end", "s").server(b"def")
    wire.run(talk.op("close", "s").op("end", "c").op("close", "c"))
    wire.check([Row("GET", "/", 200, 0, 6)])


def test_a_server_that_ends_its_half_before_it_has_read_all(wire: Wire) -> None:
    """What it reads afterwards is a request that cannot be answered."""
    talk = wire.talk().client(POST_PART).server(answer(413)).op("shutdown", "s").op("end", "c")
    talk.client(b"r" * 70).op("send", "c", "send", [head(target="/late").decode()]).op("close", "c")
    wire.run(talk.op("receive", "s", "recv", [len(head(target="/late"))]).op("end", "s").op("close", "s"))
    row, late = Row("POST", "/", 413, 30), Row("GET", "/late", 0, outcome=Outcome.PEER_CLOSED)
    wire.check([row, late], [row, late])


def test_a_request_on_a_connection_that_the_server_has_left(wire: Wire) -> None:
    """The race of every keep-alive: the request goes out and meets a reset."""
    talk = wire.talk().client(GET).server(answer()).op("close", "s")
    talk.op("send", "c", "send", [head("GET", "/stale").decode()]).op("end", "c").op("refused", "c", GET.decode())
    wire.run(talk.op("close", "c"))
    assert wire.results[0][-2] is True
    one = Row("GET", "/", 200)
    wire.check([one], [one, Row("GET", "/stale", 0, outcome=Outcome.RESET)])


@pytest.mark.parametrize("end", ["server resets", "server closes"])
def test_an_end_inside_of_a_read(wire: Wire, end: str) -> None:
    """The call has taken the response, and returns it behind the end."""
    response = answer(501, b"no")
    talk = wire.talk().client(POST_PART).op("wait", [["receive_all", "c", len(response) + 1]])
    talk.op("send", "s", "send", [response.decode()]).op("taken", "s", "c")
    wire.run(talk.op(*ENDS[end][0][0]).op("finish").op("close", "c"))
    wire.check([Row("POST", "/", 501, 30, 2)])


def opened(n: int) -> Talk:
    """On with connection n."""
    talk = Talk(0, name=f"-{n}")
    talk.ops.clear()
    return talk


def test_ends_that_pass_unseen(wire: Wire) -> None:
    """What stays of them ends where their memory begins as other sockets, which are seen from the first byte."""
    talks = [wire.talk(name=f"-{n}").client(GET).server(answer()) for n in range(16)]
    before = sum(wire.connections())
    wire.run(*talks)
    with wire.without("sock_state", "sock_destroy"):
        wire.run(*(opened(n).close() for n in range(16)))
    assert sum(wire.connections()) == before + 32
    asked = 16
    while sum(wire.connections()) > before:
        assert asked < 900, "sockets are not made of the memory of others"
        made = [wire.talk(name=f"-{n}") for n in range(32)]
        wire.run(*made, *(opened(n).client(GET).server(answer()).close() for n in range(32)))
        asked += 32
    wire.check([Row("GET", "/", 200)] * asked)


def test_nothing_outlives_its_connection(wire: Wire) -> None:
    """Pipelined requests, long texts and halves of heads, and requests that could not be sent any more."""
    for ops, _, _ in ENDS.values():
        talk = wire.talk().client(head(target="/" + "l" * 900) * 3 + GET + b"GET /" + b"h" * 300)
        talk.server(answer(), PART[:20])
        talk.ops += [*ops[:1], ["refused", *(["s"] if ops[0][1] == "c" else ["c"]), GET.decode()], *ops[1:]]
        talk.op("connect", "other", "ipv4", wire.ports["ipv4"]).op("close", "other").op(
            "accept", "other", "listener-ipv4"
        )
        wire.run(talk.op("close", "other"))
    wire.collect()
    assert wire.connections() == (0, 0)
    assert {name: wire.entries(name) for name in ("pending", "long_texts", "carry")} == dict.fromkeys(
        ("pending", "long_texts", "carry"), 0
    )
