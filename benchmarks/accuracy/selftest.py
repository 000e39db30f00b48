# SPDX-License-Identifier: Apache-2.0
"""Proof that the score sees what it should, on the very spans of a run: their parents are set right, then permuted.

In: the spans that a tracer sent. Out: the same with other trace ids and parents. If with right parents not all are
right, or not exactly as many WRONG are found as were permuted, the run's own figures are worth nothing.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence

from accuracy.plan import Cell
from accuracy.score import MISSING, NONE, RIGHT, WRONG, Score, Spans, score
from accuracy.spans import CLIENT, FRONT, SERVER, Key, Span

PERMUTED = 0.2  # of the requests of a cell


def with_right_parents(spans: Iterable[Span]) -> list[Span]:
    """One trace for each request. Those about nothing, and those whose parent was not sent, are roots."""
    given = list(spans)
    fronts = {s.key[0]: s.span for s in given if s.kind == SERVER and s.key and s.key[1] == FRONT}
    clients: dict[tuple[Key, int], list[bytes]] = {}
    for s in given:
        if s.kind == CLIENT and s.key:
            clients.setdefault((s.key, s.status), []).append(s.span)
    return [_right(s, fronts, clients) for s in given]


def _right(span: Span, fronts: Mapping[int, bytes], clients: Mapping[tuple[Key, int], list[bytes]]) -> Span:
    if span.key is None:
        return span
    trace, parent = span.key[0].to_bytes(16, "big"), b""
    if span.key[1] != FRONT:
        candidates = clients.get((span.key, span.status))
        if span.kind == CLIENT:
            parent = fronts.get(span.key[0], b"")
        elif span.kind == SERVER and candidates:
            parent = candidates.pop()
    return span._replace(trace=trace, parent=parent)


def permuted(spans: Sequence[Span], cell: Cell, seed: int = 1) -> tuple[list[Span], int]:
    """Some requests of the cell give their calls to each other, in a circle. Also how many client spans that made wrong."""
    numbers = list(cell.numbers)
    chosen = random.Random(seed).sample(numbers, max(2, int(len(numbers) * PERMUTED)))
    victim = dict(zip(chosen, [*chosen[1:], chosen[0]], strict=True))
    fronts = {s.key[0]: s for s in spans if s.kind == SERVER and s.key and s.key[1] == FRONT}
    wrong = 0
    result = []
    for span in spans:
        other = fronts.get(victim.get(span.key[0], -1)) if span.key and span.key[1] != FRONT else None
        if other is not None and span.kind == CLIENT:
            wrong += 1
            result.append(span._replace(trace=other.trace, parent=other.span))
        elif other is not None:
            result.append(span._replace(trace=other.trace))  # its own parent moved with it
        else:
            result.append(span)
    return result, wrong


def failures(cell: Cell, spans: Sequence[Span], answered: Mapping[Key, int], tracers: Score) -> list[str]:
    """Empty if the score sees right parents and permuted ones. tracers: of the spans as they came."""
    own = [s for s in spans if s.key and s.key[0] in cell.numbers]
    right = with_right_parents(own)
    all_right = score(cell, Spans(right), answered)
    found = []
    judged = sum(tracers.inside[v] for v in (RIGHT, NONE, WRONG)) if not tracers.missing["front"] else None
    if judged is not None and (all_right.inside[RIGHT] != judged or all_right.wrong):
        found.append(f"{cell.labels()}: of {judged} right parents {dict(all_right.inside)} were seen")
    mixed, wrong = permuted(right, cell)
    seen = score(cell, Spans(mixed), answered)
    if not wrong or seen.inside[WRONG] != wrong or seen.between[WRONG]:
        found.append(f"{cell.labels()}: of {wrong} permuted parents {seen.inside[WRONG]} were seen as WRONG")
    if all_right.inside[MISSING] != tracers.inside[MISSING] and judged is not None:
        found.append(f"{cell.labels()}: missing spans changed")
    return found
