# SPDX-License-Identifier: Apache-2.0
"""Where records come from: the kernel's rings (here), or a recording (recording.py).

In: rings. Out: `Records`. The one rule: exchanges are read before events, so that a batch never holds an exchange of a
process whose birth it does not know; and nothing is left in a ring that the agent had the time to take.
"""

from __future__ import annotations

import contextlib
import os
import select
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

from instrumenter.bpf.abi import EVENT, EXCHANGE_LONG, EXCHANGE_SHORT
from instrumenter.bpf.ring import FramesRing, Pages, Ring
from instrumenter.recording import FileSource as FileSource
from instrumenter.recording import Recorder as Recorder
from instrumenter.records import Exchanges as Exchanges
from instrumenter.records import Records as Records
from instrumenter.records import RecordSource as RecordSource
from instrumenter.records import nothing

MAX_RECORDS = 4_096  # of one ring in one batch, and
MAX_BYTES = 2 << 20  # so that memory stays flat whatever piles up
LOOK_S = 1.0  # between two looks at the exchanges: a batch of ten costs as much as one of a thousand
SELDOM_S = 10.0  # where only metrics are exported: before each export there is a look anyway
EVENTS_S = 0.01  # between the first event that is seen and the look for those that come with it


def clock_offset_ns() -> int:
    """Nanoseconds of the epoch minus those of CLOCK_MONOTONIC, of the least disturbed of three readings."""
    best, offset = 1 << 62, 0
    for _ in range(3):
        before = time.monotonic_ns()
        epoch = time.time_ns()
        after = time.monotonic_ns()
        if after - before < best:
            best, offset = after - before, epoch - (before + after) // 2
    return offset


class RingSource:
    """The kernel's rings. It looks for exchanges by the clock; the kernel wakes it when they fill a quarter of a ring,
    and with every event."""

    def __init__(
        self,
        short: Pages,
        long: Pages,
        events: Pages,
        frames: Pages,
        event_fd: int = -1,
        exchange_fds: Sequence[int] = (),
    ) -> None:
        """`event_fd`, `exchange_fds`: the rings' maps, to be woken by; without them there is only the clock."""
        self.look_s = LOOK_S  # seconds that exchanges may wait
        self._short = Ring("exchanges", short, EXCHANGE_SHORT, MAX_RECORDS, MAX_BYTES)
        self._long = Ring("long_exchanges", long, EXCHANGE_LONG, MAX_RECORDS, MAX_BYTES)
        self._events = Ring("events", events, EVENT, MAX_RECORDS, MAX_BYTES)
        self._frames = FramesRing("frames", frames, MAX_BYTES)
        self._rings = (self._short, self._long, self._events, self._frames)
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._event_fd = event_fd
        self._epoll = select.epoll()
        self._epoll.register(self._wake, select.EPOLLIN)
        for fd in (event_fd, *exchange_fds):
            if fd >= 0:
                self._epoll.register(fd, select.EPOLLIN | select.EPOLLET)
        self._lock = threading.Lock()  # held while the rings are mapped and read
        self._closed = False
        self._taken = time.monotonic()  # when the exchanges were last read
        self._more = False

    @property
    def exhausted(self) -> bool:
        return self._closed

    @property
    def metadata(self) -> Mapping[str, Any]:
        return {}

    @property
    def mapped_bytes(self) -> int:
        """Of the rings, in this process's resident memory."""
        return sum(r.mapped_bytes for r in self._rings)

    def fill(self) -> dict[str, float]:
        """Share of each ring that was taken when it was last looked at, 0 to 1."""
        return {r.name: r.fill for r in self._rings}

    def poll(self, timeout_s: float) -> Records:
        """See RecordSource. Exchanges may wait for look_s, unless a full batch left some behind; events do not."""
        deadline = time.monotonic() + timeout_s
        while not self._closed:
            now = time.monotonic()
            until = min(now if self._more else self._taken + self.look_s, deadline)
            woken = self._sleep(max(0.0, until - now))
            if woken == {self._event_fd}:  # where one event is there are more
                time.sleep(max(0.0, min(EVENTS_S, until - time.monotonic())))
                woken = set()
            now = time.monotonic()
            records = self._look(now, everything=bool(woken) or now >= until)
            if records or self._wake in woken or now >= deadline:
                return records or nothing(clock_offset_ns())
        return nothing(clock_offset_ns())

    def drain(self) -> Records:
        """What is there, at once; call until it is empty, after the probes are detached, to lose nothing."""
        return self._look(time.monotonic(), everything=True) or nothing(clock_offset_ns())

    def _sleep(self, seconds: float) -> set[int]:
        """The descriptors that ended it."""
        woken = {fd for fd, _ in self._epoll.poll(seconds)}
        if self._wake in woken:
            with contextlib.suppress(BlockingIOError):
                os.eventfd_read(self._wake)
        return woken

    def _look(self, now: float, everything: bool) -> Records | None:
        """Events, and before them the exchanges, if everything is asked for. None: there was nothing."""
        with self._lock:
            if self._closed:
                return None
            found: tuple[Exchanges, ...] = ()
            frames = b""
            if everything:
                self._taken = now
                found = tuple(Exchanges.of(r) for r in (self._short.read(), self._long.read()) if len(r))
                frames = self._frames.read()
            events = self._events.read()
            self._more = any(r.more for r in self._rings)
            if not (found or frames or len(events)):
                return None
            return Records(found, events, clock_offset_ns(), frames)

    def wake(self) -> None:
        if not self._closed:
            os.eventfd_write(self._wake, 1)

    def close(self) -> None:
        """Unmaps the rings; a poll that waits returns empty. May be called again, and from any thread."""
        if self._closed:
            return
        self.wake()
        with self._lock:
            self._closed = True
            for ring in self._rings:
                ring.close()
        # The descriptors stay open for a poll that is still in epoll_wait; they go with this object.

    def __del__(self) -> None:
        if hasattr(self, "_epoll"):
            self._epoll.close()
            os.close(self._wake)
