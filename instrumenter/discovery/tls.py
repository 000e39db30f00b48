# SPDX-License-Identifier: Apache-2.0
"""Puts probes on the TLS libraries of watched processes, and knows of which process TLS is visible.

In: processes to look at: those that run at the start, that begin, listen, or show TLS records that no probe knows; and
the machine's own libraries, for short-lived clients. Out: probes on files; `view` for people. The rule this file
protects: a file is probed once, whoever maps it, so that the next process with it is seen from its first byte; and the
agent's loop never waits for a file: a thread looks.
"""

from __future__ import annotations

import logging
import os
import queue
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from instrumenter.binaries.cache import Cache
from instrumenter.binaries.mapped import MappedFile, mapped_files
from instrumenter.binaries.tls_libraries import Files, Skipped, TlsLibrary, TlsView, tls_of
from instrumenter.binaries.tls_table import Why
from instrumenter.bpf.abi import EventKind
from instrumenter.bpf.uprobes import Attached, Point, Uprobes
from instrumenter.discovery.tls_points import points_of
from instrumenter.errors import StinglessError
from instrumenter.telemetry import Counters

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

log = logging.getLogger("stingless")

START_S: Final = 1.0  # longest wait at the start
UNUSED_S: Final = 60.0  # a file that no process maps keeps its probes so long
COUNTED_MAX: Final = 4096  # files of which is known that they were counted
_LOOKED_AT: Final = (EventKind.EXEC, EventKind.SEEN, EventKind.LISTEN, EventKind.TLS)

Identity = tuple[int, int, int, int]
_HOST: Final = 1  # the process whose root is the machine's
_CACHED: Final = re.compile(rb"/[^\0]*/lib(?:ssl|gnutls)\.so[.\d]*(?=\0)")  # in ld.so.cache: strings, each ended by 0


@dataclass(slots=True)
class _File:
    """A probed file: its probes, or why there are none. users: who maps it; idle_since: when nobody did.

    births: the probes on who begins goroutines, or None as long as nobody asked.
    """

    attached: Attached | None
    reason: str = ""
    births: Attached | None = None
    users: set[int] = field(default_factory=set)
    idle_since: float = 0.0

    def close(self) -> None:
        for attached in (self.attached, self.births):
            if attached is not None:
                attached.close()


def usable(view: TlsView) -> TlsView:
    """As it is for the kernel side: libraries of which it knows no function become reasons."""
    libraries = tuple(library for library in view.libraries if points_of(library))
    rest = [library for library in view.libraries if library not in libraries]
    skipped = tuple(Skipped(library.identity, library.title, Why.UNSUPPORTED) for library in rest)
    reasons = tuple(f"{library} has no probes yet" for library in rest)
    return TlsView(libraries, reasons + view.reasons, skipped + view.skipped)


class TlsProbes:
    """See the module. `scan`, `begin`, then `follow` with every batch of events. Only the thread touches the files."""

    def __init__(self, counters: Counters, root: str = "/proc") -> None:
        self._counters, self._root = counters, root
        self._counted: Cache[Skipped] = Cache(COUNTED_MAX)
        self._files: dict[Identity, _File] = {}
        self._views: dict[int, TlsView] = {}
        self._queue: queue.SimpleQueue[int] = queue.SimpleQueue()  # processes to look at; negative: ended; 0: no more
        self._asked: set[int] = set()
        self._settled = threading.Condition()
        self._uprobes: Uprobes | None = None
        self._begun = False
        self._speaking: set[int] = set()  # said to have TLS records that no probe knows
        self._begetting: set[int] = set()  # Go: who begins goroutines there is to be seen
        self._thread: threading.Thread | None = None

    def scan(self, processes: Iterable[int], libraries: bool) -> None:
        """Begins to examine what is there, while the probes are being loaded. libraries: the machine's own too."""
        self._examined, self._libraries = Files(self._root), libraries
        self._thread = threading.Thread(target=self._run, name="tls", daemon=True)
        self._thread.start()
        self.look(processes)

    def begin(self, uprobes: Uprobes | None, processes: Iterable[int], service_of: Callable[[int], str]) -> None:
        """Probes on what runs, most of it before this returns.

        uprobes: None, if the kernel takes none. service_of: name of a selected process's service, else "".
        """
        self._uprobes, self._service_of, self._begun = uprobes, service_of, True
        self.settle(START_S)
        self.look(([_HOST] if self._libraries else []) + list(filter(service_of, processes)))
        self.settle(START_S)

    def follow(self, events: NDArray[np.void]) -> None:
        """abi.EVENT rows, after the registry took them."""
        if self._thread is None or not len(events):
            return
        for kind, tgid in zip(events["kind"].tolist(), events["tgid"].tolist(), strict=True):
            if kind == EventKind.EXIT:
                self._queue.put(-tgid)
            elif kind in _LOOKED_AT and self._service_of(tgid):
                if kind == EventKind.TLS:
                    self._speaking.add(tgid)
                self.look([tgid])
            elif kind == EventKind.BORN and self._service_of(tgid):
                self._begetting.add(tgid)
                self._queue.put(tgid)  # told once, so also if it is being looked at

    def look(self, processes: Iterable[int]) -> None:
        """Soon, in the thread."""
        for pid in processes:
            with self._settled:
                if pid in self._asked:
                    continue
                self._asked.add(pid)
            self._queue.put(pid)

    def settle(self, timeout_s: float) -> bool:
        """Waits until all that was asked for has been looked at."""
        with self._settled:
            return self._settled.wait_for(lambda: not self._asked, timeout_s)

    def view(self, pid: int) -> TlsView | None:
        """None: not looked at yet, or ended."""
        return self._views.get(pid)

    def lines(self) -> list[str]:
        """For people: of each service that has a TLS library, or speaks TLS, whether it is visible."""
        said: dict[str, None] = {}
        for pid, view in list(self._views.items()):
            name = self._service_of(pid) if view.visible or pid in self._speaking else ""
            if name:
                said[f"{name}: TLS visible: {view}"] = None
        return sorted(said)

    def close(self) -> None:
        """Detaches all."""
        if self._thread is not None:
            self._queue.put(0)
            self._thread.join()
            self._thread = None

    def _run(self) -> None:
        while pid := self._next():
            try:
                if pid > 0:
                    self._look(pid)
                else:
                    self._ended(-pid)
            except Exception:  # a fault of ours costs one process's TLS, not the agent
                log.exception("process %d could not be looked at for TLS", abs(pid))
            with self._settled:
                self._asked.discard(pid)
                self._settled.notify_all()
        for file in self._files.values():
            file.close()

    def _next(self) -> int:
        """What is to be done; meanwhile files that nobody maps any more lose their probes."""
        while True:
            idle = [identity for identity, file in self._files.items() if not file.users]
            try:
                return self._queue.get(timeout=UNUSED_S if idle else None)
            except queue.Empty:
                before = time.monotonic() - UNUSED_S
                for identity in [i for i in idle if self._files[i].idle_since < before]:
                    self._files.pop(identity).close()

    def _look(self, pid: int) -> None:
        files = mapped_files(pid, self._root)
        if pid == _HOST and self._libraries:
            files += tuple(host_libraries(self._root))
        view = usable(tls_of(files, self._examined.examine))
        if not self._begun:
            return
        self._count(view.skipped)
        if self._uprobes is None:
            self._count(Skipped(library.identity, library.title, Why.REFUSED) for library in view.libraries)
            self._views[pid] = TlsView(reasons=("this kernel refuses the probe",))
            return
        self._leave(pid, {library.identity for library in view.libraries})
        libraries, reasons = [], list(view.reasons)
        for library in view.libraries:
            reason = self._probe(library, pid)
            if reason:
                reasons.append(f"{library}: {reason}")
            else:
                libraries.append(library)
        self._views[pid] = TlsView(tuple(libraries), tuple(reasons))
        log.debug("process %d: TLS visible: %s", pid, self._views[pid])

    def _count(self, skipped: Iterable[Skipped]) -> None:
        """Each file once, however many processes map it."""
        for each in skipped:
            if self._counted.get(each) is None:
                self._counted.put(each, each)
                self._counters.add("libraries.skipped", reason=each.why, library=each.library)

    def _ended(self, pid: int) -> None:
        self._views.pop(pid, None)
        self._speaking.discard(pid)
        self._begetting.discard(pid)
        self._leave(pid, set())

    def _leave(self, pid: int, kept: set[Identity]) -> None:
        for identity, file in self._files.items():
            if pid in file.users and identity not in kept:
                file.users.discard(pid)
                file.idle_since = time.monotonic()

    def _probe(self, library: TlsLibrary, pid: int) -> str:
        """Why the library gives nothing; "": it has probes."""
        known = self._files.get(library.identity)
        if known is None:
            known = self._attach(library)
            if known is None:
                return "its file is gone"
            self._files[library.identity] = known
        known.users.add(pid)
        if pid in self._begetting and known.attached is not None and known.births is None:
            known.births = self._attached(library, points_of(library, later=True))
        return known.reason

    def _attach(self, library: TlsLibrary) -> _File | None:
        """None: the file is gone with its process."""
        try:
            attached = self._attached(library, points_of(library))
        except StinglessError as error:
            log.warning("TLS of %s is not seen: %s", library, error)
            self._count([Skipped(library.identity, library.title, Why.REFUSED)])
            return _File(None, str(error))
        log.debug("TLS: probes on %s %s", library, library.path)
        return _File(attached) if attached else None

    def _attached(self, library: TlsLibrary, points: list[Point]) -> Attached | None:
        """None: the file is gone. Raises BpfError."""
        assert self._uprobes is not None
        file = self._open(library)
        if file is None:
            return None
        try:
            return self._uprobes.attach(f"/proc/self/fd/{file}", points)
        finally:
            os.close(file)

    def _open(self, library: TlsLibrary) -> int | None:
        """A descriptor of this very file: by its process, or, if that has ended meanwhile, where it was for it."""
        for path in (library.path, f"{self._root}/{at_home(self._root)}/root{library.file.path}"):
            try:
                file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
            except OSError:
                continue
            status = os.fstat(file)
            if (status.st_dev, status.st_ino, status.st_mtime_ns, status.st_size) == library.identity:
                return file
            os.close(file)
        return None


def at_home(root: str = "/proc") -> int:
    """A process whose root is the machine's: the first, or this one where that is not to be looked at, as it has
    capabilities that we lack (ptrace(2), access mode checking)."""
    return _HOST if os.access(f"{root}/{_HOST}/root/etc", os.R_OK) else os.getpid()


def host_libraries(root: str = "/proc") -> Iterator[MappedFile]:
    """The TLS libraries that the machine's dynamic linker knows (ldconfig(8))."""
    home = at_home(root)
    base = Path(root) / str(home) / "root"
    try:
        cache = (base / "etc/ld.so.cache").read_bytes()
    except OSError:
        return
    for path in sorted(set(_CACHED.findall(cache))):
        name = path.decode("utf-8", "surrogateescape")
        try:
            inode = Path(f"{base}{name}").stat().st_ino
        except OSError:
            continue
        yield MappedFile(home, 0, 0, 0, "", inode, name)
