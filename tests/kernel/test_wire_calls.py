# SPDX-License-Identifier: Apache-2.0
"""Every system call that moves bytes gives the same exchanges."""

from __future__ import annotations

import pytest

from instrumenter.bpf.abi import Flag, Loss, Outcome
from kernel.harness import Wire
from kernel.http1 import answer, chunks, head, response_head
from kernel.seen import Row
from kernel.test_wire_splits import bytewise, messages

pytestmark = pytest.mark.kernel

SENDS = ["send", "write", "writev", "pwritev2", "sendmsg", "sendmmsg", "sendmmsg_parts", "more"]
RECEIVES = ["recv", "read", "peek", "waitall", "readv", "preadv2", "recvmsg", "recvmmsg", "recvmmsg_parts"]
REQUEST = head("POST", "/some/path", "Content-Length: 10") + b"0123456789"
RESPONSE = response_head(200, "Transfer-Encoding: chunked") + chunks(b"abc", b"defg")
ROW = Row("POST", "/some/path", 200, 10, 7, flags=Flag.CHUNKED_RESPONSE)


def parts(data: bytes, *at: int) -> list[bytes]:
    ends = [*at, len(data)]
    return [data[a:b] for a, b in zip([0, *at], ends, strict=True)]


def sizes(data: bytes, *at: int) -> list[int]:
    return [len(part) for part in parts(data, *at)]


def see_several(wire: Wire, how: str) -> None:
    """Several messages of one recvmmsg are told of one by one, but not which: a head among them is a counted gap. One
    message is read, and so is what follows in other calls."""
    client = wire.talk().client(REQUEST, read=how).server(RESPONSE, read=how).client(REQUEST)
    client.server(RESPONSE, read=how, sizes=sizes(RESPONSE, 4)).client(REQUEST).server(RESPONSE)
    server = wire.talk().client(REQUEST).server(RESPONSE).client(REQUEST, read=how, sizes=sizes(REQUEST, 4))
    server.server(RESPONSE).client(REQUEST).server(RESPONSE)
    wire.run(client.close(), server.close())
    unread = Row("POST", "/some/path", 0, 10, outcome=Outcome.UNREADABLE)
    wire.check([ROW] * 5, [ROW, unread, ROW, *[ROW] * 3], {Loss.GAP: 2})


@pytest.mark.parametrize("how", SENDS)
def test_sent_by(wire: Wire, how: str) -> None:
    talk = wire.talk()
    for at in ((), (4,), (20,), (len(REQUEST) - 10,), (1, 2, 3, 30, 31, 60), tuple(range(1, 40))):
        talk.client(*parts(REQUEST, *at), how=how).server(*parts(RESPONSE, *at), how=how)
    wire.run(talk.close())
    wire.check([ROW] * 6)


def test_sent_from_memory_that_is_not_mapped_in_yet(wire: Wire) -> None:
    """A client's request is read before the call, so none is read there; a server's response behind it, which has the
    kernel's copy made it resident."""
    talk = wire.talk()
    for how in ("mapped", "send", "mapped", "send"):
        talk.client(REQUEST, how=how).server(RESPONSE, how=how)
    wire.run(talk.close())
    wire.check([ROW] * 4, [ROW] * 2, {Loss.UNREADABLE: 2})


@pytest.mark.parametrize("how", RECEIVES)
def test_received_by(wire: Wire, how: str) -> None:
    if "mmsg" in how and wire.program.modes["recv"] == "socket":
        see_several(wire, how)
        return
    talk = wire.talk()
    for at in ((), (4,), (20,), (len(REQUEST) - 10,), (1, 2, 3, 30, 31, 60), tuple(range(1, 40))):
        talk.client(REQUEST, read=how, sizes=sizes(REQUEST, *at)).server(RESPONSE, read=how, sizes=sizes(RESPONSE, *at))
    wire.run(talk.close())
    wire.check([ROW] * 6)


@pytest.mark.parametrize("how", ["writev", "sendmsg"])
def test_a_thousand_segments(wire: Wire, how: str) -> None:
    """UIO_MAXIOV is 1024; a byte each, and more messages than one behind each other."""
    requests, responses, rows = messages(6)
    stream, back = b"".join(requests), b"".join(responses)
    read = {"writev": "readv", "sendmsg": "recvmsg"}[how]
    talk = wire.talk()
    talk.client(*parts(stream, *range(1, 1023)), how=how, read=read, sizes=sizes(stream, *range(1, 1023)))
    talk.server(
        *bytewise(back)[:1000], b"".join(bytewise(back)[1000:]), how=how, read=read, sizes=sizes(back, *range(1, 900))
    )
    wire.run(talk.close())
    wire.check(rows)


@pytest.mark.parametrize("how", ["writev", "sendmsg"])
def test_empty_segments(wire: Wire, how: str) -> None:
    pieces = [b"", *parts(REQUEST, 10, 20), b"", b""]
    wire.run(wire.talk().client(*pieces, how=how).server(b"", RESPONSE, b"", how=how).close())
    wire.check([ROW])


@pytest.mark.parametrize("how", ["sendfile", "splice"])
@pytest.mark.parametrize("before", ["send", "more"])
def test_a_body_from_a_file(wire: Wire, how: str, before: str) -> None:
    """As nginx and Go send one; its bytes are never in the server's memory. Also for a client's upload."""
    body, size = b"f" * 30_000, 30_000
    talk = wire.talk()
    for flag in (b"1", b"2"):
        request = head("PUT", "/f" + flag.decode(), f"Content-Length: {size}")
        pieces = [request[:9].decode(), request[9:].decode()]
        talk.op("send", "c", before, pieces)
        talk.op("send", "c", how, [body.decode()]).op("receive", "s", "recv", [len(request) + size])
        reply = response_head(200, f"Content-Length: {size}").decode()
        talk.op("send", "s", before, [reply[:9], reply[9:]]).op("send", "s", how, [body.decode()])
        talk.op("receive", "c", "recv", [len(reply) + size])
    wire.run(talk.close())
    wire.check([Row("PUT", f"/f{i}", 200, size, size) for i in (1, 2)])


@pytest.mark.parametrize("how", ["sendfile", "splice"])
def test_a_body_from_a_file_until_the_connection_closes(wire: Wire, how: str) -> None:
    talk = wire.talk().client(head()).server(response_head(200)).server(b"f" * 20_000, how=how)
    wire.run(talk.close("server"))
    wire.check([Row("GET", "/", 200, 0, 20_000)])


def test_a_body_thrown_away_unread(wire: Wire) -> None:
    """MSG_TRUNC: what is not needed is not copied."""
    request, reply = head("POST", "/", "Content-Length: 5000"), answer(200, b"b" * 3000)
    talk = wire.talk()
    for _ in range(2):
        talk.client(request).client(b"x" * 5000, read="trunc", sizes=[5000])
        talk.op("send", "s", "send", [reply.decode()])
        talk.op("receive", "c", "recv", [len(reply) - 3000]).op("receive", "c", "trunc", [3000])
    wire.run(talk.close())
    wire.check([Row("POST", "/", 200, 5000, 3000)] * 2)


def test_peeked_at_many_times(wire: Wire) -> None:
    talk = wire.talk().op("send", "c", "send", [REQUEST.decode()])
    talk.op("peek", "s", 5).op("peek", "s", 500).op("receive", "s", "recv", [3]).op("peek", "s", 500)
    talk.op("receive", "s", "peek", [7, 30, len(REQUEST) - 40])
    wire.run(talk.server(RESPONSE, read="peek", sizes=[1, 2, 3, 4, 5, 40]).close())
    wire.check([ROW])


@pytest.mark.parametrize("most", [1 << 21, 1 << 24])
@pytest.mark.parametrize("way", ["request", "response"])
def test_large_bodies_in_partial_writes(wire: Wire, way: str, most: int) -> None:
    """Several MB through non-blocking writes that take what fits, before and after another exchange. With writes of all
    that is left each ends where the one before did."""
    size = 8 << 20
    length = f"Content-Length: {size}"
    talk = wire.talk()

    def large() -> None:
        if way == "request":
            talk.op("pump", "c", "s", size, head("POST", "/up", length).decode(), most)
            talk.server(answer(200, b"ok"))
        else:
            talk.client(head("GET", "/down")).op("pump", "s", "c", size, response_head(200, length).decode(), most)

    large()
    talk.client(head()).server(answer())
    large()
    wire.run(talk.close())
    assert any(isinstance(result, int) and result > 0 for result in wire.results[0]), "no write was partial"
    row = Row("POST", "/up", 200, size, 2) if way == "request" else Row("GET", "/down", 200, 0, size)
    wire.check([row, Row("GET", "/", 200), row])


@pytest.mark.parametrize("how", ["sends", "receives", "both"])
@pytest.mark.parametrize("by", ["io_uring", "compat"])
def test_io_uring_and_32_bit_calls(wire: Wire, by: str, how: str) -> None:
    """Below both are the functions that fentry and kprobe watch, and so are the tracepoints on sockets, of which that
    of a read leaves the memory to the system call's registers. System call stubs do not see such calls. What passes
    unread is a counted gap, and the connection is picked up where bytes pass in sight again."""
    send, read = (by if how != "receives" else "send"), (by if how != "sends" else "recv")
    talk = wire.talk()
    for _ in range(3):
        talk.client(REQUEST, how=send, read=read).server(RESPONSE, how=send, read=read)
    wire.run(talk.client(REQUEST).server(RESPONSE).close())
    unread = Row("POST", "/some/path", 0, 10, outcome=Outcome.UNREADABLE)
    mode = wire.program.modes["recv"]
    if mode in ("fentry", "kprobe") or (mode == "socket" and how == "sends"):
        wire.check([ROW] * 4)
    elif (
        mode == "socket"
    ):  # a server is known by its first request that is read; of a client's the responses are unread
        wire.check([ROW], [unread] * 3 + [ROW], {Loss.GAP: 3})
    elif how == "sends":  # requests are seen, and what the next one shows to have passed between
        wire.check([unread] * 4, [ROW], {Loss.GAP: 1})
    elif how == "receives":
        wire.check([ROW], [unread] * 4, {Loss.GAP: 1})
    else:
        wire.check([ROW])
