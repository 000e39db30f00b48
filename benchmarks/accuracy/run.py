# SPDX-License-Identifier: Apache-2.0
"""One runtime: its two fronts (connections kept, closed) and the leaf, under a tracer, cell after cell.

In: a runtime and the options. Out: an `Outcome`: a score for each cell, or why there is none. The rule it protects:
services run before the tracer, and what is scored begins only when the tracer has shown that it sees them.
"""

from __future__ import annotations

import re
import signal
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from common import Sink
from running import until
from truth.launch import START_WITHIN_S, Running, Service, free_port

from accuracy.load import send
from accuracy.plan import CALLS, Cell, Numbers, cells
from accuracy.received import Received, Tracer
from accuracy.runtimes import SERVICES, Command, Runtime, Seat
from accuracy.score import Score, Spans, score
from accuracy.selftest import proof
from accuracy.spans import CLIENT, FRONT, SERVER, Key, Span

LEAF = SERVICES / "leaf.py"
WARM_EVERY_S = 0.2


@dataclass(frozen=True, slots=True)
class Options:
    """tracer: its command. requests: of each cell. warm_s: for the tracer to see the services. quiet_s: see wait()."""

    tracer: str
    requests: int
    shapes: tuple[str, ...]
    concurrency: tuple[int, ...]
    keep_alive: tuple[bool, ...]
    warm_s: float
    quiet_s: float
    selftest: bool


@dataclass(slots=True)
class Outcome:
    """reason: why it did not run; notes: what there is to say besides; faults: of the benchmark itself."""

    runtime: Runtime
    scores: list[tuple[Cell, Score]] = field(default_factory=list)
    reason: str = ""
    notes: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)


def listens(port: int) -> bool:
    """Without connecting: .NET Core dies of a connection in its first moment."""
    listening = re.compile(rf":{port:04X} 0+:0000 0A ")
    return any(listening.search(Path(f"/proc/net/{kind}").read_text()) for kind in ("tcp", "tcp6"))


class Services:
    """The leaf, and a front for each way to treat connections."""

    def __init__(self, stack: ExitStack, runtime: Runtime, keep_alive: Iterable[bool], folder: Path) -> None:
        self.ledger = folder / "ledger"
        command = [sys.executable, str(LEAF)]
        leaf = Service("leaf", "", lambda port, _: [*command, str(port), str(self.ledger)])
        self.leaf = stack.enter_context(Running(leaf, folder / "leaf")).listening()
        self.every = [self.leaf]
        self.fronts: dict[bool, Running] = {}
        for keep in keep_alive:
            own = folder / ("keep" if keep else "close")
            port = 0
            if runtime.behind:
                seat = partial(Seat, leaf=self.leaf.port, keep_alive=keep)
                port = self._start(stack, runtime.name, runtime.behind, own / "behind", seat).port
            seat = partial(Seat, leaf=self.leaf.port, keep_alive=keep, behind=port)
            self.fronts[keep] = self._start(stack, runtime.name, runtime.command, own / "front", seat)

    def _start(self, stack: ExitStack, name: str, command: Command, folder: Path, seat: Callable[..., Seat]) -> Running:
        service = Service(name, "", lambda port, own: command(seat(port=port, folder=own)))
        running = stack.enter_context(Running(service, folder, free_port()))
        self.every.append(running)
        until(lambda: bool(self.ended()) or listens(running.port), f"{name} listens", START_WITHIN_S)
        if ended := self.ended():
            raise RuntimeError(ended[0])
        return running

    @property
    def ports(self) -> str:
        return ",".join(str(running.port) for running in self.every)

    def ended(self) -> list[str]:
        """Services that should still run, and do not."""
        over = [running for running in self.every if running.process.poll() is not None]
        return [f"{running.service.label} ended:\n{running.log.read_text()[-2000:]}" for running in over]

    def answered(self) -> Counter[Key]:
        """How often the leaf answered each call."""
        lines = self.ledger.read_text().splitlines() if self.ledger.exists() else []
        return Counter((int(number), int(call)) for number, call, _ in map(str.split, lines))


def run(runtime: Runtime, options: Options, folder: Path, progress: Callable[[str], None]) -> Outcome:
    """A service that does not start is a fault of this runtime, and no end of the run."""
    outcome = Outcome(runtime, reason=runtime.missing())
    if not set(options.shapes) & set(runtime.shapes):
        outcome.reason = f"makes no calls but of shape {', '.join(runtime.shapes)}"
    if not outcome.reason:
        try:
            _run(outcome, options, folder, progress)
        except (RuntimeError, TimeoutError) as error:
            outcome.faults.append(str(error))
    return outcome


def _run(outcome: Outcome, options: Options, folder: Path, progress: Callable[[str], None]) -> None:
    runtime = outcome.runtime
    numbers = Numbers()
    shapes = [shape for shape in options.shapes if shape in runtime.shapes]
    plan = list(cells(numbers, runtime.name, shapes, options.concurrency, options.keep_alive, options.requests))
    planned = {number for cell in plan for number in cell.numbers}
    with ExitStack() as stack:
        services = Services(stack, runtime, options.keep_alive, folder)
        sink = stack.enter_context(Sink(folder / "sink"))
        received = Received(sink)
        tracer = stack.enter_context(Tracer(options.tracer, sink.url, services.ports, folder / "tracer.log"))
        progress("the tracer starts")
        outcome.notes += _warm_up(services, tracer, received, numbers, options.warm_s)
        for place, cell in enumerate(plan, 1):
            ways = "kept" if cell.keep_alive else "closed"
            progress(f"{place} of {len(plan)}: {cell.concurrency} connections, {ways}, {cell.shape}")
            front = services.fronts[cell.keep_alive]
            outcome.faults += send(front.port, cell.requests(), cell.concurrency, cell.keep_alive)
        outcome.faults[:0] = services.ended()
        answered = services.answered()
        calls = sum(times for (number, _), times in answered.items() if number in planned)
        progress("spans still to come")
        received.wait(lambda s: s.key is not None and s.key[0] in planned, len(planned) + 2 * calls, options.quiet_s)
        if tracer.ended() or tracer.stop() not in (0, -signal.SIGTERM):
            outcome.faults.append(f"the tracer ended with {tracer.process.returncode}:\n{tracer.said()}")
        received.poll()
        outcome.notes += [f"the tracer counted: {name} {value:.0f}" for name, value in sink.losses().items()]
    _score(outcome, plan, received, answered, options.selftest)


def _warm_up(services: Services, tracer: Tracer, received: Received, numbers: Numbers, within_s: float) -> list[str]:
    """Until spans of both sides have come of every front; else what was never seen, which is then missing."""
    unseen = {keep: {"front", "client", "leaf"} for keep in services.fronts}
    sent: dict[int, bool] = {}
    deadline = time.monotonic() + within_s
    while any(unseen.values()) and time.monotonic() < deadline and not tracer.ended():
        for keep, front in services.fronts.items():
            number = numbers.take(1)
            sent[number] = keep
            if failed := send(front.port, [(number, "one")], 1, keep):
                raise RuntimeError(failed[0])
        time.sleep(WARM_EVERY_S)
        for span in received.poll():
            if span.key and span.key[0] in sent:
                unseen[sent[span.key[0]]].discard(_side(span.kind, span.key))
    if tracer.ended():
        raise RuntimeError(f"the tracer ended with {tracer.process.returncode}:\n{tracer.said()}")
    ways = {True: "connections kept", False: "closed"}
    return [
        f"{ways[keep]}: no {', '.join(sorted(sides))} span in {within_s:.0f} s"
        for keep, sides in unseen.items()
        if sides
    ]


def _side(kind: int, key: Key) -> str:
    if kind == SERVER:
        return "front" if key[1] == FRONT else "leaf"
    return "client" if kind == CLIENT and key[1] != FRONT else ""


def _score(
    outcome: Outcome, plan: Iterable[Cell], received: Received, answered: Mapping[Key, int], selftest: bool
) -> None:
    spans = Spans(received.spans)
    by_number: dict[int, list[Span]] = defaultdict(list)
    for span in received.spans:
        by_number[span.key[0] if span.key else -1].append(span)
    permuted = tested = 0
    for cell in plan:
        result = score(cell, spans, answered)
        outcome.scores.append((cell, result))
        asked, made = cell.calls(), sum(answered.get((number, call), 0) for number in cell.numbers for call in CALLS)
        if asked != made:
            outcome.notes.append(f"{cell.labels()}: {made} calls, not {asked}")
        if selftest:
            own = [span for number in cell.numbers for span in by_number[number]]
            wrong, faults = proof(cell, own, answered, result)
            outcome.faults += faults
            permuted, tested = permuted + wrong, tested + bool(wrong)
    if selftest:
        cells = f"{tested} of {len(outcome.scores)} cells"
        outcome.notes.append(f"self-test: {permuted} parents permuted in {cells}, {len(outcome.faults)} faults")
