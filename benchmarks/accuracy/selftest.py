# SPDX-License-Identifier: Apache-2.0
"""Proof that the score sees what it should, on the very spans of a run: their parents are set right, then permuted.

In: the spans that a tracer sent. Out: the same with other trace ids and parents. If with right parents not all are
right, or not exactly as many WRONG are found as were permuted, the run's own figures are worth nothing.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from accuracy.plan import Cell
from accuracy.score import RIGHT, WRONG, Score, Spans, score
from accuracy.spans import CLIENT, FRONT, SERVER, Key, Span

PERMUTED = 0.2  # of the requests of a cell


def with_right_parents(spans: Iterable[Span]) -> list[Span]:
    """One trace for each request. Those about nothing, and those whose parent was not sent, are roots."""
    given = sorted(spans, key=lambda s: not s.status)  # those that have one choose first
    fronts = {s.key[0]: s.span for s in given if s.kind == SERVER and s.key and s.key[1] == FRONT}
    clients: dict[Key, list[Span]] = {}
    for s in given:
        if s.kind == CLIENT and s.key:
            clients.setdefault(s.key, []).append(s)
    return [_right(s, fronts, clients) for s in given]


def _right(span: Span, fronts: Mapping[int, bytes], clients: Mapping[Key, list[Span]]) -> Span:
    if span.key is None:
        return span
    trace, parent = span.key[0].to_bytes(16, "big"), b""
    if span.key[1] != FRONT and span.kind == CLIENT:
        parent = fronts.get(span.key[0], b"")
    elif span.key[1] != FRONT and span.kind == SERVER:
        # calls of the same path are told apart by their status, which a span may lack
        fitting = [c for c in clients.get(span.key, []) if c.status == span.status or not c.status or not span.status]
        if fitting:
            best = max(fitting, key=lambda client: client.status == span.status)
            clients[span.key].remove(best)
            parent = best.span
    return span._replace(trace=trace, parent=parent)


def permuted(spans: Sequence[Span], cell: Cell, seed: int = 1) -> tuple[list[Span], int]:
    """Some requests of the cell give their calls to each other; and how many client spans that made wrong."""
    numbers = list(cell.numbers)
    chosen = random.Random(seed).sample(numbers, max(2, int(len(numbers) * PERMUTED)))
    taker = dict(zip(chosen, [*chosen[1:], chosen[0]], strict=True))
    fronts = {s.key[0]: s for s in spans if s.kind == SERVER and s.key and s.key[1] == FRONT}
    wrong = 0
    result = []
    for span in spans:
        other = fronts.get(taker.get(span.key[0], -1)) if span.key and span.key[1] != FRONT else None
        if other is None:
            result.append(span)
        elif span.kind == CLIENT:
            wrong += 1
            result.append(span._replace(trace=other.trace, parent=other.span))
        else:
            result.append(span._replace(trace=other.trace))  # its own parent moved with it
    return result, wrong


def proof(cell: Cell, spans: Sequence[Span], answered: Mapping[Key, int], given: Score) -> tuple[int, list[str]]:
    """Permuted parents that were seen, and what was not as it must be. given: of the spans as they came.

    Only of cells whose spans all came, and none too often; of others nothing is permuted.
    """
    if given.missing or given.extra:
        return 0, []
    calls = sum(given.inside.values())
    right = with_right_parents(spans)
    score_of_right = score(cell, Spans(right), answered)
    mixed, wrong = permuted(right, cell)
    score_of_mixed = score(cell, Spans(mixed), answered)
    expected = (
        ("right parents inside", score_of_right.inside, {RIGHT: calls}),
        ("right parents between", score_of_right.between, {RIGHT: calls}),
        ("permuted parents inside", score_of_mixed.inside, {RIGHT: calls - wrong, WRONG: wrong}),
        ("permuted parents between", score_of_mixed.between, {RIGHT: calls}),
    )
    faults = [f"self-test, {cell.labels()}, {what}: {dict(+c)} for {e}" for what, c, e in expected if +c != Counter(e)]
    return wrong, faults
