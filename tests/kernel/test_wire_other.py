# SPDX-License-Identifier: Apache-2.0
"""Bytes that are not HTTP/1 on a watched socket: no exchange, no loss, and nothing that begins where it cannot."""

from __future__ import annotations

import hashlib

import pytest

from instrumenter.bpf.abi import Loss
from kernel.harness import Wire
from kernel.http1 import answer, head
from kernel.seen import Row

pytestmark = pytest.mark.kernel

OK = answer(200, b"ok")
NOISE = b"".join(hashlib.sha256(bytes([i])).digest() for i in range(128))
HELLO = (
    bytes.fromhex("16030100c4010000c00303") + NOISE[:32] + b"\x20" + NOISE[32:64] + b"\x00\x3e\x13\x02" + NOISE[64:140]
)
# What the client says and what the server answers, in turns.
OTHERS = {
    "redis": [b"*2\r\n$3\r\nGET\r\n$1\r\nk\r\n", b"$5\r\nhello\r\n", b"*1\r\n$4\r\nPING\r\n", b"+PONG\r\n"] * 5,
    "redis, inline": [b"PING\r\n", b"+PONG\r\n", b"GET k\r\n", b"$-1\r\n"] * 5,
    "memcached": [b"get /key\r\n", b"END\r\n", b"set /k 0 0 2\r\nok\r\n", b"STORED\r\n"] * 5,
    "tls": [HELLO, b"\x16\x03\x03" + NOISE[:200], b"\x17\x03\x03" + NOISE[200:300], b"\x17\x03\x03" + NOISE[300:400]]
    * 3,
    "http/2 as a version": [b"GET / HTTP/2.0\r\nHost: h\r\n\r\n", b"HTTP/1.1 505 x\r\nContent-Length: 0\r\n\r\n"],
    "http/0.9": [b"GET /\r\n", b"<html></html>"],
    "http/1.2": [b"GET / HTTP/1.2\r\n\r\n", b"HTTP/1.2 200 OK\r\n\r\n"],
    "sip": [b"OPTIONS sip:nm@nm SIP/2.0\r\nVia: SIP/2.0/TCP nm\r\nContent-Length: 0\r\n\r\n", b"SIP/2.0 200 OK\r\n\r\n"]
    * 3,
    "rtsp": [b"DESCRIBE rtsp://a/b RTSP/1.0\r\nCSeq: 2\r\n\r\n", b"RTSP/1.0 200 OK\r\nCSeq: 2\r\n\r\n"] * 3,
    "ssh": [b"SSH-2.0-OpenSSH_9.6\r\n", b"SSH-2.0-OpenSSH_9.6\r\n", NOISE[:100], NOISE[100:200]],
    "smtp": [
        b"EHLO a.b\r\n",
        b"250-x\r\n",
        b"MAIL FROM:<a@b>\r\n",
        b"250 OK\r\n",
        b"DATA\r\n",
        b"354 x\r\n",
        b"GET / HTTP\r\n.\r\n",
        b"250\r\n",
    ],
    "postgres": [
        b"\x00\x00\x00\x27\x00\x03\x00\x00user\x00u\x00\x00",
        b"R\x00\x00\x00\x08\x00\x00\x00\x00",
        b"Q\x00\x00\x00\x0dSELECT 1\x00",
        b"T\x00",
    ]
    * 2,
    "mysql": [
        b"\x03\x00\x00\x00\x03/*",
        b"\x07\x00\x00\x01\x00",
        b"\x12\x00\x00\x00\x03SELECT /* HTTP/1.1 */",
        b"\x01",
    ],
    "noise": [NOISE[i : i + 256] for i in range(0, 4096, 256)],
    "zeros": [bytes(5000)] * 4,
    "blanks and lines": [b"\r\n\r\n\n\n", b"\n", b"   \r\n", b"\r\n", b"\r\n" * 500, b"x"],
    "one endless word": [b"A" * 5000] * 4,
    "words": [b"the quick brown fox jumps over / the lazy dog\r\n" * 50] * 4,
    "almost": [b"GET / HTTP/1.1x\r\n\r\n", b"x", b"GET  / HTTP/1.1\r\n\r\n", b"x", b"G(T / HTTP/1.1\r\n\r\n", b"x"],
    "too long a method": [b"M" * 33 + b" / HTTP/1.1\r\n\r\n", OK],
}


@pytest.mark.parametrize("other", list(OTHERS))
def test_other_protocols(wire: Wire, other: str) -> None:
    talk = wire.talk()
    for i, data in enumerate(OTHERS[other]):
        talk = talk.server(data) if i % 2 else talk.client(data)
    wire.run(talk.close())
    wire.check([])


def test_a_server_that_speaks_first(wire: Wire) -> None:
    talk = wire.talk().server(b"220 ready\r\n").client(b"EHLO x\r\n").server(b"250 x\r\n").client(b"QUIT\r\n")
    wire.run(talk.server(b"221 x\r\n").close())
    wire.check([])


def test_responses_without_requests(wire: Wire) -> None:
    wire.run(wire.talk().server(OK).client(OK).server(OK + OK).close())
    wire.check([])


def test_http_after_a_false_start(wire: Wire) -> None:
    """A few turns of something else, as a proxy's greeting, do not cost the connection."""
    talk = wire.talk().client(b"hello\r\n").server(b"world\r\n")
    wire.run(talk.client(head()).server(OK).close())
    wire.check([Row("GET", "/", 200, 0, 2)])


def test_what_is_not_http_behind_http(wire: Wire) -> None:
    """On a connection that did speak it, that is a loss: counted at both ends, and picked up at the next request."""
    talk = wire.talk().client(head()).server(OK).client(NOISE[:300]).server(NOISE[300:600])
    wire.run(talk.client(head(target="/again")).server(OK).close())
    wire.check([Row("GET", "/", 200, 0, 2), Row("GET", "/again", 200, 0, 2)], losses={Loss.MALFORMED: 2})
