# SPDX-License-Identifier: Apache-2.0
"""Conversations of the h2 library: what comes out is what was put in, or said to be unknown, wherever one joins.

The property, for every exchange of every run: each field is the sender's own or UNKNOWN; a stream gives one exchange.
"""

from __future__ import annotations

import random
from collections.abc import Iterable

import pytest

from instrumenter.bpf.abi import Direction, Outcome
from instrumenter.protocols.http2 import Connection
from instrumenter.protocols.http2_events import Gap, Half, Headers, Promise, Seen
from instrumenter.protocols.http2_frames import State, Walker
from instrumenter.protocols.http2_headers import UNKNOWN
from instrumenter.protocols.http2_streams import Exchange
from protocols.wire import Recording, Sent, Talk

Told = list[tuple[Half, Seen]]
REQUEST = {
    "method": b":method", "scheme": b":scheme", "authority": b":authority", "path": b":path",
    "user_agent": b"user-agent", "traceparent": b"traceparent", "content_type": b"content-type",
}  # fmt: skip
WIDEST = 128  # what is kept of the texts above that may be long


def walk(recording: Recording) -> Told:
    """Events of both halves, in the order in which their last bytes passed; the nth piece passes at n."""
    walkers = [Walker(half, messages=True) for half in Half]
    told = [
        (half, seen) for at, (half, piece) in enumerate(recording.pieces, 1) for seen in walkers[half].feed(piece, at)
    ]
    assert {walker.state for walker in walkers} == {State.HEAD}
    return told


def tell(connection: Connection, told: Iterable[tuple[Half, Seen]]) -> list[Exchange]:
    found = [x for half, seen in told for x in connection.handle(half, *seen)]
    return found + connection.close(Outcome.PEER_CLOSED, 1 << 60)


def differences(found: Exchange, sent: Sent) -> dict[str, tuple[object, object]]:
    """What is neither as it was sent nor unknown: (found, sent)."""
    pairs: dict[str, tuple[object, object]] = {
        name: (getattr(found.request, name), sent.request.get(field)) for name, field in REQUEST.items()
    }
    pairs["status"] = (found.status, sent.status)
    pairs["response_type"] = (found.response_type, sent.response.get(b"content-type"))
    pairs["grpc_status"] = (found.grpc_status, sent.trailers.get(b"grpc-status"))
    return {name: pair for name, pair in pairs.items() if pair[0] is not UNKNOWN and pair[0] != cut(pair[1])}


def cut(value: object) -> object:
    return value[:WIDEST] if isinstance(value, bytes) else value


def unknown(exchanges: Iterable[Exchange]) -> int:
    return sum(UNKNOWN in (*x.request, x.status, x.response_type, x.grpc_status) for x in exchanges)


@pytest.mark.parametrize(("streams", "seed"), [(1, 0), (2, 1), *((10, n) for n in range(8)), (100, 0), (100, 1)])
def test_all_of_it(streams: int, seed: int) -> None:
    recording = Talk(seed, streams).run()
    connection = Connection(Direction.SERVER)
    found = {x.stream: x for x in tell(connection, walk(recording))}
    assert found.keys() == recording.sent.keys()
    assert (connection.counts.exchanges, connection.counts.undecodable, unknown(found.values())) == (streams, 0, 0)
    for number, sent in recording.sent.items():
        x = found[number]
        assert differences(x, sent) == {}
        assert (x.outcome, x.request_bytes, x.response_bytes) == (sent.outcome, sent.request_bytes, sent.response_bytes)
        assert x.start_ns <= (x.first_ns or x.start_ns) <= x.end_ns < 1 << 60


@pytest.mark.parametrize("seed", range(3))
def test_joined_at_every_event(seed: int) -> None:
    """From there on each request is one exchange, right or unknown; nothing comes of those before."""
    recording = Talk(seed, 18).run()
    told = walk(recording)
    for start in range(1, len(told)):
        connection = Connection(Direction.CLIENT, joined=True)
        found = tell(connection, told[start:])
        heads = [seen.event.stream for half, seen in told[:start] if isinstance(seen.event, Headers) and not half]
        assert sorted(x.stream for x in found) == sorted(recording.sent.keys() - set(heads))
        assert [differences(x, recording.sent[x.stream]) for x in found] == [{}] * len(found)
        assert connection.counts.undecodable == 0


@pytest.mark.parametrize("seed", range(3))
def test_joined_at_every_frame(seed: int) -> None:
    """The walkers joined too, each at its next frame: the bytes give the events that they would have given."""
    recording = Talk(seed, 12).run()
    for half in Half:
        data = b"".join(recording.half(half))
        whole = [seen.event for seen in Walker(half).feed(data)]
        at = 24 if half is Half.REQUEST else 0
        while at < len(data):
            found = [seen.event for seen in Walker(half, joined=True).feed(data[at:])]
            assert found == whole[len(whole) - len(found) :]
            assert len(found) >= len(whole) - len(Walker(half).feed(data[:at])) - 1
            at += 9 + int.from_bytes(data[at : at + 3])


def damaged(told: Told, chance: random.Random) -> Told:
    """Some records lost: unnoticed but for a Gap, or with a block that is marked as cut."""
    out: Told = []
    for half, seen in told:
        fate, event = chance.random(), seen.event
        if fate < 0.03:
            out.append((half, seen._replace(event=Gap())))
        elif fate < 0.15 and isinstance(event, Headers):
            kept = chance.randrange(len(event.block) + 1)
            out.append((half, seen._replace(event=Headers(event.stream, event.block[:kept], event.end_stream, True))))
        elif fate < 0.15 and isinstance(event, Promise):
            out.append((half, seen._replace(event=Promise(event.promised, b"", True))))
        else:
            out.append((half, seen))
    return out


@pytest.mark.parametrize("seed", range(4))
def test_with_losses(seed: int) -> None:
    """Nothing is wrong, no stream is twice, and none that was seen to begin is missing."""
    recording = Talk(seed, 20).run()
    told = walk(recording)
    for trial in range(8):
        rest = damaged(told, random.Random(trial))
        connection = Connection(Direction.SERVER)
        found = tell(connection, rest)
        begun = {s.event.stream for half, s in rest if isinstance(s.event, Headers) and not half}
        ids = [x.stream for x in found]
        assert len(ids) == len(set(ids))
        assert set(ids) <= begun
        assert connection.counts.undecodable == 0
        if not any(half is Half.REQUEST and isinstance(seen.event, Gap) for half, seen in rest):
            assert set(ids) == begun
        assert [differences(x, recording.sent[x.stream]) for x in found] == [{}] * len(found)
