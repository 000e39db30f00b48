# SPDX-License-Identifier: Apache-2.0
"""The kernel's records, read the fast way, give what the reference walker gives of the same bytes."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from instrumenter.bpf.abi import Direction, FramesFlag, FramesKind, Outcome
from instrumenter.protocols.http2 import Connection
from instrumenter.protocols.http2_events import Half
from instrumenter.protocols.http2_records import MAX_HELD, FrameRecords
from instrumenter.protocols.http2_start import PREFACE
from instrumenter.protocols.http2_streams import Exchange
from protocols.kernel_records import KernelHalf, begin, end, record
from protocols.test_http2_talks import tell, walk
from protocols.wire import SETTINGS, Recording, Talk, client, frame, message

KEY = 0xFFFF_8880_0000_1000


def records(recording: Recording, key: int = KEY) -> Iterator[bytes]:
    """Of a whole conversation, piece by piece."""
    halves = [KernelHalf(key, half) for half in Half]
    yield begin(key)
    preface = len(PREFACE)
    for now, (half, piece) in enumerate(recording.pieces, 1):
        if half is Half.REQUEST and preface:
            passed = min(preface, len(piece))
            preface, piece = preface - passed, piece[passed:]
        yield from halves[half].feed(piece, now)


def told(exchange: Exchange) -> tuple[object, ...]:
    return (exchange.stream, exchange.outcome, exchange.request, exchange.status, exchange.grpc_status,
            exchange.request_bytes, exchange.response_bytes)  # fmt: skip


def reference(recording: Recording) -> dict[int, tuple[object, ...]]:
    return {x.stream: told(x) for x in tell(Connection(Direction.SERVER), walk(recording))}


@pytest.mark.parametrize("seed", range(25))
def test_as_the_reference(seed: int) -> None:
    recording = Talk(seed, 12).run()
    found = FrameRecords()
    done = [x for raw in records(recording) for _, x in found.take(raw)]
    assert {x.stream: told(x) for x in done} == {
        x.stream: told(x) for x in tell(Connection(Direction.SERVER), walk(recording))
    }
    assert len(done) == len(recording.sent)


def test_a_batch_is_as_its_records_one_by_one() -> None:
    raws = list(records(Talk(3, 20).run()))
    single, whole = FrameRecords(), FrameRecords()
    assert [x for raw in raws for x in single.take(raw)] == whole.take(b"".join(raws))


@pytest.mark.parametrize("seed", range(40))
def test_a_lost_record_is_its_own_connections(seed: int) -> None:
    """Of two connections one loses records: the other's exchanges are whole, and nothing wrong is said of either."""
    chance = random.Random(seed)
    hurt, other = Talk(seed, 10).run(), Talk(seed + 1000, 10).run()
    parts = [raw for raw in records(hurt) if chance.random() > 0.15 or raw == begin(KEY)]
    both = FrameRecords()
    done = [x for raw in (*parts, *records(other, KEY + 64)) for x in both.take(raw)]
    done += both.take(end(KEY, 10**6, Outcome.PEER_CLOSED))
    whole = reference(other)
    assert {x.stream: told(x) for place, x in done if place.key != KEY} == whole
    for place, x in done:
        if place.key != KEY:
            continue
        sent = hurt.sent[x.stream]
        for name, value in ((b":path", x.request.path), (b":method", x.request.method)):
            assert not isinstance(value, bytes) or value == sent.request[name]
        assert not isinstance(x.status, int) or x.status in (sent.status, 103)


LARGE = [message(50_000)[at : at + 16384] for at in range(0, 50_005, 16384)]
PREFIX = message(7)
MESSAGES: dict[str, tuple[list[tuple[int, bytes]], list[int | None]]] = {
    "large ones in turns": ([(n, part) for part in [*LARGE, message(3) * 2] for n in (1, 3)], [3, 3]),
    "a prefix over frames": ([(1, PREFIX[:2]), (1, PREFIX[2:4]), (1, PREFIX[4:]), (3, PREFIX)], [1, 1]),
    "nothing inside of a prefix": ([(1, PREFIX[:2]), (1, b""), (1, PREFIX[2:] + PREFIX), (3, b"")], [2, 0]),
    "a prefix broken off by another stream": ([(1, PREFIX[:2]), (3, PREFIX), (1, PREFIX[2:])], [None, 1]),
}


@pytest.mark.parametrize("by", [1, 2, 3, 4, 5, 1 << 20], ids="pieces of {}".format)
@pytest.mark.parametrize("name", MESSAGES)
def test_messages_of_streams(name: str, by: int) -> None:
    """What the kernel takes for a message's beginning in the rest of one is no matter; calls may cut anything."""
    frames, expected = MESSAGES[name]
    said = b"".join([frame(1, 4, n, b"\x83\x86") for n in (1, 3)] + [frame(0, 0, n, body) for n, body in frames])
    asked, answered = KernelHalf(KEY, Half.REQUEST), KernelHalf(KEY, Half.RESPONSE)
    found = FrameRecords()
    found.take(begin(KEY))
    for at in range(0, len(said), by):
        found.take(b"".join(asked.feed(said[at : at + by], 1 + at)))
    ends = [asked.feed(frame(0, 1, n), 1 << 20) + answered.feed(frame(1, 5, n, b"\x88"), 1 << 21) for n in (1, 3)]
    done = [x for raws in ends for raw in raws for _, x in found.take(raw)]
    assert [x.request_messages for x in done] == expected


def test_a_connection_under_an_old_key() -> None:
    """Whose end was lost: what ran on it is over."""
    found = FrameRecords()
    found.take(begin(KEY))
    found.take(record(FramesKind.BYTES, KEY, 5, frame(1, 5, 1) + bytes(4)))
    done = found.take(begin(KEY, 9))
    assert [(x.outcome, x.end_ns) for _, x in done] == [(Outcome.UNREADABLE, 9)]
    assert len(found) == 1


def test_of_too_many_connections_the_quietest_goes() -> None:
    found = FrameRecords(max_connections=2)
    for key in (1, 2, 3):
        found.take(begin(key))
    found.take(record(FramesKind.BYTES, 1, 5, SETTINGS))
    assert len(found) == 2
    assert (found.counts.connections_evicted, found.counts.unfollowed) == (1, 1)


def test_unfinished_blocks_are_bounded_together() -> None:
    """Of many connections with a long block each, the last ones lose theirs; what ends gives its place back."""
    found = FrameRecords()
    long = (1 << 16).to_bytes(3) + b"\1\0\0\0\0\1" + bytes(4)
    for key in range(300):
        found.take(begin(key))
        for number in range(20):
            data = long if number == 0 else bytes(2048)
            found.take(record(FramesKind.BYTES, key, 5, data, number=number, rest=0 if number == 0 else 2048))
    assert MAX_HELD - 65536 < found.held.bytes <= MAX_HELD
    assert found.counts.gaps > 0
    for key in range(300):
        found.take(end(key, 9, Outcome.RESET))
    assert found.held.bytes == 0


def test_a_gap_in_the_kernel() -> None:
    """What was begun before it is lost; what comes behind it begins with a frame."""
    found = FrameRecords()
    found.take(begin(KEY))
    block = frame(1, 5, 1, b"\x82\x86\x84")
    found.take(record(FramesKind.BYTES, KEY, 1, block[:11]))
    found.take(record(FramesKind.BYTES, KEY, 2, block[:9] + bytes(4) + block[9:], number=1, flags=FramesFlag.GAP))
    done = found.take(record(FramesKind.BYTES, KEY, 3, frame(1, 5, 1, b"") + bytes(4), half=1))
    assert [(x.request.method, x.request.path) for _, x in done] == [(b"GET", b"/")]


@pytest.mark.parametrize("seed", range(60))
def test_any_records(seed: int) -> None:
    """Nothing raises, and what is held stays bounded."""
    chance = random.Random(seed)
    found = FrameRecords(max_connections=4)
    raws = list(records(Talk(seed % 5, 8).run()))
    for now in range(400):
        raw = bytearray(chance.choice(raws))
        for _ in range(chance.randrange(3)):
            raw[chance.randrange(8, len(raw))] = chance.randrange(256)
        match chance.randrange(6):
            case 0:
                raw = bytearray(begin(chance.randrange(8), joined=chance.random() < 0.5, direction=Direction.CLIENT))
            case 1:
                noise = chance.randbytes(chance.randrange(3000))
                raw = bytearray(record(FramesKind.BYTES, chance.randrange(8), now, noise, half=chance.randrange(2),
                                       rest=chance.randrange(50)))  # fmt: skip
            case 2:
                raw = bytearray(end(KEY, now, Outcome.RESET))
        for place, exchange in found.take(bytes(raw)):
            assert exchange.start_ns <= exchange.end_ns
            assert place.key >= 0
        assert len(found) <= 4


def test_client_bytes_have_the_preface() -> None:
    """What `records` leaves out is what the kernel passes."""
    assert client().startswith(PREFACE)
