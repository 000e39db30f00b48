# SPDX-License-Identifier: Apache-2.0
"""What is known of a process changes with it: at once, and of no other one.

Each process here is looked up once and then known without a look (the map `known`) before it changes.
"""

from __future__ import annotations

import pytest

from instrumenter.bpf.abi import Verdict
from kernel.harness import Talk, Wire
from kernel.http1 import answer, head
from kernel.peers import Op
from kernel.seen import Row

pytestmark = pytest.mark.kernel

PID_MAX = 32_768  # at least, everywhere


def exchange(wire: Wire, target: str) -> list[Op]:
    return wire.talk().client(head(target=target)).server(answer()).close().ops


def on(wire: Wire, child: str, target: str) -> Op:
    return ["on", child, exchange(wire, target)]


def rows(*targets: str) -> list[Row]:
    return [Row("GET", target, 200) for target in targets]


def test_an_id_used_again(wire: Wire) -> None:
    """By a process of which nothing is known, not even its parent: nobody decided that it is watched."""
    pid = wire.peer.run([["fork", "a"], on(wire, "a", "/1"), on(wire, "a", "/2"), ["join", "a"]])[0]
    assert wire.program.delete_process(wire.peer.pid)
    again = wire.peer.run([["fork", "b", [pid]], on(wire, "b", "/3"), on(wire, "b", "/4"), ["join", "b"]])[0]
    assert again == pid
    wire.check(rows("/1", "/2"))


def test_another_program_in_the_same_process(wire: Wire) -> None:
    """exec: nobody has decided on it."""
    ops: list[Op] = [["fork", "a"], on(wire, "a", "/1"), ["exec", "a"]]
    ops += [[*on(wire, "a", target), "listener-ipv4"] for target in ("/2", "/3")]
    wire.peer.run([*ops, ["join", "a"]])
    wire.check(rows("/1"))


def test_two_processes_of_one_place(wire: Wire) -> None:
    """Their ids have the same last bits; which of them is watched changes in between."""
    places = wire.program._known.max_entries
    first = wire.peer.run([["fork", "a"]])[0]
    second = wire.peer.run([["fork", "b", [i for i in range(first % places, PID_MAX, places) if i > 300]]])[0]
    assert (first - second) % places == 0
    assert first != second
    for watched, seen in ((first, "a"), (second, "b")):
        for pid in (first, second):
            wire.program.set_process(pid, wire.svc, Verdict.WATCH if pid == watched else Verdict.IGNORE)
        wire.peer.run([on(wire, child, f"/{child}-{seen}-{i}") for i in range(3) for child in ("a", "b")])
    wire.peer.run([["join", "a"], ["join", "b"]])
    wire.check(rows("/a-a-0", "/a-a-1", "/a-a-2", "/b-b-0", "/b-b-1", "/b-b-2"))


def test_decided_again_and_again(wire: Wire) -> None:
    """By the agent, while the process runs."""
    for i in range(6):
        wire.program.set_process(wire.peer.pid, wire.svc, Verdict.IGNORE if i % 2 else Verdict.WATCH)
        wire.peer.run([*exchange(wire, f"/{i}"), *exchange(wire, f"/{i}-again")])
    wire.check(rows("/0", "/0-again", "/2", "/2-again", "/4", "/4-again"))


def test_watched_for_the_port_that_it_listens_on(wire: Wire) -> None:
    wire.ignore()
    port = wire.here.op_listen("free", "ipv4")
    wire.here.op_close("free")
    wire.program.set_ports([port])
    wire.peer.run([*exchange(wire, "/1"), ["listen", "listener-new", "ipv4", port]])
    wire.program.set_ports([])
    talk = Talk(port, listener="listener-new").client(head(target="/2")).server(answer()).close()
    wire.run(talk.op("close", "listener-new"))
    wire.check(rows("/2"))
