# SPDX-License-Identifier: Apache-2.0
"""Both ends of a connection joined: the server's exchange is the child of the client's, or has no parent at all."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from instrumenter.bpf.abi import Direction, Rule, Verdict
from kernel.harness import Talk, Wire
from kernel.http1 import answer, head
from kernel.peers import FAMILIES, Op
from kernel.seen import Seen

pytestmark = pytest.mark.kernel

OK = answer(200, b"ok")
TRACE_ID, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


def told(each: Seen, name: str) -> bytes:
    return bytes(each.x[name].tobytes())


def check(found: Sequence[Seen], joined: str, alone: str = "", lost: str = "") -> None:
    """Of each target "/x" one server's exchange, whose parent is the client's of the same target, if it is to be.

    joined: the targets' letters; alone: those without a parent, without a reason to look for one; lost: with one.
    """
    clients = {each.row.target: each for each in found if each.direction == Direction.CLIENT}
    servers = {each.row.target: each for each in found if each.direction == Direction.SERVER}
    for client in clients.values():
        assert (told(client, "parent_id"), client.rule) == (bytes(8), Rule.NONE)
    rules = {Rule(each.rule): "" for each in servers.values()}
    for target, server in sorted(servers.items()):
        rules[Rule(server.rule)] += target[1:]
        if server.rule == Rule.JOINED:
            assert told(server, "parent_id") == told(clients[target], "span_id")
            assert told(server, "trace_id") == told(clients[target], "trace_id")
            assert server.trace_flags == clients[target].trace_flags == 1
        else:
            assert told(server, "parent_id") == bytes(8)
    assert rules == {r: t for r, t in ((Rule.JOINED, joined), (Rule.NONE, alone), (Rule.AMBIGUOUS, lost)) if t}
    ids = [told(each, "span_id") for each in found]
    assert len(set(ids)) == len(ids)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_request_of_a_connection_that_is_kept(wire: Wire, family: str) -> None:
    talk = wire.talk(family)
    for name in "abc":
        talk.client(head(target=f"/{name}")).server(OK)
    wire.run(talk.close())
    check(wire.collect(), "abc")


def test_requests_before_their_answers(wire: Wire) -> None:
    """Pipelined: all at once, one by one, in pieces, and more while the first are answered."""
    a, b, c, d, e = (head(target=f"/{name}") for name in "abcde")
    talk = wire.talk().client(a + b).client(c[:9], c[9:]).server(OK).client(d).server(OK).server(OK)
    wire.run(talk.client(e).server(OK).server(OK).close())
    check(wire.collect(), "abcde")


def test_a_request_whose_body_is_on_the_way(wire: Wire) -> None:
    post = head("POST", "/a", "Content-Length: 4")
    wire.run(
        wire.talk().client(post).client(b"ab").client(b"cd").server(OK).client(head(target="/b")).server(OK).close()
    )
    check(wire.collect(), "ab")


def test_the_same_ports_again(wire: Wire) -> None:
    """The socket's memory may be, too."""
    first = wire.talk().client(head(target="/a")).server(OK).close("server")
    wire.run(first)
    source = wire.results[0][0][1]
    for name in "bcd":
        wire.run(wire.talk(source=source).client(head(target=f"/{name}")).server(OK).close("server"))
    check(wire.collect(), "abcd")


def test_many_connections_at_once(wire: Wire) -> None:
    """All requests are sent before any is read, then answered in another order."""
    names = "abcdefgh"
    ops: list[Op] = []
    for name in names:
        talk = wire.talk(name=name)
        ops += [*talk.ops, ["send", talk.c, "send", [head(target=f"/{name}").decode()]]]
    for name in reversed(names):
        talk = Talk(0, name=name)
        talk.ops.clear()
        ops += talk.op("receive", talk.s, "recv", [len(head(target=f"/{name}"))]).server(OK).close().ops
    wire.peer.run(ops)
    check(wire.collect(), names)


def test_a_traceparent_is_the_parent_of_both(wire: Wire) -> None:
    """It is the application's own, and the trace is one; the next request without one is joined."""
    talk = wire.talk().client(head("GET", "/a", f"traceparent: 00-{TRACE_ID}-{PARENT}-01")).server(OK)
    wire.run(talk.client(head(target="/b")).server(OK).close())
    found = wire.collect()
    own = [each for each in found if each.row.target == "/a"]
    assert [(each.rule, each.row.trace) for each in own] == [(Rule.HEADER, f"{TRACE_ID}-{PARENT}-01")] * 2
    assert len({told(each, "span_id") for each in own}) == 2
    check([each for each in found if each.row.target == "/b"], "b")


def ends(name: str, *, how: str = "") -> list[Op]:
    """A request from a child's end of the connection to this process's end, and back."""
    request = head(target=f"/{name}").decode()
    ops: list[Op] = [["on", "child", [["send", "c", "send", [request]]], *([how] if how else [])]]
    ops += [["receive", "s", "recv", [len(request)]], ["send", "s", "send", [OK.decode()]]]
    return [*ops, ["on", "child", [["receive", "c", "recv", [len(OK)]]]]]


def test_a_client_that_is_watched_later(wire: Wire) -> None:
    """And one that is no longer watched: the server has parents as long as both are."""
    child = wire.peer.run([["fork", "child"]])[0]
    verdicts = [(Verdict.IGNORE, "a"), (Verdict.WATCH, "b"), (Verdict.WATCH, "c"), (Verdict.IGNORE, "d")]
    wire.peer.run([["connect", "c", "ipv4", wire.ports["ipv4"]], ["accept", "s", "listener-ipv4"]])
    for verdict, name in verdicts:
        wire.program.set_process(child, wire.svc, verdict)
        wire.peer.run(ends(name, how="c" if name == "a" else ""))
    wire.peer.run([["close", "c"], ["join", "child"], ["end", "s"], ["close", "s"]])
    found = wire.collect()
    check([each for each in found if each.row.target != "/d"], "bc", alone="a")


def test_the_same_addresses_and_ports_in_two_namespaces(wire: Wire) -> None:
    """Loopback addresses are each namespace's own: two connections at once that only their sockets tell apart."""
    child = wire.peer.run([["fork", "child"], ["on", "child", [["namespace"]]]])[0]
    wire.watch(child)
    port = wire.ports["ipv4"]
    source = wire.peer.run(wire.talk().ops)[0][1]
    there = Talk(port, name="-there", listener="listener-there", source=source)
    wire.peer.run([["on", "child", [["listen", "listener-there", "ipv4", port], *there.ops]]])

    def say(names: str) -> None:
        here, far = Talk(0), Talk(0, name="-there")
        here.ops.clear()
        far.ops.clear()
        one, other = (head(target=f"/{name}") for name in names)
        wire.peer.run([["send", here.c, "send", [one.decode()]], ["on", "child", far.client(other).server(OK).ops]])
        wire.peer.run(here.op("receive", here.s, "recv", [len(one)]).server(OK).ops)

    say("ab")
    say("cd")
    wire.peer.run([["close", "c", "s"], ["on", "child", [["close", there.c, there.s]]], ["join", "child"]])
    check(wire.collect(), "abcd")
