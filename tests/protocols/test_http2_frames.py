# SPDX-License-Identifier: Apache-2.0
"""Bytes to events as a table; each case fed whole, split at every byte, with a gap at every byte, joined mid-stream."""

from __future__ import annotations

import pytest

from instrumenter.protocols import http2_format as form
from instrumenter.protocols.http2_events import (
    Data,
    Event,
    Gap,
    GoAway,
    Half,
    Headers,
    NotHttp2,
    Promise,
    Reset,
    TableSize,
    Upgrade,
)
from instrumenter.protocols.http2_frames import MAX_COUNTED, State, Walker
from instrumenter.protocols.http2_start import MAX_HEAD, PREFACE
from protocols.wire import REQUEST, RESPONSE, SETTINGS, client, events, frame, message

H2C = b"POST /up HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUPGRADE: h2c\r\nContent-Length: 3\r\n\r\n"
SWITCH = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n"
BIG = b"B" * form.MAX_BLOCK
NOT = "not HTTP/2"  # stands for NotHttp2 with any reason

# (what it shows, half, bytes, events)
CASES: list[tuple[str, Half, bytes, list[Event | str]]] = [
    ("preface alone", REQUEST, client(), []),
    ("a request", REQUEST, client(frame(1, 5, 1, b"blk")), [Headers(1, b"blk", True)]),
    ("request and body", REQUEST, client(frame(1, 4, 3, b"b"), frame(0, 0, 3, b"abc"), frame(0, 1, 3)),
     [Headers(3, b"b", False), Data(3, 3, False), Data(3, 0, True)]),
    ("an empty block", REQUEST, client(frame(1, 5, 1)), [Headers(1, b"", True)]),
    ("continued", RESPONSE,
     SETTINGS + frame(1, 1, 1, b"a") + frame(9, 0, 1, b"b") + frame(9, 0, 1) + frame(9, 4, 1, b"c"),
     [Headers(1, b"abc", True)]),
    ("padded headers", REQUEST, client(frame(1, 12, 1, b"\3blk\0\0\0")), [Headers(1, b"blk", False)]),
    ("padded, with priority", REQUEST, client(frame(1, 0x2D, 1, b"\2\0\0\0\0\x0fblk\0\0")), [Headers(1, b"blk", True)]),
    ("nothing but padding", REQUEST, client(frame(1, 13, 1, b"\3\0\0\0")), [Headers(1, b"", True)]),
    ("padded headers, continued unpadded", REQUEST, client(frame(1, 8, 1, b"\1a\0"), frame(9, 0xC, 1, b"\1b")),
     [Headers(1, b"a\1b", False)]),
    ("padded data", REQUEST, client(frame(0, 9, 1, b"\4abc\0\0\0\0"), frame(0, 8, 3, b"\0")),
     [Data(1, 3, True), Data(3, 0, False)]),
    ("reset", RESPONSE, SETTINGS + frame(3, 0, 5, b"\0\0\0\x08"), [Reset(5, 8)]),
    ("goaway with debug data", RESPONSE, SETTINGS + frame(7, 0, 0, b"\x80\0\0\7\0\0\0\2why"), [GoAway(7, 2)]),
    ("settings", RESPONSE, frame(4, 0, 0, b"\0\3\0\0\0\x64\0\1\0\0\0\0\0\1\0\1\0\0") + frame(4, 1, 0),
     [TableSize(0), TableSize(65536)]),
    ("push", RESPONSE, SETTINGS + frame(5, 0, 1, b"\0\0\0\2bl") + frame(9, 4, 1, b"k"), [Promise(2, b"blk")]),
    ("padded push", RESPONSE, SETTINGS + frame(5, 12, 1, b"\2\0\0\0\2bl\0\0"), [Promise(2, b"bl")]),
    ("of no interest", REQUEST, client(frame(2, 0, 3, b"\0\0\0\0\1"), frame(6, 0, 0, b"12345678"),
     frame(8, 0, 0, b"\0\0\0\1"), frame(8, 0, 1, b"\0\0\0\1"),
     frame(0xC, 9, 0, b"i, u=1"), frame(0xFA, 0xFF, 77, b"?")), []),
    ("reserved bit", REQUEST, client(frame(1, 5, 0x8000_0001, b"b")), [Headers(1, b"b", True)]),
    ("a block too large", REQUEST, client(frame(1, 1, 1, BIG), frame(9, 4, 1, b"more"), frame(1, 5, 3, b"b")),
     [Headers(1, BIG, True, cut=True), Headers(3, b"b", True)]),
    ("a frame too large", REQUEST, client(frame(1, 13, 1, b"\2" + BIG + b"xyz\0\0"), frame(1, 5, 3, b"b")),
     [Headers(1, BIG, True, cut=True), Headers(3, b"b", True)]),
    ("upgrade", REQUEST, H2C + b"bdy" + client(frame(1, 5, 3, b"b")), [Upgrade(H2C, 3), Headers(3, b"b", True)]),
    ("upgraded", RESPONSE, SWITCH + SETTINGS + frame(1, 5, 1, b"b"), [Headers(1, b"b", True)]),
    ("HTTP/1", REQUEST, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", [NOT]),
    ("HTTP/1, to be upgraded to another", REQUEST, b"GET / HTTP/1.1\r\nUpgrade: websocket\r\n\r\n", [NOT]),
    ("HTTP/1 goes on", REQUEST, H2C + b"bdy" + b"GET / HTTP/1.1\r\n\r\n", [Upgrade(H2C, 3), NOT]),
    ("HTTP/1 answers", RESPONSE, b"HTTP/1.1 200 OK\r\n\r\n", [NOT]),
    ("TLS", REQUEST, b"\x16\x03\1\2\0\1\0\1\xfc\3\3", [NOT]),
    ("nearly the preface", REQUEST, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\n" + SETTINGS, [NOT]),
    ("a head without end", REQUEST, b"GET /" + b"a" * (MAX_HEAD + 50), [NOT]),
    ("no settings first", REQUEST, PREFACE + frame(1, 5, 1, b"b"), [NOT]),
    ("an ACK first", RESPONSE, frame(4, 1, 0), [NOT]),
    ("settings cut", RESPONSE, frame(4, 0, 0, b"12345"), [NOT]),
    ("settings on a stream", RESPONSE, frame(4, 0, 1), [NOT]),
    ("data on stream 0", REQUEST, client(frame(0, 0, 0, b"x")), [NOT]),
    ("padding of nothing", REQUEST, client(frame(0, 8, 1)), [NOT]),
    ("padded too far", REQUEST, client(frame(0, 8, 1, b"\3ab")), [NOT]),
    ("headers padded too far", REQUEST, client(frame(1, 12, 1, b"\4abc")), [NOT]),
    ("priority cut", REQUEST, client(frame(1, 0x24, 1, b"abcd")), [NOT]),
    ("continued by none", REQUEST, client(frame(1, 0, 1, b"b"), frame(0, 0, 1, b"x")), [NOT]),
    ("continued on another stream", REQUEST, client(frame(1, 0, 1, b"b"), frame(9, 4, 3, b"x")), [NOT]),
    ("nothing to continue", REQUEST, client(frame(9, 4, 1, b"b")), [NOT]),
    ("a client pushes", REQUEST, client(frame(5, 4, 1, b"\0\0\0\2b")), [NOT]),
    ("push of nothing", RESPONSE, SETTINGS + frame(5, 4, 1, b"\0\0\0\0b"), [NOT]),
    ("ping of 7", REQUEST, client(frame(6, 0, 0, b"1234567")), [NOT]),
    ("broken after good", REQUEST, client(frame(1, 5, 1, b"b"), frame(3, 0, 1, b"123"), frame(1, 5, 3, b"b")),
     [Headers(1, b"b", True), NOT]),
]  # fmt: skip
SHORT = [case for case in CASES if len(case[2]) < 1000]


def plain(found: list[Event]) -> list[Event | str]:
    return [NOT if isinstance(event, NotHttp2) else event for event in found]


@pytest.mark.parametrize(("half", "data", "expected"), [c[1:] for c in CASES], ids=[c[0] for c in CASES])
def test_whole(half: Half, data: bytes, expected: list[Event | str]) -> None:
    assert plain(events(Walker(half), [data])) == expected


@pytest.mark.parametrize(("half", "data", "expected"), [c[1:] for c in SHORT], ids=[c[0] for c in SHORT])
def test_split_at_every_byte(half: Half, data: bytes, expected: list[Event | str]) -> None:
    assert plain(events(Walker(half), [data[i : i + 1] for i in range(len(data))])) == expected
    for at in range(len(data)):
        assert plain(events(Walker(half), [data[:at], data[at:]])) == expected


@pytest.mark.parametrize(("half", "data", "expected"), [c[1:] for c in SHORT], ids=[c[0] for c in SHORT])
def test_gap_at_every_byte(half: Half, data: bytes, expected: list[Event | str]) -> None:
    """What came before stands; then the half is lost, until a frame's place is told."""
    for at in range(len(data)):
        walker = Walker(half)
        before = plain(events(walker, [data[:at]]))
        assert before == expected[: len(before)]
        if walker.state is State.NOT_HTTP2:
            assert walker.gap() == walker.feed(data) == []
            continue
        assert [seen.event for seen in walker.gap()] == [Gap()]
        assert walker.gap() == walker.feed(data[at + 1 :]) == []
        walker.resume()
        assert events(walker, [frame(1, 5, 9, b"blk")]) == [Headers(9, b"blk", True)]


def boundaries(half: Half, data: bytes) -> list[int]:
    """Where frames begin."""
    at = len(PREFACE) if half is REQUEST else 0
    places = []
    while at < len(data):
        places.append(at)
        at += 9 + int.from_bytes(data[at : at + 3])
    return places


FRAMED = [c for c in CASES if NOT not in c[3] and c[2].startswith((PREFACE, b"\0\0")) and c[0] != "of no interest"]


@pytest.mark.parametrize(("half", "data", "expected"), [c[1:] for c in FRAMED], ids=[c[0] for c in FRAMED])
def test_joined_at_every_frame(half: Half, data: bytes, expected: list[Event | str]) -> None:
    """The rest is as it would have been; of a block that was joined within, nothing comes."""
    for at in boundaries(half, data):
        before = events(Walker(half), [data[:at]])
        found = events(Walker(half, joined=True), [data[at:]])
        inside = data[at + 3] == form.CONTINUATION
        assert found == expected[len(before) + inside :]


def test_joined_elsewhere() -> None:
    data = frame(1, 5, 1, b"blk" * 9) + frame(0, 1, 1, b"x" * 40)
    inside = [Walker(REQUEST, joined=True) for _ in range(1, 9)]
    for at, walker in enumerate(inside, 1):
        assert all(isinstance(event, NotHttp2) for event in events(walker, [data[at:]]))
    assert plain(events(Walker(REQUEST, joined=True), [frame(0xC, 0, 0, b"u=1")])) == [NOT]


def test_times() -> None:
    """A block began with its HEADERS' first byte, and ended with its last CONTINUATION."""
    walker = Walker(RESPONSE)
    data = SETTINGS + frame(1, 0, 1, b"abc") + frame(9, 4, 1, b"d") + frame(0, 0, 1, b"e")
    seen = [s for i in range(len(data)) for s in walker.feed(data[i : i + 1], i)]
    assert [(s.begin_ns, s.end_ns) for s in seen] == [(9, 30), (31, 40)]


def test_body_that_cannot_be_read() -> None:
    """sendfile: bytes pass unseen inside a body, and nothing is lost; anywhere else the half is."""
    head = SETTINGS + frame(1, 4, 1, b"b") + (100).to_bytes(3) + b"\0\1\0\0\0\1"
    walker = Walker(RESPONSE)
    walker.feed(head + b"ab")
    assert [s.event for s in walker.skip(98) + walker.feed(frame(1, 5, 3, b"c"))] == [
        Data(1, 100, True),
        Headers(3, b"c", True),
    ]
    walker = Walker(RESPONSE)
    walker.feed(head)
    assert walker.skip(0) == []
    assert [s.event for s in walker.skip(101)] == [Gap()]
    walker = Walker(RESPONSE)
    walker.feed(SETTINGS + frame(1, 4, 1, b"blk")[:-1])
    assert [s.event for s in walker.skip(1)] == [Gap()]


MESSAGES = message(0) + message(7) + message(300)
COUNTED = (
    SETTINGS + frame(1, 4, 1, b"b") + frame(0, 0, 1, MESSAGES[:8]) + frame(0, 8, 1, b"\2" + MESSAGES[8:90] + b"\0\0")
)
COUNTED += frame(0, 0, 3, b"??") + frame(0, 1, 1, MESSAGES[90:])


def test_messages_are_counted() -> None:
    """Over frames and pieces cut anywhere; not of streams whose beginning was not seen."""
    whole = [event for event in events(Walker(RESPONSE, messages=True), [COUNTED]) if isinstance(event, Data)]
    assert [event.messages for event in whole] == [1, 2, None, 0]
    for at in range(len(COUNTED)):
        parts = events(Walker(RESPONSE, messages=True), [COUNTED[:at], COUNTED[at:]])
        assert [event for event in parts if isinstance(event, Data)] == whole


def test_messages_with_bytes_unseen() -> None:
    walker = Walker(RESPONSE, messages=True)
    walker.feed(SETTINGS + frame(1, 4, 1, b"b") + (60).to_bytes(3) + b"\0\0\0\0\0\1" + message(50)[:10])
    assert [s.event for s in walker.skip(45) + walker.feed(message(0))] == [Data(1, 60, False, 2)]
    walker.feed((20).to_bytes(3) + b"\0\0\0\0\0\1" + message(20)[:5])
    assert [s.event for s in walker.skip(15)] == [Data(1, 20, False, 1)]
    walker.feed((20).to_bytes(3) + b"\0\0\0\0\0\1")
    assert [s.event for s in walker.skip(20)] == [Data(1, 20, False, None)]  # 5 of the last message, then whatever


def test_held_is_bounded() -> None:
    """Continuations without end, and streams without end."""
    walker = Walker(REQUEST, messages=True)
    walker.feed(client(frame(1, 0, 1, b"x")))
    for _ in range(40):
        assert walker.feed(frame(9, 0, 1, b"y" * 10_000) + frame(9, 0, 1)) == []
    assert [s.event for s in walker.feed(frame(9, 4, 1))] == [
        Headers(1, b"x" + b"y" * (form.MAX_BLOCK - 1), False, True)
    ]
    first = [walker.feed(frame(1, 4, 3 + 2 * i)) for i in range(MAX_COUNTED)]
    assert len(first) == MAX_COUNTED
    last = 1 + 2 * MAX_COUNTED
    found = walker.feed(frame(0, 0, 1, message(1)) + frame(0, 0, last, message(1)))
    assert [s.event for s in found] == [Data(1, 6, False, None), Data(last, 6, False, 1)]
