# SPDX-License-Identifier: Apache-2.0
"""gRPC's messages in DATA frames, counted by the kernel: right, however framed and cut, or said to be not counted."""

from __future__ import annotations

import pytest
from protocols.wire import message

from instrumenter.bpf.abi import Direction, Protocol
from instrumenter.semantics import GRPC_STATUS
from kernel.harness import Talk, Wire
from kernel.http2 import ACK, SETTINGS, START, Side, block_frames, data
from kernel.seen import Seen
from kernel.test_h2_frames import STEP

pytestmark = pytest.mark.kernel

GRPC = [("content-type", "application/grpc"), ("te", "trailers")]
LARGE = message(40_000)
BODIES = {
    "one": ([message(5)], 1),
    "several in a frame": ([message(1) + message(0) + message(300)], 3),
    "one over frames": ([LARGE[:16384], LARGE[16384:32768], LARGE[32768:]], 1),
    "another behind its end": ([LARGE[:16384], LARGE[16384:32768], LARGE[32768:] + message(7) + message(8)], 3),
    "none": ([b""], 0),
}


def call(wire: Wire, bodies: list[bytes], cuts: tuple[int, ...] = (), read: tuple[int, ...] = ()) -> Talk:
    """Each way the same messages; trailers end the response."""
    client, server = Side(), Side()
    head = block_frames(1, client.request("/a.B/C", "POST", GRPC), False)
    asked = head + b"".join(data(1, body, end=body is bodies[-1]) for body in bodies)
    answered = block_frames(1, server.block([(":status", "200"), GRPC[0]]), False)
    answered += b"".join(data(1, body, end=False) for body in bodies) + server.trailers(1, [("grpc-status", "0")])
    talk = wire.talk().client(START).server(SETTINGS, ACK).client(ACK)
    at = len(head) + cuts[0] if cuts else 0
    pieces = (asked[:at], asked[at:]) if cuts else (asked,)
    return talk.client(*pieces, sizes=read).server(answered).close()


def messages(found: list[Seen], direction: Direction = Direction.SERVER) -> list[tuple[int, int]]:
    """-1: not counted."""
    ours = [each for each in found if each.direction == direction]
    assert all(each.row.version == Protocol.GRPC and each.row.status == GRPC_STATUS for each in ours)
    return [(each.request_messages - 1, each.response_messages - 1) for each in ours]


@pytest.mark.parametrize("bodies", list(BODIES))
def test_messages_are_counted(wire: Wire, bodies: str) -> None:
    frames, count = BODIES[bodies]
    wire.run(call(wire, frames))
    found = wire.collect()
    assert messages(found) == messages(found, Direction.CLIENT) == [(count, count)]
    assert wire.losses() == {}


def test_a_cut_makes_a_count_unknown_at_most(wire: Wire) -> None:
    """Inside of a message's length it is lost; nowhere else."""
    frames, count = [message(2) + message(3), message(4)], 3
    size = len(b"".join(frames)) + 2 * 9
    cuts = range(1, size, min(STEP, 3))
    wire.run(*(call(wire, frames, (at,)) for at in cuts))
    found = [asked for asked, answered in messages(wire.collect(), Direction.CLIENT) if answered == count]
    assert len(found) == len(cuts)
    assert set(found) == {count, -1}
    assert found.count(count) > len(cuts) // 3
    assert wire.losses() == {}
