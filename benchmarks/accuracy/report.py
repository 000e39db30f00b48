# SPDX-License-Identifier: Apache-2.0
"""Outcomes as a table for people, JSON lines for programs, and an exit code."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

from common import aligned

from accuracy.run import Outcome
from accuracy.score import RIGHT, VERDICTS, Score

LABELS: Final = ("runtime", "conc", "connections", "shape")
SIDES: Final = ("inside", "between")


def heads(by: Sequence[str]) -> list[str]:
    """inside: within a process, from server to client span; between: from client span to the next server's.

    lost, extra: spans of all three kinds that did not come, or came too often.
    """
    return [*by, "requests", *(f"{s}: {v}" if v == RIGHT else v for s in SIDES for v in VERDICTS), "lost", "extra"]


def rows(outcomes: Iterable[Outcome], by: Sequence[str]) -> Iterator[list[Any]]:
    """A row for each group of cells; one that says so for each runtime that did not run."""
    for outcome in outcomes:
        sums: dict[tuple[str | int, ...], Score] = {}
        for cell, score in outcome.scores:
            labels = cell.labels()
            total = sums.setdefault(tuple(labels[label] for label in by), Score())
            total += score
        for key, total in sums.items():
            counts = [getattr(total, side)[verdict] for side in SIDES for verdict in VERDICTS]
            yield [*key, total.requests, *counts, total.missing.total(), total.extra.total()]
        if not sums:
            own = [outcome.runtime.name if label == "runtime" else None for label in by]
            yield [*own, "not here" if outcome.reason else "failed", *[None] * (len(SIDES) * len(VERDICTS) + 2)]


def lines(outcomes: Iterable[Outcome]) -> Iterator[str]:
    """A JSON line for each cell, and for each runtime that did not run or has something to say."""
    for outcome in outcomes:
        own = {"runtime": outcome.runtime.name}
        for cell, score in outcome.scores:
            yield json.dumps(cell.labels() | _plain(score))
        if outcome.reason:
            yield json.dumps(own | {"not_here": outcome.reason})
        if outcome.notes or outcome.faults:
            yield json.dumps(own | {"notes": outcome.notes, "faults": outcome.faults})


def _plain(score: Score) -> dict[str, Any]:
    sides = {side: {v: getattr(score, side)[v] for v in VERDICTS} for side in SIDES}
    return {"requests": score.requests} | sides | {"missing": dict(score.missing), "extra": dict(score.extra)}


def text(outcomes: Sequence[Outcome], by: Sequence[str], seconds: float) -> str:
    """The table, what has to be said besides, and the sum."""
    said = [aligned(heads(by), rows(outcomes, by))]
    for outcome in outcomes:
        name = outcome.runtime.name
        said += [f"{name}: not here: {outcome.reason}"] if outcome.reason else []
        said += [f"{name}: {note}" for note in outcome.notes]
        said += [f"{name}: FAULT: {fault}" for fault in outcome.faults[:5]]
        said += [f"{name}: {len(outcome.faults) - 5} faults more"] if len(outcome.faults) > 5 else []
    return "\n".join([*said, *(_sum(side, outcomes) for side in SIDES), f"in {seconds:.0f} s"])


def _sum(side: str, outcomes: Iterable[Outcome]) -> str:
    total = Score()
    for outcome in outcomes:
        for _, score in outcome.scores:
            total += score
    counts = getattr(total, side)
    whole = sum(counts.values()) or 1
    return f"{side}: " + ", ".join(f"{v} {counts[v]} ({100 * counts[v] / whole:.2f} %)" for v in VERDICTS)


def exit_code(outcomes: Iterable[Outcome]) -> int:
    """0: no WRONG parent and no span missing; 1: some; 2: something is wrong with the run itself."""
    code = 0
    for outcome in outcomes:
        if outcome.faults:
            return 2
        for _, score in outcome.scores:
            if score.wrong or score.missing:
                code = 1
    return code
