# SPDX-License-Identifier: Apache-2.0
"""Puts probes on the TLS libraries of watched processes, and knows of which process TLS is visible.

In: processes to look at: those that run at the start, that begin, listen, or show TLS records that no probe knows. Out:
probes on files; `view` for people. The rule this file protects: a file is probed once, whoever maps it, so that the
next process with it is seen from its first byte; and the agent's loop never waits for a file: a thread looks.
"""

from __future__ import annotations

import logging
import os
import queue
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from instrumenter.bpf.abi import EventKind, TlsCall
from instrumenter.bpf.uprobes import Attached, Point, Uprobes
from instrumenter.errors import StinglessError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from instrumenter.binaries.tls_libraries import TlsLibrary, TlsView

log = logging.getLogger("stingless")

CALLS: Final = {
    "SSL_read": TlsCall.READ, "SSL_read_ex": TlsCall.READ_EX,
    "SSL_write": TlsCall.WRITE, "SSL_write_ex": TlsCall.WRITE_EX, "SSL_write_ex2": TlsCall.WRITE_EX2,
    "SSL_sendfile": TlsCall.SENDFILE,
    "SSL_peek": TlsCall.OTHER, "SSL_peek_ex": TlsCall.OTHER, "SSL_do_handshake": TlsCall.OTHER,
    "SSL_free": TlsCall.FREE,
    "gnutls_record_recv": TlsCall.READ, "gnutls_record_recv_seq": TlsCall.READ,
    "gnutls_record_send": TlsCall.WRITE, "gnutls_record_send2": TlsCall.WRITE,
    "gnutls_handshake": TlsCall.OTHER, "gnutls_deinit": TlsCall.FREE,
}  # fmt: skip

START_S: Final = 0.5  # longest wait at the start
_LOOKED_AT: Final = (EventKind.EXEC, EventKind.SEEN, EventKind.LISTEN, EventKind.TLS)

Identity = tuple[int, int, int, int]


@dataclass(slots=True)
class _File:
    """A probed file: its probes, or why there are none; the processes that map it."""

    attached: Attached | None
    reason: str = ""
    users: set[int] = field(default_factory=set)


def points_of(library: TlsLibrary) -> list[Point]:
    """Where probes go in a library; none if its functions are not known to the kernel side."""
    points = []
    for name, symbol in library.functions.items():
        call = CALLS.get(name)
        if call is None:
            continue
        points.append(Point(symbol.offset, call))
        if call != TlsCall.FREE:
            points.append(Point(symbol.offset, call | TlsCall.RETURN, at_return=True))
    return points


class TlsProbes:
    """See the module. Made without a kernel; `begin`, then `follow` with every batch of events."""

    def __init__(self, root: str = "/proc") -> None:
        self._root = root
        self._files: dict[Identity, _File] = {}
        self._views: dict[int, TlsView] = {}
        self._queue: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._asked: set[int] = set()
        self._lock = threading.Lock()
        self._idle = threading.Condition(self._lock)
        self._closed = False
        self._thread: threading.Thread | None = None

    def begin(self, uprobes: Uprobes | None, running: Iterable[int], selected: Callable[[int], bool]) -> None:
        """Probes on what runs, most of it before this returns. uprobes: None, if the kernel takes none."""
        self._selected = selected
        if uprobes is None:
            return
        from instrumenter.binaries.tls_libraries import Files

        self._uprobes, self._examined = uprobes, Files(self._root)
        self._thread = threading.Thread(target=self._run, name="tls", daemon=True)
        self._thread.start()
        self.look(filter(selected, running))
        self.settle(START_S)

    def follow(self, events: NDArray[np.void]) -> None:
        """abi.EVENT rows, after the registry took them."""
        if self._thread is None or not len(events):
            return
        for kind, tgid in zip(events["kind"].tolist(), events["tgid"].tolist(), strict=True):
            if kind == EventKind.EXIT:
                self.ended(tgid)
            elif kind in _LOOKED_AT and self._selected(tgid):
                self.look([tgid])

    def look(self, pids: Iterable[int]) -> None:
        """Soon, in the thread; may be called for the same process again and again."""
        with self._lock:
            for pid in pids:
                if pid not in self._asked and not self._closed:
                    self._asked.add(pid)
                    self._queue.put(pid)

    def settle(self, timeout_s: float) -> bool:
        """Waits until all that was asked for has been looked at."""
        with self._idle:
            return self._idle.wait_for(lambda: not self._asked, timeout_s)

    def ended(self, pid: int) -> None:
        with self._lock:
            self._views.pop(pid, None)
            for file in self._files.values():
                file.users.discard(pid)

    def view(self, pid: int) -> TlsView | None:
        """None: not looked at yet, or ended."""
        return self._views.get(pid)

    def close(self) -> None:
        """Detaches all."""
        with self._lock:
            self._closed = True
        self._queue.put(0)
        if self._thread is not None:
            self._thread.join()
        for file in self._files.values():
            if file.attached is not None:
                file.attached.close()
        self._files.clear()

    def _run(self) -> None:
        while True:
            pid = self._queue.get()
            if self._closed:
                return
            try:
                self._look(pid)
            except Exception:  # a fault of ours costs one process's TLS, not the agent
                log.exception("process %d could not be looked at for TLS", pid)
            with self._idle:
                self._asked.discard(pid)
                if not self._asked:
                    self._idle.notify_all()

    def _look(self, pid: int) -> None:
        view = self._examined.tls(pid)
        for library in view.libraries:
            self._probe(library, pid)
        with self._lock:
            self._views[pid] = view

    def _probe(self, library: TlsLibrary, pid: int) -> None:
        known = self._files.get(library.identity)
        if known is None:
            known = self._attach_to(library)
            if known is None:
                return
            with self._lock:
                self._files[library.identity] = known
        known.users.add(pid)

    def _attach_to(self, library: TlsLibrary) -> _File | None:
        """None: the file is gone with its process. By descriptor, as the path may lead elsewhere by now."""
        points = points_of(library)
        if not points:
            return _File(None, "has no probes yet")
        try:
            file = os.open(library.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError:
            return None
        try:
            status = os.fstat(file)
            if (status.st_dev, status.st_ino, status.st_mtime_ns, status.st_size) != library.identity:
                return None
            attached = self._uprobes.attach(f"/proc/self/fd/{file}", points)
        except StinglessError as error:
            log.warning("TLS of %s is not seen: %s", library, error)
            return _File(None, str(error))
        finally:
            os.close(file)
        log.debug("TLS: probes on %s %s", library, library.path)
        return _File(attached)
