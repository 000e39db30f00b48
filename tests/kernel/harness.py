# SPDX-License-Identifier: Apache-2.0
"""What a kernel test talks to: a scripted process, a conversation to script, and everything the probes made of it.

In: conversations of one watched process with itself (both ends watched) or with this one (unwatched). Out: `Row`s.
The rule: a test compares all exchanges and all losses; what is expected nowhere is a failure. Nothing waits for time:
behind a conversation a last known exchange (the fence) is made, and rings keep their order.
"""

from __future__ import annotations

import ctypes
import ipaddress
import json
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from instrumenter.bpf.abi import TEXT_SHORT, Direction, Flag, Loss, Outcome, Protocol, Verdict
from instrumenter.bpf.program import Program
from instrumenter.histogram import exponential
from instrumenter.records import Exchanges
from instrumenter.source import RingSource
from instrumenter.streams import Streams
from instrumenter.telemetry import Counters
from kernel.peers import Actor, Op

WITHIN_S = 30.0  # under emulation
FENCE = "/fence"
OFTEN = Flag.FIRST | Flag.SAMPLED | Flag.TRACEPARENT | Flag.IPV6  # checked apart, or depend on earlier tests
COMPLETE, NONE = Outcome.COMPLETE, Flag(0)


@dataclass(frozen=True)
class Row:
    """An exchange as a test states it. `trace`: traceparent as honoured, "" if none."""

    method: str
    target: str
    status: int
    request_bytes: int = 0
    response_bytes: int = 0
    outcome: Outcome = COMPLETE
    flags: Flag = NONE
    host: str = "h"
    version: Protocol = Protocol.HTTP_1_1
    trace: str = ""
    tracestate: str = ""
    agent: str = ""
    full: int | None = None  # length of the target on the wire; None: as kept

    def __repr__(self) -> str:
        """Short: what is as usual is left out."""
        plain = {each.name: each.default for each in fields(self)}
        said = [f"{name}={value!r}" for name, value in vars(self).items() if value != plain[name]]
        return "Row(" + ", ".join(text if len(text) < 60 else text[:57] + "..." for text in said) + ")"


@dataclass(frozen=True)
class Seen:
    """An exchange that came up: its row, and what is compared in other ways."""

    row: Row
    direction: Direction
    x: np.void = field(repr=False)
    local: tuple[str, int] = ("", 0)
    remote: tuple[str, int] = ("", 0)

    def __getattr__(self, name: str) -> int:
        """A field of struct exchange."""
        return int(self.x[name])

    @property
    def first(self) -> bool:
        return bool(self.flags & Flag.FIRST)

    @property
    def sampled(self) -> bool:
        return bool(self.flags & Flag.SAMPLED)


class Peer:
    """The scripted process (kernel.peers), not watched until told."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-S", "-m", "kernel.peers"],
            cwd=Path(__file__).parents[1],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.run([["now"]])

    @property
    def pid(self) -> int:
        return self.process.pid

    def run(self, ops: Sequence[Op]) -> list[Any]:
        """Their results, in order. Raises RuntimeError with the process's traceback."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(ops) + "\n")
        self.process.stdin.flush()
        answer = json.loads(self.process.stdout.readline())
        if isinstance(answer, str):
            raise RuntimeError(answer)
        return list(answer)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        with self.process:  # closes its pipes, at which it ends, and waits
            pass


class Talk:
    """A conversation on a new connection: client end "c", server end "s", both in one process. Built, then run."""

    def __init__(self, port: int, family: str = "ipv4", listener: str = "", name: str = "", source: int = 0) -> None:
        self.c, self.s = f"c{name}", f"s{name}"
        listener = listener or f"listener-{family}"
        self.ops: list[Op] = [["connect", self.c, family, port, source], ["accept", self.s, listener]]

    def op(self, *op: Any) -> Self:
        self.ops.append(op)
        return self

    def client(self, *pieces: bytes, how: str = "send", read: str = "recv", sizes: Sequence[int] = ()) -> Self:
        """The client sends, in calls or segments `pieces`; the server reads it all, in `sizes`."""
        return self._say(self.c, self.s, pieces, how, read, sizes)

    def server(self, *pieces: bytes, how: str = "send", read: str = "recv", sizes: Sequence[int] = ()) -> Self:
        return self._say(self.s, self.c, pieces, how, read, sizes)

    def _say(self, a: str, b: str, pieces: Sequence[bytes], how: str, read: str, sizes: Sequence[int]) -> Self:
        total = sum(map(len, pieces))
        self.op("send", a, how, [piece.decode("latin-1") for piece in pieces])
        left = total - sum(sizes)
        return self.op("receive", b, read, [*sizes, left] if left else list(sizes))

    def close(self, first: str = "client") -> Self:
        """Both ends, each once it has seen the other's end."""
        a, b = (self.c, self.s) if first == "client" else (self.s, self.c)
        return self.op("close", a).op("end", b).op("close", b)


class Wire:
    """The loaded probes, one watched peer under a fresh service number per test, and one unwatched (this process)."""

    def __init__(self, program: Program, source: RingSource, peer: Peer, settings: NDArray[np.void]) -> None:
        self.program, self.source, self.peer = program, source, peer
        self.here = Actor()
        self.ports = {f: int(peer.run([["listen", f"listener-{f}", f]])[0]) for f in ("ipv4", "ipv6", "mapped", "dual")}
        self.ports |= {f"here-{f}": self.here.op_listen(f"listener-{f}", f) for f in ("ipv4",)}
        self.svc = 100
        self.results: list[Any] = []
        self.counters = Counters()
        self._streams = Streams(settings, exponential(), self.counters)
        self._counts = self._streams.beside(program)
        self._losses: dict[tuple[int, int], int] = {}

    def close(self) -> None:
        self.here.op_close(*list(self.here.sockets))

    def begin(self, watch: bool = True) -> None:
        """A fresh service: what earlier tests left has another number."""
        while records := self.source.drain():
            self._streams.take(records.frames)
        self.svc += 1
        self._losses = self.program.read_losses()
        if watch:
            self.watch()

    def watch(self, pid: int = 0) -> None:
        self.program.set_process(pid or self.peer.pid, self.svc, Verdict.WATCH)

    def ignore(self) -> None:
        self.program.set_process(self.peer.pid, self.svc, Verdict.IGNORE)

    def talk(self, family: str = "ipv4", name: str = "", source: int = 0) -> Talk:
        return Talk(self.ports[family], family, name=name, source=source)

    def run(self, *talks: Talk) -> None:
        """One after the other; `results` has one list for each talk."""
        self.results = [self.peer.run(talk.ops) for talk in talks]

    def fence(self) -> list[Op]:
        fence = Talk(self.ports["ipv4"], name="-fence").client(b"GET %b HTTP/1.1\r\n\r\n" % FENCE.encode())
        return fence.server(b"HTTP/1.1 204 x\r\n\r\n").close().ops

    def collect(self) -> list[Seen]:
        """All exchanges since `begin`, in the order they ended; counted by the metrics, too, each once."""
        self.watch()
        self.peer.run(self.fence())
        found: list[Seen] = []
        deadline = time.monotonic() + WITHIN_S
        while sum(seen.row.target == FENCE for seen in found) < 2:
            assert time.monotonic() < deadline, f"the fence did not come up; {found}"
            batch = []
            records = self.source.drain()
            made = self._streams.take(records.frames)
            for ring in records.exchanges:
                batch += in_order(self._own(ring))
            for ring in made:
                batch += self._own(ring)
            found += sorted(batch, key=lambda s: (s.end_ns, s.connection, s.request_seq))
        self._check_counts(len(found))
        return [each for each in found if each.row.target != FENCE]

    def _own(self, ring: Exchanges) -> list[Seen]:
        return [each for each in map(seen, ring.x, ring.text) if each.x["key"]["svc"] == self.svc]

    def _check_counts(self, exchanges: int) -> None:
        keys, values = self._counts.read_red()
        ours = keys["svc"] == self.svc
        taken = values[ours]
        self._counts.delete_red(keys[ours])
        counted, out = int(taken["count"].sum()), int(taken["sampled_out"].sum())
        said = f"{counted} counted, {exchanges} came up, {out} sampled out, lost: {self.losses()}"
        assert counted == exchanges + out, said

    def losses(self) -> dict[Loss, int]:
        """New since `begin`, of this test's service or of none; not of events, which are not looked at here."""
        found = {}
        for (svc, reason), n in self.program.read_losses().items():
            new = n - self._losses.get((svc, reason), 0)
            if svc in (0, self.svc) and new and reason != Loss.EVENT_FULL:
                found[Loss(reason)] = new
        return found

    def entries(self, name: str) -> int:
        """How many keys a hash map has."""
        lib, key, n = self.program._lib, ctypes.create_string_buffer(64), 0
        fd = lib.c.bpf_map__fd(self.program._object.map(name))
        start = None
        while lib.c.bpf_map_get_next_key(fd, start, key) == 0:
            start, n = key, n + 1
        return n

    def check(
        self,
        server: Sequence[Row],
        client: Sequence[Row] | None = None,
        losses: Mapping[Loss, int] | None = None,
    ) -> list[Seen]:
        """The exchanges are exactly these, and so are the losses. client=None: as the server's, of the same bytes."""
        found = self.collect()
        if losses is None:
            assert self.losses() == {}, [(each.direction.name, each.row) for each in found]
        by = {d: [each for each in found if each.direction == d] for d in (Direction.SERVER, Direction.CLIENT)}
        assert [each.row for each in by[Direction.SERVER]] == list(server)
        assert [each.row for each in by[Direction.CLIENT]] == list(server if client is None else client)
        assert self.losses() == dict(losses or {})
        for each in found:
            check_times(each)
        if client is None:
            for a, b in zip(by[Direction.SERVER], by[Direction.CLIENT], strict=True):
                assert (a.local, a.remote, a.request_seq) == (b.remote, b.local, b.request_seq)
                assert a.connection != b.connection
        return found


def check_times(each: Seen) -> None:
    assert 0 < each.start_ns <= each.end_ns
    assert each.first_ns == 0 or each.start_ns <= each.first_ns <= each.end_ns, each
    assert bool(each.first_ns) or each.row.status == 0, each
    assert each.sampled


def in_order(ring: list[Seen]) -> list[Seen]:
    """Asserts that the exchanges of each connection came up in the order of their requests."""
    last: dict[object, int] = {}
    for each in ring:
        connection = (each.connection, each.local, each.remote)  # a socket's memory is soon another's
        before = last.get(connection, each.request_seq)
        assert (each.request_seq - before) & 0xFFFFFFFF < 1 << 31, f"{each.row} came up too late"
        last[connection] = each.request_seq
    return ring


def seen(x: np.void, packed: NDArray[np.uint8]) -> Seen:
    text = packed.tobytes()
    assert len(text) == TEXT_SHORT or x["text_len"] > TEXT_SHORT

    def piece(off: int, name: str) -> str:
        return text[off : off + int(x[f"{name}_len"])].decode("latin-1")

    flags = Flag(int(x["flags"]))
    target = piece(int(x["method_len"]), "target")
    ids = [x[name].tobytes().hex() for name in ("trace_id", "parent_id")]
    row = Row(
        method=piece(0, "method"),
        target=target,
        status=int(x["key"]["status"]),
        request_bytes=int(x["request_bytes"]),
        response_bytes=int(x["response_bytes"]),
        outcome=Outcome(int(x["key"]["outcome"])),
        flags=flags & ~OFTEN,
        host=piece(int(x["host_off"]), "host"),
        version=Protocol(int(x["key"]["protocol"])),
        trace=f"{ids[0]}-{ids[1]}-{int(x['trace_flags']):02x}" if flags & Flag.TRACEPARENT else "",
        tracestate=piece(int(x["state_off"]), "state"),
        agent=piece(int(x["agent_off"]), "agent"),
        full=None if x["target_full"] == len(target) else int(x["target_full"]),
    )
    local, remote = ((address(x[f"{end}_addr"]), int(x[f"{end}_port"])) for end in ("local", "remote"))
    return Seen(row, Direction(int(x["key"]["direction"])), x.copy(), local, remote)


def address(packed: NDArray[np.uint8]) -> str:
    """IPv4-mapped as IPv4."""
    found = ipaddress.IPv6Address(packed.tobytes())
    return str(found.ipv4_mapped or found)
