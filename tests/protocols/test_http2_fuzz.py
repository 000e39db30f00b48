# SPDX-License-Identifier: Apache-2.0
"""Any bytes, pieces, gaps and events: nothing raises, nothing hangs, and what is held stays bounded.

Seeded, and over after a fixed number of bytes: the time is bounded by that.
"""

from __future__ import annotations

import random

import pytest

from instrumenter.bpf.abi import Direction, Outcome
from instrumenter.protocols.http2 import Connection, Connections
from instrumenter.protocols.http2_events import Data, Event, Gap, GoAway, Half, Headers, Promise, Reset, TableSize
from instrumenter.protocols.http2_format import MAX_BLOCK
from instrumenter.protocols.http2_frames import MAX_COUNTED, State, Walker
from instrumenter.protocols.http2_headers import FieldDecoder
from instrumenter.protocols.http2_start import PREFACE
from instrumenter.protocols.http2_table import MAX_KEPT
from protocols.wire import SETTINGS, Recording, Talk, frame


def garble(chance: random.Random, data: bytes) -> bytes:
    """A few bytes changed, left out, or twice."""
    out = bytearray(data)
    for _ in range(chance.randrange(4)):
        at = chance.randrange(len(out))
        size = chance.randrange(1, 40)
        match chance.randrange(3):
            case 0:
                out[at] = chance.randrange(256)
            case 1:
                del out[at : at + size]
            case _:
                out[at:at] = out[at : at + size]
    return bytes(out)


def some_frames(chance: random.Random) -> bytes:
    """Frames of any type, most of them with a payload that fits."""
    sizes = {2: 5, 3: 4, 4: 6, 6: 8, 7: 8, 8: 4}
    out = []
    for _ in range(60):
        kind = chance.choice((0, 0, 1, 1, 2, 3, 4, 5, 6, 7, 8, 9, 9, 200))
        stream = 0 if kind in (4, 6, 7) else chance.randrange(1, 40)
        size = sizes.get(kind, chance.randrange(6, 90)) + (chance.random() < 0.02)
        out.append(frame(kind, chance.choice((0, 1, 4, 5)) if kind != 4 else 0, stream, chance.randbytes(size)))
    return b"".join(out)


@pytest.fixture(scope="module")
def talks() -> list[Recording]:
    return [Talk(seed, 8).run() for seed in range(4)]


@pytest.mark.parametrize("seed", range(60))
def test_bytes(talks: list[Recording], seed: int) -> None:
    chance = random.Random(seed)
    recording = talks[seed % 4]
    connection = Connection(Direction.SERVER, joined=chance.random() < 0.5, max_streams=4)
    for half in Half:
        start = PREFACE + SETTINGS if half is Half.REQUEST else SETTINGS
        data = chance.choice((b"".join(recording.half(half)), start + some_frames(chance), chance.randbytes(2000)))
        data = garble(chance, data)
        walker = Walker(half, joined=chance.random() < 0.3, messages=True)
        while data:
            size = chance.choice((1, 5, 100, 5000))
            seen = walker.feed(data[:size], 1)
            data = data[size:]
            if chance.random() < 0.02:
                seen += walker.skip(chance.randrange(20), 1)
            if walker.state is State.LOST and chance.random() < 0.5:
                walker.resume()
            for event, begin, end in seen:
                connection.handle(half, event, begin, end)
            assert len(connection) <= 4
    connection.close(Outcome.RESET, 1)
    assert len(connection) == 0


@pytest.mark.parametrize("seed", range(40))
def test_blocks(seed: int) -> None:
    chance = random.Random(seed)
    decoder = FieldDecoder(joined=chance.random() < 0.5)
    for _ in range(300):
        match chance.randrange(12):
            case 0:
                decoder.limit(chance.randrange(1 << 32))
            case 1:
                decoder.forget()
            case _:
                block = chance.randbytes(chance.randrange(60))
                found = decoder.decode(block, cut=chance.random() < 0.1)
                assert all(field.name is not None and field.value is not None for field in found.fields)
        assert len(decoder.table) * 32 <= MAX_KEPT


def an_event(chance: random.Random) -> Event:
    stream = chance.randrange(30)
    block = chance.choice((b"", b"\x82\x84\x86", b"\x88", b"\xbe", b"\x48\x03103", chance.randbytes(9)))
    return chance.choice((
        Headers(stream, block, chance.random() < 0.5, chance.random() < 0.1), Headers(stream, b"\x82\x84", True),
        Data(stream, chance.randrange(99), chance.random() < 0.5, chance.choice((None, 0, 2))), Promise(stream, block),
        Reset(stream, 1), TableSize(chance.randrange(9999)), Gap(), GoAway(chance.randrange(1 << 31), 0),
    ))  # fmt: skip


@pytest.mark.parametrize("seed", range(30))
def test_events(seed: int) -> None:
    """Of each stream at most one exchange, however odd the order."""
    chance = random.Random(seed)
    connections = Connections(max_connections=3)
    found = []
    for now in range(1500):
        key = chance.randrange(5)
        half = chance.choice((Half.REQUEST, Half.RESPONSE))
        found += connections.handle(key, Direction.CLIENT, half, an_event(chance), now, now)
        if now % 100 == 99:
            found += connections.expire(now - 50) + connections.close(key, Outcome.PEER_CLOSED, now)
    assert len(connections) <= 3
    found += [x for key in range(5) for x in connections.close(key, Outcome.RESET, 2000)]
    assert len(found) == connections.counts.exchanges
    assert all(x.start_ns <= x.end_ns for x in found)


def test_walker_holds_little() -> None:
    """Two million bytes of what could be kept: blocks that never end, streams that never end, one large frame."""
    walker = Walker(Half.REQUEST, messages=True)
    walker.feed(PREFACE + SETTINGS)
    for stream in range(1, 2 * MAX_COUNTED * 2, 2):
        walker.feed(frame(1, 4, stream) + frame(0, 0, stream, b"\0\0"))
    assert walker._counters is not None
    assert len(walker._counters) == MAX_COUNTED
    walker.feed((1 << 20).to_bytes(3) + b"\1\0\0\0\0\1")
    for _ in range(256):
        walker.feed(b"x" * 4096)
    walker.feed(frame(9, 0, 1, b"y" * 9000) * 50)
    assert walker._block is not None
    assert len(walker._block.text) == MAX_BLOCK
    assert len(walker._kept) <= MAX_BLOCK + 16
