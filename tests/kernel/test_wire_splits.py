# SPDX-License-Identifier: Apache-2.0
"""Where a call ends has nothing to do with where a message ends: one message in many calls, many messages in one.

Each test plays a conversation once for every place to cut it; every time the exchanges must be the same.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from instrumenter.bpf.abi import Flag
from kernel.harness import Talk, Wire
from kernel.http1 import answer, chunks, head, response_head
from kernel.seen import Row

pytestmark = pytest.mark.kernel

TRACE = "0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
REQUEST = head("POST", "/a/b?c=d", "Content-Length: 3", f"traceparent: 00-{TRACE}") + b"abc"
RESPONSE = answer(201, b"okay", "X: y")
CHUNKED_REQUEST = head("PUT", "/c", "Transfer-Encoding: chunked") + chunks(b"abc", b"defgh", trailers=["A: b"])
CHUNKED_RESPONSE = response_head(202, "Transfer-Encoding: chunked") + chunks(b"0123456789", b"x", extension=";e=1")
PAIRS = {
    "length": (REQUEST, RESPONSE, Row("POST", "/a/b?c=d", 201, 3, 4, trace=TRACE)),
    "chunked": (
        CHUNKED_REQUEST,
        CHUNKED_RESPONSE,
        Row("PUT", "/c", 202, 8, 11, flags=Flag.CHUNKED_REQUEST | Flag.CHUNKED_RESPONSE),
    ),
}


def halves(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    for i in range(1, len(data)):
        yield data[:i], data[i:]


def bytewise(data: bytes) -> list[bytes]:
    return [data[i : i + 1] for i in range(len(data))]


@pytest.mark.parametrize("pair", list(PAIRS))
@pytest.mark.parametrize("at", ["writer", "reader"])
def test_a_request_cut_anywhere(wire: Wire, pair: str, at: str) -> None:
    request, response, row = PAIRS[pair]
    talk = wire.talk()
    for a, b in halves(request):
        talk = talk.client(a, b) if at == "writer" else talk.client(request, sizes=[len(a)])
        talk.server(response)
    wire.run(talk.close())
    wire.check([row] * (len(request) - 1))


@pytest.mark.parametrize("pair", list(PAIRS))
@pytest.mark.parametrize("at", ["writer", "reader"])
def test_a_response_cut_anywhere(wire: Wire, pair: str, at: str) -> None:
    request, response, row = PAIRS[pair]
    talk = wire.talk()
    for a, b in halves(response):
        talk.client(request)
        talk = talk.server(a, b) if at == "writer" else talk.server(response, sizes=[len(a)])
    wire.run(talk.close())
    wire.check([row] * (len(response) - 1))


@pytest.mark.parametrize("pair", list(PAIRS))
def test_byte_by_byte(wire: Wire, pair: str) -> None:
    request, response, row = PAIRS[pair]
    talk = wire.talk()
    talk.client(*bytewise(request), sizes=[1] * len(request)).server(*bytewise(response), sizes=[1] * len(response))
    wire.run(talk.close())
    wire.check([row])


@pytest.mark.parametrize("size", [511, 512, 513, 1000, 2047, 2048, 2049, 4095, 4096, 4097])
def test_a_long_head_in_pieces_of(wire: Wire, size: int) -> None:
    """Around the sizes of the probes' own windows; the last field is what frames the message."""
    fields = [f"X-{i}: {'f' * (i * 7 % 97)}" for i in range(150)]
    request = head("POST", "/long?" + "q" * 700, *fields, "Content-Length: 4") + b"body"
    response = response_head(200, *fields, "Content-Length: 3") + b"end"
    cut = [request[i : i + size] for i in range(0, len(request), size)]
    back = [response[i : i + size] for i in range(0, len(response), size)]
    talk = wire.talk().client(*cut, sizes=[size]).server(*back, sizes=[size])
    talk.client(request).server(response)
    wire.run(talk.close())
    wire.check([Row("POST", "/long?" + "q" * 700, 200, 4, 3)] * 2)


@pytest.mark.parametrize("pad", [0, 1, 2, 100])
def test_a_head_that_ends_at_a_window(wire: Wire, pad: int) -> None:
    """The empty line falls on each side of the first stretch that the probes read."""
    talk, rows = wire.talk(), []
    for length in range(500, 532):
        request = head("GET", "/", f"X: {'x' * (length + pad * 20)}")
        talk.client(request).server(answer(200, b"ok"))
        rows.append(Row("GET", "/", 200, 0, 2))
    wire.run(talk.close())
    wire.check(rows)


def messages(n: int) -> tuple[list[bytes], list[bytes], list[Row]]:
    """n requests and responses of several kinds, and their rows."""
    requests, responses, rows = [], [], []
    for i in range(n):
        target = f"/{i}?" + "q" * (i % 5 * 100)
        if i % 3 == 0:
            requests.append(head("GET", target))
            responses.append(answer(200 + i, b"r" * i))
            rows.append(Row("GET", target, 200 + i, 0, i))
        elif i % 3 == 1:
            requests.append(head("POST", target, f"Content-Length: {i}") + b"b" * i)
            responses.append(response_head(304, "Content-Length: 5"))
            rows.append(Row("POST", target, 304, i, 0))
        else:
            requests.append(head("PUT", target, "Transfer-Encoding: chunked") + chunks(b"c" * i, b"d"))
            responses.append(
                response_head(100) + response_head(200 + i, "Transfer-Encoding: chunked") + chunks(b"e" * i)
            )
            rows.append(Row("PUT", target, 200 + i, i + 1, i, flags=Flag.CHUNKED_REQUEST | Flag.CHUNKED_RESPONSE))
    return requests, responses, rows


def pipelined(talk: Talk, requests: list[bytes], responses: list[bytes], cut: int = 0) -> Talk:
    """All requests in one write, all responses in one; or each stream in pieces of `cut`."""
    for say, data in ((talk.client, b"".join(requests)), (talk.server, b"".join(responses))):
        pieces = [data[i : i + cut] for i in range(0, len(data), cut)] if cut else [data]
        say(*pieces, sizes=[cut] * (len(data) // cut) if cut else ())
    return talk


@pytest.mark.parametrize("n", [2, 3, 16, 60])
def test_pipelined_in_one_write(wire: Wire, n: int) -> None:
    requests, responses, rows = messages(n)
    wire.run(pipelined(wire.talk(), requests, responses).close())
    wire.check(rows)


@pytest.mark.parametrize("cut", [7, 64, 100, 333, 1000])
def test_pipelined_and_cut_anywhere(wire: Wire, cut: int) -> None:
    requests, responses, rows = messages(16)
    wire.run(pipelined(wire.talk(), requests, responses, cut).close())
    wire.check(rows)


def test_pipelined_and_split_at_every_byte(wire: Wire) -> None:
    requests, responses = (
        [head(target="/1"), head("HEAD", "/2"), head(target="/3")],
        [
            answer(201, b"a"),
            response_head(202, "Content-Length: 9"),
            answer(203),
        ],
    )
    stream, rows = b"".join(requests), [Row("GET", "/1", 201, 0, 1), Row("HEAD", "/2", 202), Row("GET", "/3", 203)]
    talk = wire.talk()
    for a, b in halves(stream):
        talk.client(a, b, sizes=[len(a)]).server(b"".join(responses))
    wire.run(talk.close())
    wire.check(rows * (len(stream) - 1))


def test_answered_while_more_requests_come(wire: Wire) -> None:
    """Never more than three outstanding, never none: the queue does not start anew."""
    requests, responses, rows = messages(30)
    talk = wire.talk().client(requests[0], requests[1])
    for request, response in zip(requests[2:], responses, strict=False):
        talk.client(request).server(response)
    wire.run(talk.server(*responses[-2:]).close())
    wire.check(rows)


def test_many_messages_in_each_of_many_writes(wire: Wire) -> None:
    requests, responses, rows = messages(20)
    talk = wire.talk()
    for _ in range(5):
        pipelined(talk, requests, responses)
    wire.run(talk.close())
    wire.check(rows * 5)
