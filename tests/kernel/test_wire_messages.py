# SPDX-License-Identifier: Apache-2.0
"""Messages as they may lie on the wire: every way to frame a body, every head that is legal, and some that are not.

Each case is one connection with both ends watched: what either side says, and the exchanges both ends must give.
"""

from __future__ import annotations

from typing import NamedTuple

import pytest

from instrumenter.bpf.abi import Direction, Flag, Outcome, Protocol
from kernel.harness import Talk, Wire
from kernel.http1 import answer, chunks, head, response_head
from kernel.seen import Row

pytestmark = pytest.mark.kernel

OK = answer(200, b"ok")
CHUNKED = "Transfer-Encoding: chunked"
BOTH_CHUNKED = Flag.CHUNKED_REQUEST | Flag.CHUNKED_RESPONSE
COOKIES = [f"Cookie: c{i}={'v' * 250}" for i in range(64)]  # 16 KiB
TARGET_1K = "/" + "k" * 1023
TARGET_8K = "/search?q=" + "8" * 8182


class Said(NamedTuple):
    by: str
    pieces: tuple[bytes, ...]


def c(*pieces: bytes) -> Said:
    return Said("client", pieces)


def s(*pieces: bytes) -> Said:
    return Said("server", pieces)


def simple(request: bytes, row: Row) -> tuple[list[Said], list[Row]]:
    """The request, answered by OK, twice: the second is found only if the first was framed right."""
    again = [c(head("GET", "/again")), s(OK)]
    return [c(request), s(OK), *again], [row, Row("GET", "/again", 200, 0, 2)]


def answered(response: bytes, row: Row, method: str = "GET") -> tuple[list[Said], list[Row]]:
    """As `simple`, of a response to METHOD /."""
    again = [c(head("GET", "/again")), s(OK)]
    return [c(head(method)), s(response), *again], [row, Row("GET", "/again", 200, 0, 2)]


def play(wire: Wire, said: list[Said]) -> Talk:
    talk = wire.talk()
    for by, pieces in said:
        talk = talk.client(*pieces) if by == "client" else talk.server(*pieces)
    return talk


METHODS = [
    "GET",
    "get",
    "HEA",
    "PROPFIND",
    "M-SEARCH",
    "FOO!",
    "CONNECTS",
    "BASELINE-CONTROL",
    "!#$%&'*+-.^_`|~09Az",
    "X" * 32,
]
REQUESTS = {
    **{f"method {m}": simple(head(m), Row(m, "/", 200, 0, 2)) for m in METHODS},
    "options *": simple(head("OPTIONS", "*"), Row("OPTIONS", "*", 200, 0, 2)),
    "absolute form": simple(head("GET", "http://a.b/c?d"), Row("GET", "http://a.b/c?d", 200, 0, 2)),
    "target 1 KiB": simple(head("GET", TARGET_1K), Row("GET", TARGET_1K, 200, 0, 2)),
    "target 1472": simple(head("GET", "/" + "m" * 1471), Row("GET", "/" + "m" * 1471, 200, 0, 2)),
    "target 1473": simple(
        head("GET", "/" + "m" * 1472), Row("GET", "/" + "m" * 1471, 200, 0, 2, flags=Flag.TARGET_CUT, full=1473)
    ),
    "target 8 KiB": simple(
        head("GET", TARGET_8K), Row("GET", TARGET_8K[:1472], 200, 0, 2, flags=Flag.TARGET_CUT, full=len(TARGET_8K))
    ),
    "host in lower case": simple(b"GET / HTTP/1.1\r\nhost: h\r\n\r\n", Row("GET", "/", 200, 0, 2)),
    "host in upper case": simple(b"GET / HTTP/1.1\r\nHOST: h\r\n\r\n", Row("GET", "/", 200, 0, 2)),
    "no host": simple(b"GET / HTTP/1.1\r\n\r\n", Row("GET", "/", 200, 0, 2, host="")),
    "agent": simple(
        head("GET", "/", "uSER-aGENT: curl/8.5.0 (x; y)"), Row("GET", "/", 200, 0, 2, agent="curl/8.5.0 (x; y)")
    ),
    "long agent and host": simple(
        head("GET", "/", "User-Agent: " + "a" * 500, host="h" * 300),
        Row("GET", "/", 200, 0, 2, host="h" * 128, agent="a" * 128),
    ),
    "http/1.0": simple(
        head("GET", "/", "Connection: keep-alive", version="1.0"),
        Row("GET", "/", 200, 0, 2, version=Protocol.HTTP_1_0),
    ),
    "length": simple(head("POST", "/", "Content-Length: 5") + b"12345", Row("POST", "/", 200, 5, 2)),
    "length, mixed case": simple(head("PUT", "/", "cOntent-lEngth: 5") + b"12345", Row("PUT", "/", 200, 5, 2)),
    "length, no space": simple(head("PUT", "/", "content-length:5") + b"12345", Row("PUT", "/", 200, 5, 2)),
    "length, white space": simple(head("PUT", "/", "Content-Length: \t  5 \t ") + b"12345", Row("PUT", "/", 200, 5, 2)),
    "length 0": simple(head("POST", "/", "Content-Length: 0"), Row("POST", "/", 200, 0, 2)),
    "length, leading zeros": simple(head("POST", "/", "Content-Length: 0005") + b"12345", Row("POST", "/", 200, 5, 2)),
    "length twice": simple(
        head("POST", "/", "Content-Length: 5", "Content-Length: 5") + b"12345", Row("POST", "/", 200, 5, 2)
    ),
    "length as a list": simple(head("POST", "/", "Content-Length: 5, 5") + b"12345", Row("POST", "/", 200, 5, 2)),
    "names that begin alike": simple(
        head("POST", "/", "Content-Lengths: 9", "Content-Type: 7", "Hosts: x", "Content-Length: 5") + b"12345",
        Row("POST", "/", 200, 5, 2),
    ),
    "cookies before all else": simple(
        b"\r\n".join(
            [b"POST /c HTTP/1.1", *[x.encode() for x in COOKIES], b"Host: h", b"Content-Length: 5", b"", b"12345"]
        ),
        Row("POST", "/c", 200, 5, 2),
    ),
    "one cookie of 16 KiB": simple(
        b"\r\n".join(
            [b"POST /c HTTP/1.1", b"Cookie: " + b"c" * 16384, b"Host: h", b"Content-Length: 5", b"", b"12345"]
        ),
        Row("POST", "/c", 200, 5, 2),
    ),
    "chunked": simple(
        head("POST", "/", CHUNKED) + chunks(b"abc", b"x" * 300, b"d"),
        Row("POST", "/", 200, 304, 2, flags=Flag.CHUNKED_REQUEST),
    ),
    "chunked and length": simple(
        head("POST", "/", "Content-Length: 99", CHUNKED) + chunks(b"abc"),
        Row("POST", "/", 200, 3, 2, flags=Flag.CHUNKED_REQUEST),
    ),
    "gzip, chunked": simple(
        head("POST", "/", "transfer-encoding: gzip, Chunked") + chunks(b"abc"),
        Row("POST", "/", 200, 3, 2, flags=Flag.CHUNKED_REQUEST),
    ),
    "chunked, empty": simple(
        head("POST", "/", CHUNKED) + chunks(), Row("POST", "/", 200, 0, 2, flags=Flag.CHUNKED_REQUEST)
    ),
    "a body like a request": simple(
        head("POST", "/", "Content-Length: 29") + head("GET", "/no"), Row("POST", "/", 200, len(head("GET", "/no")), 2)
    ),
    "a chunk like a request": simple(
        head("POST", "/", CHUNKED) + chunks(head("GET", "/no"), b"0\r\n\r\n"),
        Row("POST", "/", 200, len(head("GET", "/no")) + 5, 2, flags=Flag.CHUNKED_REQUEST),
    ),
    "bare LF": simple(b"POST / HTTP/1.1\nHost: h\nContent-Length: 5\n\n12345", Row("POST", "/", 200, 5, 2)),
    "bare LF, nothing else": simple(b"GET / HTTP/1.1\n\n", Row("GET", "/", 200, 0, 2, host="")),
    "leading CRLF": simple(b"\r\n" + head("GET", "/"), Row("GET", "/", 200, 0, 2)),
    "leading CRLFs": simple(b"\r\n\r\n" + head("GET", "/"), Row("GET", "/", 200, 0, 2)),
    "upgrade declined": simple(
        head("GET", "/", "Upgrade: websocket", "Connection: upgrade"), Row("GET", "/", 200, 0, 2)
    ),
    "CRLF behind a body": (
        [c(head("POST", "/", "Content-Length: 1") + b"x"), s(OK), c(b"\r\n" + head()), s(OK)],
        [Row("POST", "/", 200, 1, 2), Row("GET", "/", 200, 0, 2)],
    ),
}
RESPONSES = {
    "no reason": answered(b"HTTP/1.1 200\r\nContent-Length: 2\r\n\r\nok", Row("GET", "/", 200, 0, 2)),
    "lower case": answered(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok", Row("GET", "/", 200, 0, 2)),
    "bare LF": answered(b"HTTP/1.1 404 x\nContent-Length: 2\n\nok", Row("GET", "/", 404, 0, 2)),
    "status 599": answered(answer(599, b"abc"), Row("GET", "/", 599, 0, 3)),
    "head": answered(response_head(200, "Content-Length: 1000"), Row("HEAD", "/", 200), "HEAD"),
    "head, chunked": answered(response_head(200, CHUNKED), Row("HEAD", "/", 200), "HEAD"),
    "head of nothing": answered(response_head(200), Row("HEAD", "/", 200), "HEAD"),
    "204": answered(response_head(204), Row("DELETE", "/", 204), "DELETE"),
    "204 with a length": answered(response_head(204, "Content-Length: 0"), Row("GET", "/", 204)),
    "304": answered(response_head(304, "Content-Length: 1000", "ETag: x"), Row("GET", "/", 304)),
    "205": answered(response_head(205, "Content-Length: 0"), Row("GET", "/", 205)),
    "103 first": answered(response_head(103, "Link: x") * 2 + answer(200, b"ok"), Row("GET", "/", 200, 0, 2)),
    "chunked": answered(
        response_head(200, CHUNKED) + chunks(b"a", b"b" * 1000),
        Row("GET", "/", 200, 0, 1001, flags=Flag.CHUNKED_RESPONSE),
    ),
    "tiny chunks": answered(
        response_head(200, CHUNKED) + chunks(*[b"z"] * 2000), Row("GET", "/", 200, 0, 2000, flags=Flag.CHUNKED_RESPONSE)
    ),
    "extensions": answered(
        response_head(200, CHUNKED) + chunks(b"a", b"bc", extension=' ; sig="a;b 12;ff"'),
        Row("GET", "/", 200, 0, 3, flags=Flag.CHUNKED_RESPONSE),
    ),
    "long extensions": answered(
        response_head(200, CHUNKED) + chunks(b"a", b"bc", extension=";x=" + "f" * 300),
        Row("GET", "/", 200, 0, 3, flags=Flag.CHUNKED_RESPONSE),
    ),
    "trailers": answered(
        response_head(200, CHUNKED, "Trailer: A") + chunks(b"abc", trailers=["A: " + "b" * 100, "C:d", "E:"]),
        Row("GET", "/", 200, 0, 3, flags=Flag.CHUNKED_RESPONSE),
    ),
    "sizes in any form": answered(
        response_head(200, CHUNKED)
        + b"00000A\r\n0123456789\r\na \r\n0123456789\r\n1F\r\n"
        + b"x" * 31
        + b"\r\n000\r\n\r\n",
        Row("GET", "/", 200, 0, 51, flags=Flag.CHUNKED_RESPONSE),
    ),
    "chunks, bare LF": answered(
        response_head(200, CHUNKED) + b"3\nabc\n0\n\n", Row("GET", "/", 200, 0, 3, flags=Flag.CHUNKED_RESPONSE)
    ),
    "a body like a response": answered(answer(200, answer(500)), Row("GET", "/", 200, 0, len(answer(500)))),
    "huge head": answered(
        response_head(200, *[f"Set-{x}" for x in COOKIES], "Content-Length: 2") + b"ok", Row("GET", "/", 200, 0, 2)
    ),
    "one huge field": answered(
        response_head(200, "Set-Cookie: " + "x" * 16384, "Content-Length: 2") + b"ok", Row("GET", "/", 200, 0, 2)
    ),
    "connection: close": (
        [c(head()), s(answer(200, b"ok", "Connection: close"))],
        [Row("GET", "/", 200, 0, 2)],
    ),
}
CONVERSATIONS = {
    "100-continue": (
        [c(head("POST", "/", "Expect: 100-continue", "Content-Length: 5")), s(response_head(100)), c(b"12345"), s(OK)],
        [Row("POST", "/", 200, 5, 2)],
    ),
    "100-continue, refused": (
        [c(head("POST", "/", "Expect: 100-continue", CHUNKED)), s(answer(417)), c(chunks(b"a")), c(head()), s(OK)],
        [Row("POST", "/", 417, flags=Flag.CHUNKED_REQUEST), Row("GET", "/", 200, 0, 2)],
    ),
    "both chunked": (
        [c(head("POST", "/", CHUNKED), chunks(b"abc")), s(response_head(200, CHUNKED), chunks(b"de"))] * 2,
        [Row("POST", "/", 200, 3, 2, flags=BOTH_CHUNKED)] * 2,
    ),
    "upgrade": (
        [
            c(head("GET", "/ws", "Upgrade: websocket", "Connection: Upgrade")),
            s(response_head(101, "Upgrade: websocket") + b"\x81\x05hello"),
            c(b"\x81\x85abcd" + b"\x00" * 5),
            s(answer(200, b"not an answer")),
            c(head("GET", "/not-a-request")),
        ],
        [Row("GET", "/ws", 101, flags=Flag.UPGRADE)],
    ),
    "connect": (
        [
            c(head("CONNECT", "a.b:443")),
            s(response_head(200)),
            c(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"),
            s(b"\x16\x03\x03"),
            c(head("GET", "/in-the-tunnel")),
            s(OK),
        ],
        [Row("CONNECT", "a.b:443", 200, flags=Flag.UPGRADE)],
    ),
    "connect refused": (
        [c(head("CONNECT", "a.b:443")), s(answer(407, b"no")), c(head("CONNECT", "a.b:443")), s(response_head(200))],
        [Row("CONNECT", "a.b:443", 407, 0, 2), Row("CONNECT", "a.b:443", 200, flags=Flag.UPGRADE)],
    ),
    "the answer comes before the request's end": (
        [c(head("POST", "/", "Content-Length: 6") + b"abc"), s(answer(413, b"no")), c(b"def"), c(head()), s(OK)],
        [Row("POST", "/", 413, 3, 2), Row("GET", "/", 200, 0, 2)],
    ),
    "head, body and trailers apart": (
        [
            c(head("POST", "/", CHUNKED)),
            c(b"3\r"),
            c(b"\nab"),
            c(b"c"),
            c(b"\r"),
            c(b"\n0\r\nT"),
            c(b": x\r\n"),
            c(b"\r\n"),
            s(OK),
        ],
        [Row("POST", "/", 200, 3, 2, flags=Flag.CHUNKED_REQUEST)],
    ),
}
UNTIL_CLOSE = {
    "http/1.0": ([c(head(version="1.0")), s(response_head(200, version="1.0") + b"a" * 100), s(b"b" * 50)], 150, "1.0"),
    "http/1.1": ([c(head()), s(response_head(200, "Connection: close")), s(b"b" * 50)], 50, "1.1"),
    "nothing": ([c(head()), s(response_head(200))], 0, "1.1"),
}


def by_name(cases: dict[str, tuple[list[Said], list[Row]]]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize(("said", "rows"), list(cases.values()), ids=list(cases))


@by_name(REQUESTS)
def test_requests(wire: Wire, said: list[Said], rows: list[Row]) -> None:
    wire.run(play(wire, said).close())
    wire.check(rows)


@by_name(RESPONSES)
def test_responses(wire: Wire, said: list[Said], rows: list[Row]) -> None:
    wire.run(play(wire, said).close("server"))
    wire.check(rows)


@by_name(CONVERSATIONS)
def test_conversations(wire: Wire, said: list[Said], rows: list[Row]) -> None:
    wire.run(play(wire, said).close())
    wire.check(rows)


@pytest.mark.parametrize(("said", "size", "version"), list(UNTIL_CLOSE.values()), ids=list(UNTIL_CLOSE))
def test_a_response_that_lasts_until_the_connection_closes(
    wire: Wire, said: list[Said], size: int, version: str
) -> None:
    wire.run(play(wire, said).close("server"))
    wire.check([Row("GET", "/", 200, 0, size, Outcome.COMPLETE, version=Protocol[f"HTTP_{version.replace('.', '_')}"])])


def test_keep_alive(wire: Wire) -> None:
    talk, rows = wire.talk(), []
    for i in range(20):
        body = b"x" * i
        talk.client(head("POST", f"/{i}", f"Content-Length: {i}") + body).server(answer(210 + i, body))
        rows.append(Row("POST", f"/{i}", 210 + i, i, i))
    wire.run(talk.close())
    wire.check(rows)


@pytest.mark.parametrize("pieces", [1, 3])
def test_bodies_in_calls_of_their_own(wire: Wire, pieces: int) -> None:
    """One exchange begins after the other has ended, whatever the bodies between them were read and written in."""
    post, said = head("POST", "/", f"Content-Length: {5 * pieces}"), response_head(200, "Content-Length: 4")
    talk, rows = wire.talk(), []
    for _ in range(3):
        talk.client(post, *[b"hello"] * pieces, sizes=[len(post), *[5] * pieces])
        talk.server(said, b"go", b"od", sizes=[len(said), 2, 2])
        rows.append(Row("POST", "/", 200, 5 * pieces, 4))
    wire.run(talk.close())
    found = wire.check(rows)
    for side in Direction.SERVER, Direction.CLIENT:
        times = [(each.start_ns, each.first_ns, each.end_ns) for each in found if each.direction == side]
        assert [time for each in times for time in each] == sorted({time for each in times for time in each})
