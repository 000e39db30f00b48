# SPDX-License-Identifier: Apache-2.0
"""Between the agent's loop and an exporter's thread: a bounded queue of spans and the account of every one of them.

In: `Spans` from the agent, which never waits. Out: lists of `Spans` to one worker thread. The rule it protects: every
span given in ends in exactly one of spans.exported and spans.dropped.*, whatever fails and whenever close comes.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Final

import numpy as np
from numpy.typing import NDArray

from exporters.otlp_options import BatchOptions
from instrumenter.model import Spans
from instrumenter.telemetry import Counters, tally

log = logging.getLogger(__name__)
Tally = tuple[tuple[str, int], ...]  # (service.name, spans)


class Shutdown:
    """When an exporter's thread has to hurry, and when it has to stop."""

    def __init__(self) -> None:
        self.draining: Final = threading.Event()
        self.over: Final = threading.Event()
        self.since = math.inf  # when draining began (monotonic)
        self.deadline = math.inf  # when it is over (monotonic)

    def begin(self, timeout_s: float) -> None:
        """From now on: send what is left, do not wait for more."""
        now = time.monotonic()
        self.since = min(self.since, now)
        self.deadline = now + timeout_s
        self.draining.set()

    def pause(self, seconds: float, hurried: bool) -> bool:
        """Wait, but not past the end, and unless `hurried` not past the beginning of draining. False: it is over.

        hurried: what was tried before this wait was tried while draining already.
        """
        if hurried and time.monotonic() + seconds > self.deadline:
            return False
        (self.over if hurried else self.draining).wait(max(0.0, seconds))
        return not self.over.is_set()


class Ledger:
    """The account of one exporter's spans, by service: taken in, then settled once, or abandoned at the end."""

    def __init__(self, counters: Counters, exporter: str) -> None:
        self._counters = counters
        self._exporter = exporter
        self._lock = threading.Lock()
        self._open: dict[str, int] = {}
        self._closed = False
        counters.add("spans.exported", 0, exporter=exporter)  # the account names it even if it is given nothing

    def take_in(self, spans: Tally) -> None:
        """These spans are now the exporter's. After `abandon` they are dropped at once."""
        with self._lock:
            if self._closed:
                self._counters.add_tally("spans.dropped.shutdown", spans, exporter=self._exporter)
                return
            for service, n in spans:
                self._open[service] = self._open.get(service, 0) + n
            self._counters.add_tally("spans.in_flight", spans, exporter=self._exporter)

    def drop(self, name: str, spans: Tally) -> None:
        """Count spans that were never taken in."""
        self._counters.add_tally(name, spans, exporter=self._exporter)

    def settle(self, name: str, spans: Tally) -> None:
        """These spans ended as `name`. Without effect after `abandon`, which has counted them already."""
        with self._lock:
            if self._closed:
                return
            for service, n in spans:
                left = self._open[service] - n
                if left:
                    self._open[service] = left
                else:
                    del self._open[service]
            self._move(name, spans)

    def abandon(self) -> int:
        """Count whatever is not settled as spans.dropped.shutdown; returns how many that was."""
        with self._lock:
            left = tuple(self._open.items())
            self._open.clear()
            self._closed = True
            self._move("spans.dropped.shutdown", left)
            return sum(n for _, n in left)

    def _move(self, name: str, spans: Tally) -> None:
        self._counters.add_tally(name, spans, exporter=self._exporter)
        self._counters.add_tally("spans.in_flight", spans, sign=-1, exporter=self._exporter)


def split_tally(spans: Tally, amount: int) -> tuple[Tally, Tally]:
    """`amount` of the spans, largest services first, and the others. For a receiver that says how many, not which."""
    first: list[tuple[str, int]] = []
    rest: list[tuple[str, int]] = []
    for service, n in sorted(spans, key=lambda pair: -pair[1]):
        part = min(n, amount)
        amount -= part
        first += [(service, part)] if part else []
        rest += [(service, n - part)] if n > part else []
    return tuple(first), tuple(rest)


def merge_tallies(tallies: Iterable[Tally]) -> Tally:
    """Sum by service."""
    total: dict[str, int] = {}
    for pairs in tallies:
        for service, n in pairs:
            total[service] = total.get(service, 0) + n
    return tuple(total.items())


def footprint(spans: Spans) -> int:
    """Bytes of memory that a batch keeps alive: of whole base arrays where its columns are views."""
    columns: list[NDArray[np.generic]] = [
        spans.resource, spans.shape, spans.trace_id, spans.span_id, spans.parent_id, spans.flags,
        spans.start_ns, spans.end_ns, *spans.ints.values(),
    ]  # fmt: skip
    for text in (*spans.texts.values(), spans.trace_state):
        columns += [text.data, text.length]
    owners = [c.base if isinstance(c.base, np.ndarray) else c for c in columns]
    return sum({id(owner): owner.nbytes for owner in owners}.values())


class SpanQueue:
    """Bounded in spans and bytes. One or more threads offer and never wait, one takes."""

    def __init__(self, options: BatchOptions) -> None:
        self._options = options
        self._items: deque[tuple[Spans, float, float]] = deque()  # (spans, bytes per span, when it came)
        self._spans = 0
        self._bytes = 0.0
        self._closed = False
        self._changed = threading.Condition()

    def __len__(self) -> int:
        return self._spans

    def offer(self, spans: Spans) -> int:
        """Take the first k rows that fit and return k. Later rows are shed: those queued are closer to being sent."""
        n = len(spans)
        each = footprint(spans) / n if n else 0.0
        with self._changed:
            room = min(
                self._options.max_queue_spans - self._spans, int((self._options.max_queue_bytes - self._bytes) / each)
            ) if n and not self._closed else 0  # fmt: skip
            taken = max(0, min(n, room))
            if taken:
                # A copy of the rows that fit, so that those shed do not stay in memory.
                kept = spans if taken == n else spans.take(np.arange(taken))
                self._items.append((kept, each, time.monotonic()))
                self._spans += taken
                self._bytes += taken * each
                self._changed.notify()
        return taken

    def take(self) -> list[Spans]:
        """Wait for a full batch, until the oldest span waited delay_s, or for close. Empty: closed and nothing left."""
        with self._changed:
            while not self._closed and self._spans < self._options.max_batch_spans:
                left = self._items[0][2] + self._options.delay_s - time.monotonic() if self._items else None
                if left is not None and left <= 0:
                    break
                self._changed.wait(left)
            return self._pop(self._options.max_batch_spans)

    def close(self) -> None:
        """Nothing more comes in; `take` gives what is left without waiting."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _pop(self, room: int) -> list[Spans]:
        batch: list[Spans] = []
        while self._items and room:
            spans, each, since = self._items.popleft()
            taken = min(len(spans), room)
            if taken < len(spans):
                self._items.appendleft((spans.take(slice(taken, None)), each, since))
                spans = spans.take(slice(taken))
            batch.append(spans)
            room -= taken
            self._spans -= taken
            self._bytes = self._bytes - taken * each if self._items else 0.0
        return batch


class SpanWorker:
    """A queue, its ledger and the one thread that hands batches to `handle`, which settles every span of a batch.

    `end` runs last in that thread.
    """

    def __init__(
        self,
        exporter: str,
        counters: Counters,
        options: BatchOptions,
        handle: Callable[[list[Spans]], None],
        end: Callable[[], None] = lambda: None,
    ) -> None:
        self.ledger: Final = Ledger(counters, exporter)
        self.shutdown: Final = Shutdown()
        self._queue = SpanQueue(options)
        self._handle = handle
        self._end = end
        self._thread = threading.Thread(target=self._run, name=f"{exporter}-spans", daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether the thread still runs."""
        return self._thread.is_alive()

    def offer(self, spans: Spans) -> None:
        """Queue or shed, without waiting."""
        whole = tally(spans)
        self.ledger.take_in(whole)  # before the thread can see them
        taken = self._queue.offer(spans)
        if taken < len(spans):
            reason = "shutdown" if self.shutdown.draining.is_set() else "queue_full"
            self.ledger.settle(f"spans.dropped.{reason}", tally(spans.take(slice(taken, None))))

    def close(self, timeout_s: float, interrupt: Callable[[], None] = lambda: None) -> int:
        """Drain for at most timeout_s, `interrupt` what still runs, count what is left and return how many that was."""
        self.shutdown.begin(timeout_s)
        self._queue.close()
        self._thread.join(max(0.0, timeout_s))
        self.shutdown.over.set()
        if self._thread.is_alive():
            interrupt()
            self._thread.join(0.2)
        return self.ledger.abandon()

    def _run(self) -> None:
        try:
            while not self.shutdown.over.is_set() and (batch := self._queue.take()):
                try:
                    self._handle(batch)
                except Exception:
                    # A bug. The agent goes on, and `abandon` counts what was not settled.
                    log.exception("an exporter failed on %d spans", sum(map(len, batch)))
        finally:
            self._end()


class SnapshotWorker:
    """One thread that calls `handle` after each `kick`, and a last time at close. Kicks that come meanwhile are one."""

    def __init__(self, name: str, handle: Callable[[], None], end: Callable[[], None] = lambda: None) -> None:
        self.shutdown: Final = Shutdown()
        self._handle = handle
        self._end = end
        self._kicked = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether the thread still runs."""
        return self._thread.is_alive()

    def kick(self) -> None:
        """There is something new."""
        self._kicked.set()

    def close(self, timeout_s: float, interrupt: Callable[[], None] = lambda: None) -> None:
        """Handle what is left for at most timeout_s, then `interrupt` what still runs."""
        self.shutdown.begin(timeout_s)
        self._kicked.set()
        self._thread.join(max(0.0, timeout_s))
        self.shutdown.over.set()
        if self._thread.is_alive():
            interrupt()
            self._thread.join(0.2)

    def _run(self) -> None:
        try:
            last = False
            while not last:
                self._kicked.wait()
                self._kicked.clear()
                last = self.shutdown.draining.is_set()
                try:
                    self._handle()
                except Exception:
                    log.exception("an exporter failed on a snapshot of metrics")
        finally:
            self._end()
