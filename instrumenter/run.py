# SPDX-License-Identifier: Apache-2.0
"""What a process owes to who started it: signals, readiness, and what it lacks to run at all.

In: signals, the environment. Out: `Stop.requested`, lines to systemd. The rule: the first SIGTERM or SIGINT asks, the
second one ends the process at once (the kernel then detaches every probe, since nothing is pinned).
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import FrameType
from typing import Final

from instrumenter.errors import CannotStart

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8  # malloc.h
APART: Final = 128 << 10  # bytes, while the agent starts
KEPT: Final = 8 << 20  # bytes
_TURN_S: Final = 0.0005


class Stop:
    """Whether the agent was asked to end. Installs the handlers; only from the main thread.

    wake: called at the first signal, to end a wait; must be safe in a signal handler.
    """

    def __init__(self, wake: Callable[[], None] = lambda: None) -> None:
        self.requested = False
        self.wake = wake
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._ask)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            os._exit(128 + number)
        self.requested = True
        self.wake()


def notify(state: str, environ: Mapping[str, str] | None = None) -> None:
    """sd_notify(3): tell the service manager, if there is one, such as "READY=1". Never fails."""
    path = (os.environ if environ is None else environ).get("NOTIFY_SOCKET", "")
    if not path.startswith(("/", "@")):
        return
    address = "\0" + path[1:] if path.startswith("@") else path
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
        sender.sendto(state.encode(), address)


def seconds_since_exec(stat: Path = Path("/proc/self/stat")) -> float:
    """Seconds since this process was started, interpreter included (proc(5): field 22, ticks since boot)."""
    fields = stat.read_text().rpartition(")")[2].split()
    started = int(fields[19]) / os.sysconf("SC_CLK_TCK")
    return max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - started)


def one_heap() -> None:
    """Has all threads allocate from one heap (mallopt(3)); glibc would give each its own, and none is ever shrunk.

    The interpreter lets one thread run at a time, so they do not wait for it. What is large, as the kernel's BTF, is
    mapped apart and given back when freed; unasked, glibc would soon take it from the heap. Another libc is left alone.
    """
    with contextlib.suppress(AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_ARENA_MAX, 1)
        mallopt(_M_MMAP_THRESHOLD, APART)


@contextlib.contextmanager
def short_turns() -> Iterator[None]:
    """Has threads take turns ten times as often as Python's own 5 ms meanwhile.

    A thread that asks the kernel many short questions waits one turn of a thread that imports after each.
    """
    before = sys.getswitchinterval()
    sys.setswitchinterval(_TURN_S)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


def keep_heap() -> None:
    """Has glibc give back what starting has left free, and from now on keep up to KEPT of what is freed, which would be
    taken again, and zeroed, a moment later. Another libc is left alone."""
    with contextlib.suppress(AttributeError):
        libc = ctypes.CDLL(None)
        libc.malloc_trim(0)
        libc.mallopt(_M_MMAP_THRESHOLD, KEPT)
        libc.mallopt(_M_TRIM_THRESHOLD, KEPT)


def require_rights() -> None:
    """Raises CannotStart with the remedy if this process may not load probes, or cannot know whom they speak of."""
    from instrumenter.doctor import Machine, capabilities, pid_namespace

    check = capabilities(Machine())
    if check.state == "missing":
        raise CannotStart(f"no rights to load probes: {check.found}; {check.remedy}")
    check = pid_namespace(Machine())
    if check.state == "missing":
        raise CannotStart(f"not in the host's PID namespace but {check.found}; {check.remedy}")
