# SPDX-License-Identifier: Apache-2.0
"""What a thread sends while it works for a request is that one's child; what is not certain has no parent."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from instrumenter.bpf.abi import Direction, Rule, Verdict
from kernel.harness import Wire
from kernel.http1 import answer, head
from kernel.peers import Op
from kernel.secure import attach
from kernel.seen import Seen

pytestmark = pytest.mark.kernel

OK = answer(200, b"ok")
OLD_NS = 30_000_000  # two ticks of the slowest kernel, and more


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
            said = f"{spans[parent]}: " if any(parent) and each.rule != Rule.HEADER else ""
            told[each.row.target[1:]] = said + Rule(each.rule).name.lower()
    return told


@pytest.fixture
def process(wire: Wire) -> Iterator[Wire]:
    """With a child, of which nothing is known yet; it is what is looked at. It has one that is not watched."""
    elsewhere = wire.peer.run([["fork", "process"], ["on", "process", [["fork", "child"]]]])[1][0]
    wire.program.set_process(elsewhere, wire.svc, Verdict.IGNORE)
    began = wire.here.op_now()
    while wire.here.op_now() < began + OLD_NS:
        pass  # its first thread is certainly older than the connections to come
    yield wire
    wire.peer.run([["on", "process", [["join", "child"]]], ["join", "process"]])


def run(wire: Wire, opens: str, *ops: Op) -> list[Seen]:
    """On these connections, which are there before."""
    before = [op for name in opens for op in opened(wire, name)]
    wire.peer.run([["on", "process", [*before, *ops, *over(*opens)]]])
    return wire.collect()


def thread(name: str, *within: Op) -> list[Op]:
    """A thread for this connection, which answers a request on it."""
    return [*asked(name), ["thread", served(name, *within)]]


# The first call of a process tells that it calls at all; the first answers, that who reads a request answers it.
ANSWERS = 8
AGAIN = [*asked("0"), *served("0")]
FIRST = [*asked("0"), ["thread", [*served("0", *call("9")), *AGAIN * (ANSWERS - 1)]]]
UNPROVEN = {"0": "none", "9": "ambiguous"}
EPOLL, NONBLOCK, ASYNC = ["epoll", "s-b"], ["flags", "s-b", os.O_NONBLOCK], ["flags", "s-b", os.O_ASYNC]


def check(process: Wire, opens: str, *ops: Op, **expected: str) -> None:
    """These are there besides "a", which has a thread and so a child "x"; of "b" it is told in `expected`."""
    told = parents(run(process, f"09ax{opens}", *FIRST, *thread("a", *call("x")), *ops))
    nothing = dict.fromkeys((name for name in "ab" if name in told), "none")
    assert told == UNPROVEN | nothing | {"x": "a: thread"} | expected


def test_a_thread_for_a_connection(process: Wire) -> None:
    check(process, "by", *thread("b", *call("y")), y="b: thread")


def test_calls_after_each_other_and_on_a_connection_that_is_kept(process: Wire) -> None:
    first = [*served("b", *call("y"), *call("z", "y")), *asked("c", "b")]
    second = [*read("c", "b"), *call("v", "y"), *answered("b")]
    check(
        process, "by", *asked("b"), ["thread", [*first, *second]], c="none", y="b: thread", z="b: thread", v="c: thread"
    )


def test_no_call_of_a_request_that_is_answered(process: Wire) -> None:
    check(process, "by", *asked("b"), ["thread", [*served("b"), *call("y")]], y="none")


def test_a_call_of_another_thread(process: Wire) -> None:
    """As of a pool's, or of one that the request's thread began."""
    check(process, "by", *thread("b", ["thread", call("y")]), y="none")


def test_a_thread_that_was_there_before_the_connection(process: Wire) -> None:
    """As a loop's, or a pool's: what it does between a request and its answer may be anybody's."""
    check(process, "by", *asked("b"), *served("b", *call("y")), y="none")


@pytest.mark.parametrize("how", [EPOLL, NONBLOCK, ASYNC], ids=["epoll", "nonblock", "async"])
def test_a_socket_that_is_not_waited_for(process: Wire, how: Op) -> None:
    check(process, "by", *asked("b"), how, ["thread", served("b", *call("y"))], y="none")


def test_a_read_that_does_not_wait(process: Wire) -> None:
    ops = [["receive", "s-b", "dontwait", [len(head(target="/b"))]], *call("y"), *answered("b")]
    check(process, "by", *asked("b"), ["thread", ops], y="none")


def test_two_requests_at_once_on_a_connection(process: Wire) -> None:
    """Pipelined: which is worked for is not known. The next one is alone again."""
    both = [*asked("b"), *asked("c", "b"), ["thread", [
        *read("b"), *read("c", "b"), *call("y"), *answered("b"), *call("z", "y"), *answered("b"),
        *asked("d", "b"), *read("d", "b"), *call("v", "y"), *answered("b"),
    ]]]  # fmt: skip
    check(process, "by", *both, c="none", d="none", y="ambiguous", z="ambiguous", v="d: thread")


def test_a_thread_with_two_connections(process: Wire) -> None:
    """Then nothing is believed of its process any more."""
    both: list[Op] = [*asked("b"), *asked("c")]
    both += [["thread", [*read("b"), *call("y"), *read("c"), *call("z"), *answered("b")]]]
    after = [*answered("c"), *thread("d", *call("v"))]
    check(process, "bcdyzv", *both, *after, c="none", d="none", y="b: thread", z="ambiguous", v="none")


def test_a_thread_with_another_connection_after_the_first(process: Wire) -> None:
    """So it is one of a pool, whose other threads it may do work for."""
    both = [*asked("b"), *asked("c"), ["thread", [*served("b", *call("y")), *served("c", *call("z"))]]]
    after = thread("d", *call("v"))
    check(process, "bcdyzv", *both, *after, c="none", d="none", y="b: thread", z="none", v="none")


def test_who_answers_is_another_thread(process: Wire) -> None:
    """Then the process hands requests over, and nothing is believed of it any more."""
    over = [*asked("b"), ["thread", read("b")], *answered("b")]
    check(process, "bcy", *over, *thread("c", *call("y")), c="none", y="none")


def test_before_enough_was_answered(process: Wire) -> None:
    """That a process hands over is known only afterwards."""
    first: list[Op] = [*asked("0"), ["thread", [*served("0", *call("9")), *AGAIN * (ANSWERS - 2)]]]
    found = run(process, "09bycz", *first, *thread("b", *call("y")), *thread("c", *call("z")))
    assert parents(found) == UNPROVEN | {"b": "none", "y": "ambiguous", "c": "none", "z": "c: thread"}


def test_a_trace_that_came_in_goes_on(process: Wire) -> None:
    """Through a request without a header of its own, and not into one that has."""
    trace, other = (f"traceparent: 00-{digit * 32}-00f067aa0ba902b7-01" for digit in "12")
    into = head("GET", "/b", trace)
    out = head("GET", "/z", other)
    ops: list[Op] = [["send", "c-b", "send", [into.decode()]], ["thread", [
        ["receive", "s-b", "recv", [len(into)]], *call("y"), ["send", "c-z", "send", [out.decode()]],
        ["receive", "s-z", "recv", [len(out)]], *answered("b"),
    ]]]  # fmt: skip
    found = run(process, "09byz", *FIRST, *ops)
    assert {each.row.target for each in found if bytes(each.x["trace_id"]).hex() == "1" * 32} == {"/b", "/y"}
    assert parents(found) == UNPROVEN | {"b": "header", "y": "b: thread", "z": "header"}


@pytest.mark.parametrize("version", ["TLSv1_2", "TLSv1_3"])
def test_a_thread_that_speaks_tls(process: Wire, pem: Path, version: str) -> None:
    """Whose handshake it did, too; not if that was another one."""
    here, elsewhere = ([["tls", "c-b", "s-b", how, version, str(pem)]] for how in ("served_here", "on_sockets"))
    later = [op.replace("-b", "-c") if isinstance(op, str) else op for op in elsewhere[0]]
    with closing(attach(process)):
        ops = [["thread", [*here, *asked("b"), *served("b", *call("y"))]]]
        ops += [["thread", [later, *asked("c"), *served("c", *call("z"))]]]
        check(process, "bcyz", *ops, c="none", y="b: thread", z="none")
