# SPDX-License-Identifier: Apache-2.0
"""All processes known to the kernel side, the verdict on each, and the service that each service number stands for.

In: /proc at the start, then process events. Out: verdicts to the kernel (`set_process`), `resource(svc)` to the later
stages. The rule this file protects: whatever the kernel numbered is answered for, from the first exchange until
`grace_s` after the last process ended, and then forgotten, so that memory follows the processes that live.

Order of use: `scan()`, attach the process probes, `rescan()`; then for every poll `handle(events)` before the exchanges
that came with them. One thread calls those and resync; any thread may call the others.

Event kinds: EXEC and SEEN begin a service number; FORK adds a process to one; LISTEN may change a verdict where ports
are selected; EXIT takes a process away. An image without processes is kept for `grace_s`; but if nothing ever asked
for its resource (most programs never speak HTTP), only while it is one of the last `idle_max` such.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from numpy.typing import NDArray

from instrumenter.bpf.abi import FIRST_KERNEL_SVC, EventKind, Verdict
from instrumenter.discovery.images import Event, Image, describe
from instrumenter.discovery.procfs import Facts, Mark, ProcFS
from instrumenter.discovery.selection import Selection, decide, within
from instrumenter.discovery.service_name import ServiceNamer
from instrumenter.discovery.services import Finder, Service, ServiceInfo
from instrumenter.enrich.resource import ResourceBuilder
from instrumenter.model import Resource
from instrumenter.telemetry import Counters

SetProcess = Callable[[int, int, Verdict], object]  # (tgid, svc, verdict)

_TICKS: Final = os.sysconf("SC_CLK_TCK")
_BEGINS: Final = (EventKind.EXEC, EventKind.SEEN)
_REPLACES: Final = (EventKind.EXEC, EventKind.SEEN, EventKind.EXIT)


class Registry:
    """See the module.

    set_process, delete_process: `Program`'s. grace_s: how long a service's resource outlives its last process (a few
    metric intervals). service_name: the agent's setting, "" for each process's own.
    """

    def __init__(
        self,
        selection: Selection,
        procfs: ProcFS,
        set_process: SetProcess,
        counters: Counters,
        builder: ResourceBuilder,
        *,
        delete_process: Callable[[int], object] = lambda _: None,
        service_name: str = "",
        self_pid: int | None = None,
        grace_s: float = 180.0,
        idle_max: int = 4096,
        clock_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._selection = selection
        self._procfs = procfs
        self._set_process = set_process
        self._delete_process = delete_process
        self._counters = counters
        self._finder = Finder(procfs, ServiceNamer(procfs, service_name), builder)
        self._self_pid = os.getpid() if self_pid is None else self_pid
        self._grace_ns = int(grace_s * 1e9)
        self._idle_max = idle_max
        self._clock_ns = clock_ns
        self._images: dict[int, Image] = {}  # by service number
        self._processes: dict[int, Image] = {}  # by tgid
        self._ended: deque[tuple[int, int]] = deque()  # (when, svc), asked for while they lived
        self._idle: deque[tuple[int, int]] = deque()  # (when, svc), never asked for
        self._next_svc = 1
        self._marks: dict[int, Mark] = {}  # between scan and rescan: by pid, which image was decided on

    # -- what later stages ask ---------------------------------------------------------------------------------------

    def resource(self, svc: int) -> Resource | None:
        """Who the exchanges of this service number belong to; None if not selected, or forgotten."""
        image = self._images.get(svc)
        if image is None or image.service is None:
            return None
        image.used = True
        return image.service.resource

    def name(self, svc: int) -> str:
        """service.name, "" if not selected or forgotten."""
        image = self._images.get(svc)
        return image.service.identity.name if image is not None and image.service is not None else ""

    def services(self) -> list[ServiceInfo]:
        """Selected services with live processes, by name."""
        groups: dict[int, list[Image]] = {}
        for image in list(self._images.values()):
            if image.service is not None and image.live:
                groups.setdefault(id(image.service), []).append(image)
        return sorted((describe(images) for images in groups.values()), key=lambda info: (info.name, info.pid))

    def active(self) -> int:
        """How many selected services listen or have been seen with exchanges: the number in the ready line."""
        return sum(info.active for info in self.services())

    def service_of(self, tgid: int) -> str:
        """service.name of a process that runs, "" if it is not selected."""
        image = self._processes.get(tgid)
        return image.service.identity.name if image is not None and image.service is not None else ""

    def __len__(self) -> int:
        """How many service numbers are remembered."""
        return len(self._images)

    # -- what the kernel tells ---------------------------------------------------------------------------------------

    def scan(self) -> None:
        """Decide on every process that runs now. Before the probes are attached: none of their calls is undecided."""
        self._counters.add("discovery.scans")
        facts = self._all_facts(self._procfs.pids())
        self._marks = {found.pid: found.mark for found in facts}
        self._find(facts)

    def rescan(self, kernel: Mapping[int, tuple[int, int]]) -> None:
        """Decide on what changed between `scan` and the attaching. kernel: `Program.processes()`, read after it."""
        self._counters.add("discovery.scans")
        marks, self._marks = self._marks, {}
        now = {pid: mark for pid in self._procfs.pids() if (mark := self._procfs.mark(pid)) is not None}
        ended = self._processes.keys() - now.keys()
        svcs = {tgid: image.svc for tgid, image in self._processes.items()}
        changed = [pid for pid, mark in now.items() if marks.get(pid) != mark or self._listens_anew(pid)]
        # The kernel's own numbers are kept: it has counted under them, and their events are on the way.
        numbered = {tgid: entry for tgid, entry in kernel.items() if tgid in now and entry[0] != svcs.get(tgid)}
        self.resync(numbered)
        found = self._all_facts(pid for pid in changed if pid not in numbered)
        self._find(found)
        ended |= {facts.pid for facts in found if self._procfs.mark(facts.pid) is None}
        for tgid in ended:  # without an event, as they had no entry yet
            self._leave(tgid, self._clock_ns())
            self._delete_process(tgid)

    def _all_facts(self, pids: Iterable[int]) -> list[Facts]:
        """A parent began before its child, whatever their pids after a wrap-around."""
        return sorted(filter(None, map(self._procfs.facts, pids)), key=lambda f: (f.start_ticks, f.pid))

    def _listens_anew(self, pid: int) -> bool:
        """Whether a process that ran at the scan has a port since."""
        image = self._processes.get(pid) if self._selection.needs_ports else None
        return image is not None and not self._procfs.ports(pid) <= image.ports

    def resync(self, kernel: Mapping[int, tuple[int, int]]) -> None:
        """Repair after lost events. kernel: `Program.processes()`."""
        now = self._clock_ns()
        for tgid in [t for t in self._processes if t not in kernel and self._procfs.stat(t) is None]:
            self._leave(tgid, now)
        for tgid, (svc, _) in kernel.items():
            joined, image = self._processes.get(tgid), self._images.get(svc)
            if not svc or (joined is not None and joined.svc == svc):
                continue
            if image is not None:  # a fork that was missed
                self._join(tgid, image)
                self._tell(tgid, image)
            elif (facts := self._procfs.facts(tgid)) is not None:
                self._begin(facts, svc, tell=True)

    def handle(self, events: NDArray[Any]) -> None:
        """Take a batch of abi.EVENT rows, in the kernel's order, and forget what ended long ago."""
        rows = list(map(Event, *(events[field].tolist() for field in Event._fields))) if len(events) else []
        # What the batch itself says is over cannot be read any more, and telling the kernel would bring it back.
        last = {event.tgid: i for i, event in enumerate(rows) if event.kind in _REPLACES}
        for i, event in enumerate(rows):
            self._handle(event, current=last.get(event.tgid, -1) <= i)
        self._forget()

    def _handle(self, event: Event, current: bool) -> None:
        image = self._images.get(event.svc)
        if event.kind == EventKind.EXIT:
            self._exits(event, image)
        elif not event.svc:
            return
        elif image is None or event.kind in _BEGINS:
            joined = self._processes.get(event.tgid)
            if joined is None or joined.svc != event.svc:
                self._begin(self._facts(event, current), event.svc, current)
            if event.kind == EventKind.LISTEN:
                self._listens(event, self._images[event.svc], current)
        elif event.kind == EventKind.FORK:
            self._join(event.tgid, image)
            if current and event.time_ns <= image.decided_ns:  # it may have copied its parent's entry from before
                self._set_process(event.tgid, image.svc, image.verdict)
        elif event.kind == EventKind.LISTEN:
            self._join(event.tgid, image)
            self._listens(event, image, current)

    def _exits(self, event: Event, image: Image | None) -> None:
        self._leave(event.tgid, self._clock_ns())
        if image is not None and image.decided_ns >= event.time_ns:
            self._delete_process(event.tgid)  # the verdict came after its end and made the entry again

    def _facts(self, event: Event, current: bool) -> Facts:
        facts = self._procfs.facts(event.tgid) if current else None
        path = event.filename.decode("utf-8", "replace")
        # While a process ends it is still there, but its memory, and with that its name, is not.
        if facts is not None and (facts.exe or facts.cmdline or not path):
            return facts
        self._counters.add("discovery.vanished")
        comm = event.comm.decode("utf-8", "replace")
        start = event.time_ns * _TICKS // 1_000_000_000
        exe = path if path.startswith("/") else ""
        return Facts(event.tgid, event.parent_tgid, start, exe, (path,) if path else (), comm, partial=True)

    # -- deciding ----------------------------------------------------------------------------------------------------

    def _find(self, found: Iterable[Facts]) -> None:
        """Processes that ran before: a worker shares its leader's number, so that both have one set of metric keys."""
        for facts in found:
            if facts.kernel_thread:  # the kernel knows its threads itself
                continue
            parent = self._processes.get(facts.ppid)
            image = self._decide(facts, 0)
            if image.service is not None:
                if not self._selection.needs_ports:
                    image.ports = self._procfs.ports(facts.pid)
                image.service.ports |= image.ports
            if parent is not None and image.service is not None and parent.service is image.service:
                parent.ports |= image.ports
                image = parent
            else:
                image.svc = self._allocate()
            if image.svc:
                self._join(facts.pid, image)
                self._tell(facts.pid, image)

    def _begin(self, facts: Facts, svc: int, tell: bool) -> None:
        image = self._decide(facts, svc)
        self._join(facts.pid, image)
        if tell:
            self._tell(facts.pid, image)

    def _decide(self, facts: Facts, svc: int) -> Image:
        selection = self._selection
        if selection.needs_ports and not facts.partial and not facts.kernel_thread:
            facts = facts.with_ports(self._procfs.ports(facts.pid))
        kin = self._kin(facts)
        service = self._finder.look(facts).name if selection.exclude_services else ""
        verdict = decide(facts, selection, self_pid=self._self_pid, service=service, lineage=kin)
        image = Image(svc, verdict, self._service(facts) if verdict == Verdict.WATCH else None, kin)
        image.ports = facts.ports
        return image

    def _kin(self, facts: Facts) -> tuple[int, ...]:
        """Those of the selected and excluded pids that the process is, was forked from, or descends from."""
        asked = self._selection.pids + self._selection.exclude_pids
        if not asked:
            return ()
        before = self._processes.get(facts.pid) or self._processes.get(facts.ppid)
        lineage = {facts.pid, *self._procfs.lineage(facts.pid), *(before.kin if before else ())}
        return tuple(pid for pid in asked if pid in lineage)

    def _service(self, facts: Facts) -> Service:
        parent = self._processes.get(facts.ppid)
        return self._finder.service(facts, parent.service if parent is not None else None)

    def _listens(self, event: Event, image: Image, current: bool) -> None:
        image.ports |= {event.port}
        if self._selection.needs_ports:
            facts = self._facts(event, current).with_ports(image.ports)
            service = self._finder.look(facts).name if self._selection.exclude_services else ""
            verdict = decide(facts, self._selection, self_pid=self._self_pid, service=service, lineage=image.kin)
            if verdict != image.verdict:
                image.verdict = verdict
                image.service = self._service(facts) if verdict == Verdict.WATCH else None
                for tgid in [tgid for tgid, other in self._processes.items() if other is image]:
                    self._tell(tgid, image)
            elif current and within(event.port, self._selection.ports):
                self._tell(event.tgid, image)  # the kernel itself has set WATCH
        if image.service is not None:
            image.service.ports.add(event.port)

    def _tell(self, tgid: int, image: Image) -> None:
        self._set_process(tgid, image.svc, image.verdict)
        image.decided_ns = self._clock_ns()

    # -- remembering and forgetting ----------------------------------------------------------------------------------

    def _allocate(self) -> int:
        """A service number for a process that was there before; 0 when they are used up, and the kernel will ask."""
        if self._next_svc >= FIRST_KERNEL_SVC:
            return 0
        self._next_svc += 1
        return self._next_svc - 1

    def _join(self, tgid: int, image: Image) -> None:
        before = self._processes.get(tgid)
        if before is not image:
            if before is not None:
                self._leave(tgid, self._clock_ns())
            self._processes[tgid] = image
            self._images[image.svc] = image
            image.live += 1

    def _leave(self, tgid: int, now: int) -> None:
        image = self._processes.pop(tgid, None)
        if image is None:
            return
        image.live -= 1
        if image.live:
            return
        if image.service is None:
            self._images.pop(image.svc, None)
        else:
            (self._ended if image.used else self._idle).append((now, image.svc))

    def _forget(self) -> None:
        horizon = self._clock_ns() - self._grace_ns
        while self._idle and (len(self._idle) > self._idle_max or self._idle[0][0] < horizon):
            when, svc = self._idle.popleft()
            image = self._images.get(svc)
            if image is not None and image.used:
                self._ended.append((when, svc))
            elif image is not None and not image.live:
                del self._images[svc]
        while self._ended and self._ended[0][0] < horizon:
            image = self._images.get(self._ended.popleft()[1])
            if image is not None and not image.live:
                del self._images[image.svc]
