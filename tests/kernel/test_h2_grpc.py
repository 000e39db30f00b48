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
    "a byte in a frame": ([bytes([byte]) for byte in message(2) + message(0) + message(300)], 3),
    "a frame with nothing in a prefix": ([message(1)[:3], b"", message(1)[3:]], 1),
}
NOT_COUNTED = -1


def call(wire: Wire, bodies: list[bytes], cut: int = 0) -> Talk:
    """Each way the same messages; trailers end the response. cut: so many bytes of the body's frames, and what is
    before them, are sent, and read, by one call and what follows by another."""
    client, server = Side(), Side()
    head = block_frames(1, client.request("/a.B/C", "POST", GRPC), False)
    asked = head + b"".join(data(1, body, end=body is bodies[-1]) for body in bodies)
    start = block_frames(1, server.block([(":status", "200"), GRPC[0]]), False)
    answered = (
        start + b"".join(data(1, body, end=False) for body in bodies) + server.trailers(1, [("grpc-status", "0")])
    )
    talk = wire.talk().client(START).server(SETTINGS, ACK).client(ACK)
    if not cut:
        return talk.client(asked).server(answered).close()
    talk.client(asked[: len(head) + cut], asked[len(head) + cut :], sizes=(len(head) + cut,))
    return talk.server(answered[: len(start) + cut], answered[len(start) + cut :], sizes=(len(start) + cut,)).close()


def messages(found: list[Seen], direction: Direction = Direction.SERVER) -> list[tuple[int, int]]:
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


def test_calls_cut_messages_anywhere(wire: Wire) -> None:
    """Also inside of a prefix, as where a client's buffer ends in the middle of many answers."""
    frames, count = [message(2) + message(3), message(4)], 3
    cuts = range(1, len(b"".join(frames)) + 2 * 9, min(STEP, 3))
    wire.run(*(call(wire, frames, at) for at in cuts))
    found = wire.collect()
    expected = [(count, count)] * len(cuts)
    assert messages(found) == messages(found, Direction.CLIENT) == expected
    assert wire.losses() == {}


def test_a_prefix_broken_off_by_another_stream(wire: Wire) -> None:
    """What is kept of prefixes is one stream's: the other's messages are not counted, rather than wrong."""
    client, server = Side(), Side()
    heads = b"".join(block_frames(n, client.request("/a.B/C", "POST", GRPC), False) for n in (1, 3))
    cut = message(9)
    bodies = data(1, cut[:3], end=False) + data(3, message(0)) + data(1, cut[3:])
    talk = wire.talk().client(START).server(SETTINGS, ACK).client(ACK, heads + bodies)
    for stream in (3, 1):
        answer = block_frames(stream, server.block([(":status", "200"), GRPC[0]]), False) + data(
            stream, message(1), False
        )
        talk.server(answer + server.trailers(stream, [("grpc-status", "0")]))
    wire.run(talk.close())
    found = wire.collect()
    assert messages(found) == messages(found, Direction.CLIENT) == [(1, 1), (NOT_COUNTED, 1)]
