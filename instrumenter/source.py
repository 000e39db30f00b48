# SPDX-License-Identifier: Apache-2.0
"""Where records come from: the kernel's rings (here), or a recording (recording.py).

In: rings. Out: `Records`. The one rule: exchanges are read before events, so that a batch never holds an exchange of a
process whose birth it does not know; and nothing is left in a ring that the agent had the time to take.
"""

from __future__ import annotations

import os
import select
import threading
import time
from collections.abc import Mapping
from typing import Any

from instrumenter.bpf.abi import EVENT, EXCHANGE_LONG, EXCHANGE_SHORT
from instrumenter.bpf.ring import Pages, Ring
from instrumenter.recording import FileSource as FileSource
from instrumenter.recording import Recorder as Recorder
from instrumenter.records import Exchanges as Exchanges
from instrumenter.records import Records as Records
from instrumenter.records import RecordSource as RecordSource
from instrumenter.records import nothing

MAX_RECORDS = 2_048  # of one ring in one batch, and
MAX_BYTES = 2 << 20  # so that memory stays flat whatever piles up
LONGEST_S = 0.05  # between two looks at the rings
SHORTEST_S = 0.001
WANTED_FILL = 0.25  # of a ring, at each look
EVENTS_S = 0.01  # between two looks for events
GATHER_S = 0.2  # how long a few exchanges wait for more: a batch of ten costs as much as one of a hundred
GATHER_FILL = 1 / 64  # of a ring: what is not few


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


def next_period(period_s: float, waited_s: float, fill: float) -> float:
    """How long to wait now, so that about WANTED_FILL of the fullest ring is taken then, if it fills as it just did.

    Shrinks at once, grows at most twofold a look.
    """
    wanted = waited_s * WANTED_FILL / fill if fill > 0 else LONGEST_S
    return min(LONGEST_S, max(SHORTEST_S, min(wanted, period_s * 2)))


class RingSource:
    """The kernel's rings. Exchanges are submitted without a wake-up, so it looks by the clock; events wake it."""

    def __init__(self, short: Pages, long: Pages, events: Pages, event_fd: int = -1) -> None:
        """`event_fd`: the map of the events' ring, to be woken by; -1: only the clock."""
        self._short = Ring("exchanges", short, EXCHANGE_SHORT, MAX_RECORDS, MAX_BYTES)
        self._long = Ring("long_exchanges", long, EXCHANGE_LONG, MAX_RECORDS, MAX_BYTES)
        self._events = Ring("events", events, EVENT, MAX_RECORDS, MAX_BYTES)
        self._rings = (self._short, self._long, self._events)
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._epoll = select.epoll()
        self._epoll.register(self._wake, select.EPOLLIN)
        if event_fd >= 0:
            self._epoll.register(event_fd, select.EPOLLIN | select.EPOLLET)
        self._lock = threading.Lock()  # held while the rings are mapped and read
        self._closed = False
        self._period = LONGEST_S
        self._looked = self._taken = time.monotonic()  # when the rings were last looked at, and when they were read
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
        """See RecordSource. Waits for the end of the current period at least, unless a full batch left some behind.

        A few exchanges are left for a later look, up to GATHER_S; events are not.
        """
        deadline = time.monotonic() + timeout_s
        while not self._closed:
            now = time.monotonic()
            due = now if self._more else self._looked + self._period
            woken = self._sleep(max(0.0, min(due, deadline) - now))
            now = time.monotonic()
            if not woken and now < min(due, deadline):  # an event, and where one is there are more
                time.sleep(max(0.0, min(self._looked + EVENTS_S, due, deadline) - now))
                now = time.monotonic()
            records = self._look(now, everything=woken or now >= deadline)
            if records or woken or now >= deadline:
                return records
        return nothing(clock_offset_ns())

    def drain(self) -> Records:
        """What is there, at once; call until it is empty, after the probes are detached, to lose nothing."""
        return self._look(time.monotonic(), everything=True)

    def _sleep(self, seconds: float) -> bool:
        """Whether `wake` or `close` ended it; an event ends it too."""
        for fd, _ in self._epoll.poll(seconds):
            if fd == self._wake:
                self._take_wake()
                return True
        return False

    def _take_wake(self) -> None:
        try:
            os.eventfd_read(self._wake)
        except BlockingIOError:
            return

    def _look(self, now: float, everything: bool) -> Records:
        """Events, and before them the exchanges, if there are enough of them or everything is asked for."""
        with self._lock:
            if self._closed:
                return nothing(clock_offset_ns())
            self._looked = now
            fill = max(self._short.waiting(), self._long.waiting())
            self._period = next_period(self._period, now - self._taken, max(fill, self._events.waiting()))
            found: tuple[Exchanges, ...] = ()
            if everything or self._more or fill >= GATHER_FILL or now - self._taken >= GATHER_S:
                self._taken = now
                found = tuple(Exchanges.of(r) for r in (self._short.read(), self._long.read()) if len(r))
            events = self._events.read()
            self._more = any(r.more for r in self._rings)
            return Records(found, events, clock_offset_ns())

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
