# SPDX-License-Identifier: Apache-2.0
"""Judges stacks of goroutines: whether what one does is still what it was begun for.

In: events, of stacks that the kernel met for the first time. Out: a verdict for each, back to the kernel. The rule this
file protects: what cannot be looked at is not believed; and the agent's loop never waits for a file: a thread looks.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import numpy as np

from instrumenter.binaries.cache import Cache
from instrumenter.binaries.elf import Elf, Unreadable
from instrumenter.binaries.go_loops import Frame, frames, runs_once
from instrumenter.binaries.mapped import mapped_files
from instrumenter.bpf.abi import EventKind
from instrumenter.bpf.abi_go import GoStackVerdict
from instrumenter.bpf.maps import Map
from instrumenter.errors import StinglessError

if TYPE_CHECKING:
    from numpy.typing import NDArray

log = logging.getLogger("stingless")

KEY: Final = np.dtype("<u8")
_END: Final = (0, 0)


class GoStacks:
    """See the module. `follow` with every batch of events; `close` before the program is.

    stacks: the map `go_stacks`, of KEY and abi_go.GO_STACK.
    """

    def __init__(self, stacks: Map, root: str = "/proc") -> None:
        self._stacks, self._judge = stacks, Judge(root)
        self._queue: queue.SimpleQueue[tuple[int, int]] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def follow(self, events: NDArray[np.void]) -> None:
        """abi.EVENT rows."""
        for row in events[events["kind"] == EventKind.STACK]:
            if self._thread is None:  # most machines never need it
                self._thread = threading.Thread(target=self._run, name="go-stacks", daemon=True)
                self._thread.start()
            self._queue.put((int(row["tgid"]), int(row["route"])))

    def close(self) -> None:
        if self._thread is not None:
            self._queue.put(_END)
            self._thread.join()
            self._thread = None

    def _run(self) -> None:
        while (asked := self._queue.get()) != _END:
            tgid, stack = asked
            try:
                self._look(tgid, stack)
            except StinglessError as error:
                log.debug("a goroutine's stack was not judged: %s", error)
            except Exception:  # a fault of ours costs parents of one stack, not all of them
                log.exception("a goroutine's stack of process %d was not judged", tgid)

    def _look(self, tgid: int, stack: int) -> None:
        found = self._stacks.lookup(stack)
        if found is None:
            return  # forgotten meanwhile
        once = self._judge.runs_once(tgid, found["pcs"][: int(found["frames"])].tolist())
        found["verdict"] = GoStackVerdict.ONCE if once else GoStackVerdict.REPEATS
        self._stacks.update(stack, found)


class Judge:
    """Remembers what return addresses tell, of the newest few thousand."""

    def __init__(self, root: str = "/proc", keep: int = 4096) -> None:
        self._root = root
        self._frames: Cache[Frame] = Cache(keep)

    def runs_once(self, pid: int, pcs: Sequence[int]) -> bool:
        """Whether each of these calls is made once. pcs: return addresses but for the first, innermost first."""
        files = mapped_files(pid, self._root)
        inside = next((file for file in files if pcs and file.start <= pcs[0] < file.end), None)
        if inside is None or not all(inside.start < at <= inside.end for at in pcs[1:]):
            return False  # gone, or C code in between
        try:
            with Elf(inside.openable(self._root)) as elf:
                return runs_once(self._stack(elf, [at - inside.start + inside.offset for at in pcs[1:]]))
        except Unreadable as error:
            log.debug("%s: %s", inside.path, error)
            return False

    def _stack(self, elf: Elf, returns: Sequence[int]) -> list[Frame]:
        known = {at: self._frames.get((elf.identity, at)) for at in returns}
        new = [at for at, frame in known.items() if frame is None]
        if new:
            known |= {
                at: self._frames.put((elf.identity, at), frame) for at, frame in zip(new, frames(elf, new), strict=True)
            }
        return [frame for at in returns if (frame := known[at]) is not None]
