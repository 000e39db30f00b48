# SPDX-License-Identifier: Apache-2.0
"""A registry for tests, with the kernel's end in the test's hands.

In: a directory like /proc, events. Out: what the kernel was told. The rule: the clock moves only when a test moves it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from instrumenter.bpf.abi import EVENT, FIRST_KERNEL_SVC, EventKind, Verdict
from instrumenter.discovery.procfs import ProcFS
from instrumenter.discovery.registry import Registry
from instrumenter.discovery.selection import Selection
from instrumenter.enrich.host import Host
from instrumenter.enrich.resource import ResourceBuilder
from instrumenter.telemetry import Counters

TREE = Path(__file__).parent / "proc"
SVC = FIRST_KERNEL_SVC
SECOND = 1_000_000_000
PYTHON = "/usr/bin/python3.11"
SPAWNED = "from multiprocessing.spawn import spawn_main; spawn_main(tracker_fd=5, pipe_handle=7)"
EXEC, FORK, EXIT, LISTEN, SEEN = (
    EventKind.EXEC, EventKind.FORK, EventKind.EXIT, EventKind.LISTEN, EventKind.SEEN,
)  # fmt: skip


@dataclass
class Kernel:
    """The map of processes, as the kernel side keeps it, and a clock that only moves when told to."""

    now: int = 100 * SECOND
    procs: dict[int, tuple[int, Verdict]] = field(default_factory=dict)
    told: list[tuple[int, int, Verdict]] = field(default_factory=list)

    def set_process(self, tgid: int, svc: int, verdict: Verdict) -> None:
        self.told.append((tgid, svc, verdict))
        self.procs[tgid] = (svc, verdict)

    def delete_process(self, tgid: int) -> bool:
        return self.procs.pop(tgid, None) is not None

    def clock(self) -> int:
        return self.now


def event(
    kind: EventKind, tgid: int, svc: int, *, parent: int = 1, port: int = 0, time_ns: int = 0, filename: str = ""
) -> tuple[Any, ...]:
    comm = filename.rpartition("/")[2][:15].encode()
    return (time_ns or 200 * SECOND, 0, 0, kind, tgid, parent, svc, port, 0, comm, filename.encode())


def batch(*rows: tuple[Any, ...]) -> NDArray[np.void]:
    return np.array(list(rows), EVENT)


class Bench:
    """A registry over a directory, with the kernel's end in the test's hands."""

    def __init__(self, root: Path, selection: Selection | None = None, **options: Any) -> None:
        self.kernel = Kernel()
        self.counters = Counters()
        self.registry = Registry(
            selection or Selection(), ProcFS(root), self.kernel.set_process, self.counters,
            ResourceBuilder(Host((), "machine", "boot"), "0"), delete_process=self.kernel.delete_process,
            clock_ns=self.kernel.clock, **({"self_pid": 7, "grace_s": 60.0} | options),
        )  # fmt: skip

    def handle(self, *rows: tuple[Any, ...]) -> None:
        self.registry.handle(batch(*rows))

    def pass_time(self, seconds: int) -> None:
        self.kernel.now += seconds * SECOND
        self.handle()
