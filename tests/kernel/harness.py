# SPDX-License-Identifier: Apache-2.0
"""What a kernel test talks to: a scripted process, a conversation to script, and everything the probes made of it.

In: conversations of one watched process with itself (both ends watched) or with this one (unwatched). Out: `Row`s.
The rule: a test compares all exchanges and all losses; what is expected nowhere is a failure. Nothing waits for time:
behind a conversation a last known exchange (the fence) is made, and rings keep their order.
"""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from instrumenter.bpf.abi import Direction, Loss, Verdict
from instrumenter.bpf.program import Program
from instrumenter.config import Settings
from instrumenter.records import Exchanges
from instrumenter.sizes import make_histograms
from instrumenter.source import RingSource
from instrumenter.streams import Streams
from instrumenter.telemetry import Counters
from kernel.peers import Actor, Op
from kernel.seen import Row, Seen, check_buckets, check_times, in_order, seen

WITHIN_S = 30.0  # under emulation
FENCE = "/fence"


class Peer:
    """The scripted process (kernel.peers), not watched until told. python: what runs it; env: beside our own."""

    def __init__(self, python: str = sys.executable, env: Mapping[str, str] | None = None) -> None:
        self.process = subprocess.Popen(
            [python, "-S", "-m", "kernel.peers"],
            cwd=Path(__file__).parents[1],
            env={**os.environ, **(env or {})},
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

    def __init__(
        self, program: Program, source: RingSource, peer: Peer, settings: NDArray[np.void], first: int = 100
    ) -> None:
        self.program, self.source, self.peer, self._settings = program, source, peer, settings
        self.here = Actor()
        self.ports = {f: int(peer.run([["listen", f"listener-{f}", f]])[0]) for f in ("ipv4", "ipv6", "mapped", "dual")}
        self.ports |= {f"here-{f}": self.here.op_listen(f"listener-{f}", f) for f in ("ipv4",)}
        self.svc = first  # of a test; the next one has the next number
        self.results: list[Any] = []
        self.counters = Counters()
        self._streams = Streams(settings, make_histograms(Settings()), self.counters)
        self._counts = self._streams.beside(program)
        self._losses: dict[tuple[int, int], int] = {}

    def close(self) -> None:
        self.here.op_close(*list(self.here.sockets))

    def beside(self, peer: Peer) -> Wire:
        """The same probes with another process, for tests that do not use this one meanwhile."""
        return Wire(self.program, self.source, peer, self._settings, self.svc + 10_000)

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
        self._check_counts(found)
        return [each for each in found if each.row.target != FENCE]

    def _own(self, ring: Exchanges) -> list[Seen]:
        return [each for each in map(seen, ring.x, ring.text) if each.x["key"]["svc"] == self.svc]

    def _check_counts(self, found: list[Seen]) -> None:
        keys, values = self._counts.read_red()
        ours = keys["svc"] == self.svc
        taken = values[ours]
        self._counts.delete_red(keys[ours])
        counted, out = int(taken["count"].sum()), int(taken["sampled_out"].sum())
        said = f"{counted} counted, {len(found)} came up, {out} sampled out, lost: {self.losses()}"
        assert counted == len(found) + out, said
        if not out:
            check_buckets(keys[ours], taken, found)

    def losses(self) -> dict[Loss, int]:
        """New since `begin`, of this test's service or of none; not of events, which are not looked at here."""
        found = {}
        for (svc, reason), n in self.program.read_losses().items():
            new = n - self._losses.get((svc, reason), 0)
            if svc in (0, self.svc) and new and reason != Loss.EVENT_FULL:
                found[Loss(reason)] = new
        return found

    @contextmanager
    def without(self, *programs: str) -> Iterator[None]:
        """These do not run meanwhile, as where the kernel leaves them out."""
        for name in programs:
            self.program._lib.c.bpf_link__destroy(self.program._links.pop(name))
        try:
            yield
        finally:
            self.program._links |= {name: self.program._object.attach(name) for name in programs}

    def entries(self, name: str) -> int:
        """How many keys a hash map has."""
        lib, key, n = self.program._lib, ctypes.create_string_buffer(64), 0
        fd = lib.c.bpf_map__fd(self.program._object.map(name))
        start = None
        while lib.c.bpf_map_get_next_key(fd, start, key) == 0:
            start, n = key, n + 1
        return n

    def connections(self) -> tuple[int, int]:
        """How many are at a place of their own, and how many are in the hash behind those."""
        lib, at = self.program._lib, self.program._object.map("near_conns")
        value = ctypes.create_string_buffer(lib.c.bpf_map__value_size(at))
        near = 0
        for place in range(lib.c.bpf_map__max_entries(at)):
            key = ctypes.c_uint32(place)
            assert lib.c.bpf_map_lookup_elem(lib.c.bpf_map__fd(at), ctypes.byref(key), value) == 0
            near += value.raw[:8] != bytes(8)
        return near, self.entries("conns")

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
