# SPDX-License-Identifier: Apache-2.0
"""What a thread sends while it works for a request is that one's child; what is not certain has no parent."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from instrumenter.bpf.abi import Direction, Rule, Verdict
from kernel.harness import Wire
from kernel.http1 import answer, head
from kernel.peers import Op
from kernel.seen import Seen

pytestmark = pytest.mark.kernel

OK = answer(200, b"ok")


def opened(wire: Wire, name: str) -> list[Op]:
    """A connection: ends c-name and s-name."""
    return wire.talk(name=f"-{name}").ops


def asked(name: str, on: str = "") -> list[Op]:
    """A request on its client's end."""
    return [["send", f"c-{on or name}", "send", [head(target=f"/{name}").decode()]]]


def read(name: str, on: str = "") -> list[Op]:
    return [["receive", f"s-{on or name}", "recv", [len(head(target=f"/{name}"))]]]


def answered(on: str) -> list[Op]:
    """By the server, and read by the client."""
    return [["send", f"s-{on}", "send", [OK.decode()]], ["receive", f"c-{on}", "recv", [len(OK)]]]


def over(*names: str) -> list[Op]:
    return [op for name in names for op in (["close", f"c-{name}"], ["end", f"s-{name}"], ["close", f"s-{name}"])]


def call(name: str, on: str = "") -> list[Op]:
    """A request to somebody else, who is not watched, and its answer."""
    here = on or name
    elsewhere = [*read(name, on), ["send", f"s-{here}", "send", [OK.decode()]]]
    return [*asked(name, on), ["on", "child", elsewhere, f"s-{here}"], ["receive", f"c-{here}", "recv", [len(OK)]]]


def served(name: str, *within: Op) -> list[Op]:
    return [*read(name), *within, *answered(name)]


def parents(found: list[Seen]) -> dict[str, str]:
    """Of each client's request "/x": the server's whose child it is, and the rule; "": none."""
    spans = {bytes(s.x["span_id"].tobytes()): s.row.target[1:] for s in found if s.direction == Direction.SERVER}
    told = {}
    for each in found:
        if each.direction == Direction.CLIENT:
            parent = bytes(each.x["parent_id"].tobytes())
            said = f"{spans[parent]}: " if any(parent) else ""
            told[each.row.target[1:]] = said + Rule(each.rule).name.lower()
    return told


@pytest.fixture
def process(wire: Wire) -> Iterator[Wire]:
    """With a child that is not watched."""
    child = wire.peer.run([["fork", "child"]])[0]
    wire.program.set_process(child, wire.svc, Verdict.IGNORE)
    yield wire
    wire.peer.run([["join", "child"]])


def run(wire: Wire, opens: str, *ops: Op) -> dict[str, str]:
    """On these connections, which are there before."""
    wire.peer.run([*(op for name in opens for op in opened(wire, name)), *ops, *over(*opens)])
    return parents(wire.collect())


def thread(name: str, *within: Op) -> list[Op]:
    return [*asked(name), ["thread", served(name, *within)]]


def test_a_thread_for_a_connection(process: Wire) -> None:
    ops = [*thread("a", *call("x")), *thread("b", *call("y")), *thread("c", *call("z"))]
    assert run(process, "abcxyz", *ops) == {
        "a": "none", "b": "none", "c": "none", "x": "ambiguous", "y": "b: thread", "z": "c: thread",
    }  # fmt: skip
