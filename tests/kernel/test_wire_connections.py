# SPDX-License-Identifier: Apache-2.0
"""A connection is its socket: whoever holds a descriptor of it, in whatever process, thread or family."""

from __future__ import annotations

import pytest

from instrumenter.bpf.abi import Direction, Flag
from kernel.harness import Talk, Wire
from kernel.http1 import answer, head
from kernel.seen import Row, Seen

pytestmark = pytest.mark.kernel

GET = head()
OK = answer(200, b"ok")
ROW = Row("GET", "/", 200, 0, 2)
HERE = "127.0.0.1"


def send(name: str, data: bytes) -> list[object]:
    return ["send", name, "send", [data.decode("latin-1")]]


def receive(name: str, data: bytes) -> list[object]:
    return ["receive", name, "recv", [len(data)]]


def serve(name: str) -> list[list[object]]:
    """Reads GET, answers OK."""
    return [receive(name, GET), send(name, OK)]


def servers(found: list[Seen]) -> list[Seen]:
    return [each for each in found if each.direction == Direction.SERVER]


@pytest.mark.parametrize(
    ("family", "address", "ipv6"),
    [
        ("ipv4", HERE, (False, False)),
        ("ipv6", "::1", (True, True)),
        ("mapped", HERE, (True, True)),
        ("dual", HERE, (True, False)),
    ],
)
def test_families(wire: Wire, family: str, address: str, ipv6: tuple[bool, bool]) -> None:
    """ipv6: whether the sockets of server and client are of that family; addresses are IPv4 where the packets are."""
    wire.run(wire.talk(family).client(GET).server(OK).close())
    server, client = sorted(wire.check([ROW]), key=lambda s: s.direction)
    name = (address, wire.results[0][0][1])
    assert (client.local, client.remote) == (name, (address, wire.ports[family]))
    assert (server.local, server.remote) == ((address, wire.ports[family]), name)
    assert (bool(server.flags & Flag.IPV6), bool(client.flags & Flag.IPV6)) == ipv6


def test_only_the_server_is_watched(wire: Wire) -> None:
    name = wire.here.run([["connect", "c", "ipv4", wire.ports["ipv4"]], send("c", GET)])[0]
    wire.peer.run([["accept", "s", "listener-ipv4"], *serve("s")])
    wire.here.run([receive("c", OK), ["close", "c"]])
    wire.peer.run([["end", "s"], ["close", "s"]])
    (found,) = wire.check([ROW], [])
    assert found.remote == tuple(name)
    assert found.tgid == found.tid == wire.peer.pid


def test_only_the_client_is_watched(wire: Wire) -> None:
    port = wire.ports["here-ipv4"]
    (name, _) = wire.peer.run([["connect", "c", "ipv4", port], send("c", GET)])
    wire.here.run([["accept", "s", "listener-ipv4"], *serve("s")])
    wire.peer.run([receive("c", OK), ["close", "c"]])
    wire.here.run([["end", "s"], ["close", "s"]])
    (found,) = wire.check([], [ROW])
    assert (found.local, found.remote) == (tuple(name), (HERE, port))


def test_a_server_that_calls_another_while_it_answers(wire: Wire) -> None:
    """Both roles at once, nested; and an answer that says what the other one said."""
    outer, inner = wire.talk(name="1").client(head(target="/outer")), wire.talk(name="2")
    outer.ops += inner.client(head(target="/inner")).server(answer(500, b"no")).close().ops
    wire.run(outer.server(answer(502)).close())
    wire.check([Row("GET", "/inner", 500, 0, 2), Row("GET", "/outer", 502)])


def test_so_many_that_some_meet_at_one_place(wire: Wire) -> None:
    """Of 4096 places: with 600 ends at once, about 40 come to one that is taken."""
    before = wire.connections()
    talks = [wire.talk(name=str(i)).client(head(target=f"/{i}")).server(OK) for i in range(300)]
    wire.run(*talks)
    near, far = wire.connections()
    assert far > before[1]
    assert near + far >= 600
    wire.check([Row("GET", f"/{i}", 200, 0, 2) for i in range(300)])
    for talk in talks:
        talk.ops = talk.client(GET).server(OK).close().ops[6:]
    wire.run(*talks)
    wire.check([ROW] * 300)
    assert wire.connections() <= before


def test_connections_side_by_side(wire: Wire) -> None:
    """Steps of ten conversations, in turns."""
    talks = [
        wire.talk(name=str(i)).client(head(target=f"/{i}"), how="write").server(answer(210 + i, b"x" * i))
        for i in range(10)
    ]
    mixed = Talk(wire.ports["ipv4"], "ipv4", name="first").client(GET).server(OK).close()
    for talk in talks:
        talk.close()
    mixed.ops += [op for ops in zip(*(talk.ops for talk in talks), strict=True) for op in ops]
    wire.run(mixed)
    found = wire.collect()
    rows = [ROW, *(Row("GET", f"/{i}", 210 + i, 0, i) for i in range(10))]
    assert sorted(map(str, rows * 2)) == sorted(str(each.row) for each in found)


def test_more_threads_wait_in_reads_than_a_return_probe_follows(wire: Wire) -> None:
    """kretprobes keep few calls under way at once: ten, or two for each CPU (Documentation/trace/kprobes.rst)."""
    names = [str(i) for i in range(64)]
    opened = [op for name in names for op in wire.talk(name=name).ops]
    waiting = [["wait", serve(f"s{name}")] for name in names]
    asked = [send(f"c{name}", GET) for name in names]
    answered = [receive(f"c{name}", OK) for name in names]
    closed = [["close", f"{end}{name}"] for name in names for end in "cs"]
    wire.peer.run([*opened, *waiting, *asked, *answered, ["finish"], *closed])
    wire.check([ROW] * len(names), [ROW] * len(names))


def test_accepted_in_one_thread_and_worked_in_another(wire: Wire) -> None:
    talk = wire.talk().op(*send("c", GET + GET))
    talk.op("thread", [receive("s", GET)]).op("thread", [send("s", OK[:10])])
    talk.op("thread", [["receive", "s", "recv", [7]]]).op(
        "thread", [["receive", "s", "recv", [len(GET) - 7]], send("s", OK[10:])]
    )
    wire.run(talk.op(*send("s", OK)).op("receive", "c", "recv", [2 * len(OK)]).close())
    found = servers(wire.check([ROW, ROW]))
    readers = [
        result[0] for result in wire.results[0] if isinstance(result, list) and len(result) > 1 and result[1:] != []
    ]
    assert found[0].tid == readers[1 if readers[0] == HERE else 0]
    assert found[0].tgid == found[1].tgid == wire.peer.pid
    assert found[0].tid != found[1].tid


def test_duplicated_descriptors(wire: Wire) -> None:
    talk = wire.talk().op("dup", "s", "s2").op("dup", "c", "c2")
    talk.op(*send("c2", GET[:9])).op(*send("c", GET[9:])).op("receive", "s2", "recv", [9]).op(*receive("s", GET[9:]))
    talk.op(*send("s2", OK)).op("close", "s2").op(*receive("c2", OK)).op("close", "c2")
    wire.run(talk.client(GET).server(OK).close())
    wire.check([ROW, ROW])


def test_forked_after_accept(wire: Wire) -> None:
    """As inetd and old servers do: the parent closes its copy, the child answers."""
    talk = wire.talk().op("fork", "child").op("close", "s").op(*send("c", GET))
    talk.op("on", "child", [*serve("s"), ["close", "c"]]).op(*receive("c", OK)).op("close", "c")
    wire.run(talk.op("on", "child", [["end", "s"], ["close", "s"]]).op("join", "child"))
    server, client = sorted(wire.check([ROW]), key=lambda s: s.direction)
    child = wire.results[0][2]
    assert (server.tgid, client.tgid) == (child, wire.peer.pid)
    assert server.x["key"]["svc"] == client.x["key"]["svc"]


def test_pre_forked_workers(wire: Wire) -> None:
    """Children share the listener; each is the same service under its own process id."""
    talk = Talk(wire.ports["ipv4"])
    talk.ops = [["fork", "w1"], ["fork", "w2"]]
    for worker in ("w1", "w2", "w1"):
        talk.op("connect", "c", "ipv4", wire.ports["ipv4"]).op(*send("c", GET))
        talk.op("on", worker, [["accept", "s", "listener-ipv4"], *serve("s")]).op(*receive("c", OK)).op("close", "c")
        talk.op("on", worker, [["end", "s"], ["close", "s"]])
    wire.run(talk.op("join", "w1").op("join", "w2"))
    w1, w2 = wire.results[0][:2]
    assert [each.tgid for each in servers(wire.check([ROW] * 3))] == [w1, w2, w1]


def test_an_accepted_descriptor_passed_to_another_process(wire: Wire) -> None:
    """SCM_RIGHTS, in the middle of a request; the process that reads its end is the one that answers."""
    talk = Talk(wire.ports["ipv4"])
    talk.ops = [["fork", "worker"], ["connect", "c", "ipv4", wire.ports["ipv4"]], ["accept", "s", "listener-ipv4"]]
    talk.op(*send("c", GET)).op("receive", "s", "recv", [9])
    talk.op("on", "worker", [["receive", "s", "recv", [len(GET) - 9]], send("s", OK)], "s").op("close", "s")
    talk.op(*receive("c", OK)).op(*send("c", GET)).op("on", "worker", serve("s")).op(*receive("c", OK)).op("close", "c")
    wire.run(talk.op("on", "worker", [["end", "s"], ["close", "s"]]).op("join", "worker"))
    assert [each.tgid for each in servers(wire.check([ROW] * 2))] == [wire.results[0][0]] * 2


@pytest.mark.parametrize("used", ["unused", "used", "inside a request", "inside a response"])
def test_watched_while_the_connection_is_open(wire: Wire, used: str) -> None:
    """Picked up at the next request boundary; what began before is not made up."""
    wire.ignore()
    big = answer(200, b"b" * 100)
    before = wire.talk()
    if used == "used":
        before.client(GET).server(OK)
    elif used == "inside a request":
        before.client(GET[:9])
    elif used == "inside a response":
        before.client(GET).server(big[:60])
    wire.run(before)
    wire.watch()
    after = wire.talk()
    after.ops.clear()
    if used == "inside a request":
        after.client(GET[9:]).server(OK)
    elif used == "inside a response":
        after.server(big[60:])
    wire.run(after.client(head(target="/1")).server(OK).client(head(target="/2")).server(OK).close())
    wire.check([Row("GET", "/1", 200, 0, 2), Row("GET", "/2", 200, 0, 2)])


def test_no_longer_watched_while_the_connection_is_open(wire: Wire) -> None:
    """Nothing more of its calls, and no loss. With fentry and kprobes a server's connection that it reads from keeps
    the verdict that it was opened under: what comes up then is of a service that is not selected."""
    wire.run(wire.talk().client(GET).server(OK))
    wire.ignore()
    after = wire.talk()
    after.ops.clear()
    wire.run(after.client(head(target="/later")).server(OK).close())
    later = [] if wire.program.modes["recv"] in ("socket", "tracepoint") else [Row("GET", "/later", 200, 0, 2)]
    wire.check([ROW, *later], [ROW])


def test_a_port_used_again_at_once(wire: Wire) -> None:
    """The same four numbers, and mostly the same memory for the socket, five times over."""
    source = 40_000 + wire.peer.pid % 20_000
    talks = [wire.talk(source=source).client(head(target=f"/{i}")).server(answer(200, b"x" * i)) for i in range(5)]
    for talk in talks:
        talk.ops += [["reset", "c"], ["end", "s"], ["close", "s"]]
    wire.run(*talks)
    found = wire.check([Row("GET", f"/{i}", 200, 0, i) for i in range(5)])
    assert {each.remote for each in servers(found)} == {(HERE, source)}


def test_a_process_watched_from_its_first_call(wire: Wire) -> None:
    """A child has its parent's verdict before it can touch a socket."""
    talk = Talk(wire.ports["ipv4"])
    talk.ops = [["fork", "child"], ["on", "child", wire.talk().client(GET).server(OK).close().ops], ["join", "child"]]
    wire.run(talk)
    assert {each.tgid for each in wire.check([ROW])} == {wire.results[0][0]}
