# SPDX-License-Identifier: Apache-2.0
"""Right parent, no parent, WRONG parent: what was received against what happened.

In: all spans of a run, and for each cell the calls that the leaf answered. Out: a `Score` for each. The rules:

- *inside* a process: the parent of the client span of call ID/N is the server span of /front/ID.
- *between* processes: the parent of the leaf's server span of ID/N is the client span of ID/N; one client span is the
  parent of one server span, with the same status, as a call that is tried again has the same path.
- Spans between the two count as none of their own if they are about the same request, or about none (a tracer's
  internal spans, a proxy's): the parent's parent is looked at.
- A parent that nobody sent is WRONG where the right one was sent; else it cannot be judged: the right one is missing.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from accuracy.plan import CALLS, Cell
from accuracy.spans import CLIENT, FRONT, SERVER, Key, Span

RIGHT: Final = "right"
NONE: Final = "none"
WRONG: Final = "WRONG"
MISSING: Final = "missing"
VERDICTS: Final = (RIGHT, NONE, WRONG, MISSING)


@dataclass(slots=True)
class Score:
    """Verdicts on expected parents (`inside`, `between`), and spans that came short or were too many, by their kind."""

    requests: int = 0
    inside: Counter[str] = field(default_factory=Counter)
    between: Counter[str] = field(default_factory=Counter)
    missing: Counter[str] = field(default_factory=Counter)  # "front", "client", "leaf"
    extra: Counter[str] = field(default_factory=Counter)

    def __iadd__(self, other: Score) -> Score:
        self.requests += other.requests
        self.inside += other.inside
        self.between += other.between
        self.missing += other.missing
        self.extra += other.extra
        return self

    @property
    def wrong(self) -> int:
        return self.inside[WRONG] + self.between[WRONG]


class Spans:
    """All spans of a run: by id, and by what they are about."""

    def __init__(self, spans: Iterable[Span]) -> None:
        self.by_id: dict[tuple[bytes, bytes], Span] = {}
        self.about: dict[tuple[int, Key], list[Span]] = defaultdict(list)
        for span in spans:
            self.by_id[span.trace, span.span] = span
            if span.key is not None:
                self.about[span.kind, span.key].append(span)

    def parent(self, span: Span) -> Span | None:
        return self.by_id.get((span.trace, span.parent))

    def judge(self, child: Span, kind: int, key: Key, taken: set[bytes] | None = None) -> str:
        """kind, key: of the right parent. taken: ids of parents that are no other's; the one found is added."""
        node, passed = child, {child.span}
        while node.parent:
            parent = self.parent(node)
            if parent is None:
                return WRONG if self.about.get((kind, key)) else MISSING
            if parent.kind == kind and parent.key == key:
                return RIGHT if taken is None else _once(parent, child, taken)
            if parent.span in passed or not _on_the_way(parent.key, child, key):
                return WRONG
            passed.add(parent.span)
            node = parent
        return NONE


def _once(parent: Span, child: Span, taken: set[bytes]) -> str:
    other_status = parent.status and child.status and parent.status != child.status
    if parent.span in taken or other_status:
        return WRONG
    taken.add(parent.span)
    return RIGHT


def _on_the_way(key: Key | None, child: Span, wanted: Key) -> bool:
    """Whether a span about `key` may stand between the child and its right parent."""
    assert child.key is not None
    return key is None or key in ((child.key[0], FRONT), wanted)


def score(cell: Cell, spans: Spans, answered: Mapping[Key, int]) -> Score:
    """answered: how often the leaf answered each call, by its own account."""
    result = Score(requests=cell.count)
    for number in cell.numbers:
        front = spans.about.get((SERVER, (number, FRONT)), [])
        _account(result, "front", len(front), 1)
    for key in ((number, call) for number in cell.numbers for call in CALLS):
        times = answered.get(key, 0)
        clients, servers = (spans.about.get((kind, key), []) for kind in (CLIENT, SERVER))
        _account(result, "client", len(clients), times)
        _account(result, "leaf", len(servers), times)
        result.inside.update(spans.judge(span, SERVER, (key[0], FRONT)) for span in clients[:times])
        taken: set[bytes] = set()
        result.between.update(spans.judge(span, CLIENT, key, taken) for span in servers[:times])
        result.inside[MISSING] += max(0, times - len(clients))
        result.between[MISSING] += max(0, times - len(servers))
    return result


def _account(result: Score, what: str, came: int, expected: int) -> None:
    if came < expected:
        result.missing[what] += expected - came
    elif came > expected:
        result.extra[what] += came - expected
