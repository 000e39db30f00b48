# SPDX-License-Identifier: Apache-2.0
"""Exchanges become spans, named and described as the stable HTTP semantic conventions say.

In: exchange records with their text. Out: `Spans`. The rule this file protects: nothing is done row by row in Python
but what is rare; all that a metric key determines is made once per key and remembered as a `Shape`.

Of the project's own:
- `stingless.ttfb_ns` (int): nanoseconds from the request's first byte to the response's.
- `stingless.outcome`: how an exchange that did not complete ended (as `error.type` without a status).
- `stingless.parent.rule`: what chose the parent; only with the setting `debug_parents`.
- `stingless.target.truncated`: the target was longer than what was kept; `url.*` and the route are of its beginning.

A folded exchange (its service has too many metric keys) has no route, hence only the method as its name.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Final, Protocol

import numpy as np

from instrumenter.bpf.abi import Direction, Flag
from instrumenter.columns import Bools, amounts
from instrumenter.conventions import has_failed, messages, shows
from instrumenter.describe import Describer
from instrumenter.kinds import Kinds, KindShapes, ephemeral_ports, kinds
from instrumenter.labels import Labels
from instrumenter.model import I32, I64, U8, U64, Resource, Shape, Spans
from instrumenter.semantics import NameOptions
from instrumenter.traces import Records, context, has_context, parents, rules, time_to_first_byte, trace_state

if TYPE_CHECKING:
    from instrumenter.records import Exchanges
    from instrumenter.telemetry import Counters

__all__ = ["Labels", "NameOptions", "Namer"]

# Plain numbers: an enum's arithmetic costs as much as NumPy's on a small batch.
_FIRST, _SAMPLED = int(Flag.FIRST), int(Flag.SAMPLED)
_SERVER, _CLIENT = int(Direction.SERVER), int(Direction.CLIENT)
_UNTRIED: Final = 7
_WIDEST_SIZE: Final = (1 << 63) - 1


class Resources(Protocol):
    """What the registry answers."""

    def resource(self, svc: int) -> Resource | None:
        """Who a service number is; None if it is not selected."""


class Namer:
    """Makes spans of exchanges. Not thread-safe: it remembers what it has named."""

    def __init__(self, registry: Resources, counters: Counters, options: NameOptions | None = None) -> None:
        self._registry = registry
        self._counters = counters
        self._options = options or NameOptions()
        self._describer = Describer(self._options)
        self._kinds = KindShapes(self._describer, self._options.max_cached)
        self._untried = 0  # batches that are still to be named by columns without a look for kinds
        self._booked: list[
            tuple[str, int, int, dict[str, str]]
        ] = []  # of the batch at hand; counted when all of it went well

    def register(self, route: int, pattern: bytes) -> None:
        """A route's hash stands for a pattern that a program registered."""
        self._describer.register(route, pattern)

    def spans(self, exchanges: Exchanges, clock_offset_ns: int) -> Spans:
        """The spans of the exchanges that are to be exported, in their order.

        Not exported, each counted under its service: exchanges that came up only to teach labels (exchanges.taught),
        of unselected processes (spans.dropped.unselected), and without valid ids, direction or lengths
        (spans.dropped.unnamed). clock_offset_ns: CLOCK_REALTIME - CLOCK_MONOTONIC. A batch that raises is not counted.
        """
        with self._booking():
            return self._by_columns(*self._wanted(exchanges.x, exchanges.text), clock_offset_ns)

    def batches(self, exchanges: Exchanges, clock_offset_ns: int) -> list[Spans]:
        """As `spans`, in any order; exchanges of a kind (kinds.py) share a shape that holds all but their numbers."""
        with self._booking():
            x, text = self._wanted(exchanges.x, exchanges.text)
            alike = self._alike(x, text)
            if alike is None:
                out = [self._by_columns(x, text, clock_offset_ns)]
            else:
                out = self._by_kind(x, text, alike, clock_offset_ns)
            return [spans for spans in out if len(spans)]

    def _alike(self, x: Records, text: U8) -> Kinds | None:
        """The kinds of the rows, if that helps; after a batch where it did not, the next ones are not tried."""
        if not len(x) or self._untried:
            self._untried = max(0, self._untried - 1)
            return None
        alike = kinds(x, text)
        if alike is not None and alike.diverse:
            self._untried = _UNTRIED
            return None
        return alike

    @contextmanager
    def _booking(self) -> Iterator[None]:
        self._booked.clear()
        yield
        for name, svc, amount, labels in self._booked:
            self._counters.add(name, amount, svc, **labels)

    def _by_kind(self, x: Records, text: U8, alike: Kinds, clock_offset_ns: int) -> list[Spans]:
        svcs = x["key"]["svc"][alike.first].tolist()
        found = [self._registry.resource(svc) for svc in svcs]
        named = self._kinds.shapes(x, text, alike, [resource is not None for resource in found])
        whole = list(named)
        self._booked += [("spans.created", svcs[kind], int(alike.rows[kind]), {}) for kind in whole]
        resources, resource = _numbered([r for kind in whole if (r := found[kind]) is not None])
        if len(whole) == len(svcs):
            group = alike.group.astype(np.int32)
            return [self._numbers(x, text, clock_offset_ns, resources, resource[group], list(named.values()), group)]
        number = np.full(len(svcs), -1, np.int32)
        number[whole] = np.arange(len(whole), dtype=np.int32)
        group = number[alike.group]
        rows, others = np.flatnonzero(group >= 0), np.flatnonzero(group < 0)
        out = [self._by_columns(x[others], text[others], clock_offset_ns)]
        if whole:
            x, text, group = x[rows], text[rows], group[rows]
            shapes = list(named.values())
            out.append(self._numbers(x, text, clock_offset_ns, resources, resource[group], shapes, group))
        return out

    def _by_columns(self, x: Records, text: U8, clock_offset_ns: int) -> Spans:
        shapes, first, group = self._describer.shapes(x, text)
        found = [self._registry.resource(svc) for svc in x["key"]["svc"][first].tolist()]
        known = np.array([r is not None for r in found], np.bool_)
        if not known.all():
            kept = known[group]
            self._count("spans.dropped.unselected", x[~kept])
            x, text = x[kept], text[kept]
            used, group = np.unique(group[kept], return_inverse=True)
            found, shapes = [found[i] for i in used.tolist()], [shapes[i] for i in used.tolist()]
        self._count("spans.created", x)
        resources, resource = _numbered([r for r in found if r is not None])
        texts, ints = self._describer.attributes(x, text)
        spans = self._numbers(x, text, clock_offset_ns, resources, resource[group], shapes, group.astype(np.int32))
        return replace(spans, texts=dict(spans.texts) | texts, ints=dict(spans.ints) | ints)

    def _wanted(self, x: Records, text: U8) -> tuple[Records, U8]:
        """The rows that make sense and that the sampler did not leave out."""
        direction = x["key"]["direction"]
        sound = has_context(x) & (direction >= _SERVER) & (direction <= _CLIENT)
        taught = sound & self._only_taught(x)
        if taught.any():
            self._count("exchanges.taught", x[taught])
        if not sound.all():
            self._count("spans.dropped.unnamed", x[~sound])
        kept = sound & ~taught
        return (x, text) if kept.all() else (x[kept], text[kept])

    def _only_taught(self, x: Records) -> Bools:
        """Rows that came up for their labels alone: as is_sampled and is_worth_keeping of probes/include/exchange.h."""
        flags = x["flags"] & (_FIRST | _SAMPLED)
        rows: Bools = flags == _FIRST
        if not rows.any():
            return rows
        if self._options.slow_ns:
            rows &= (x["end_ns"] - x["start_ns"]) < self._options.slow_ns
        if self._options.keep_errors:
            rows &= ~has_failed(x["key"])
        return rows

    def _count(self, name: str, x: Records) -> None:
        self._booked += [(name, svc, n, {}) for svc, n in amounts(x["key"]["svc"])]

    def _numbers(
        self, x: Records, raw: U8, clock_offset_ns: int, resources: list[Resource], resource: I32,
        shapes: list[Shape], shape: I32,
    ) -> Spans:  # fmt: skip
        """Spans with what is different in each exchange: ids, times, sizes, the port that a kernel chose."""
        state, bad_state = trace_state(x, raw)
        if bad_state.any():
            self._count("spans.tracestate_invalid", x[bad_state])
        self._booked += [("spans.parents", svc, n, {"rule": rule}) for svc, rule, n in parents(x)]
        texts = {"stingless.parent.rule": rules(x)} if self._options.parent_rule else {}
        ints = ephemeral_ports(x)
        ints["stingless.ttfb_ns"] = time_to_first_byte(x)
        protocol = x["key"]["protocol"]
        ints |= _shown(protocol, "http.request.body.size", _size(x["request_bytes"]))
        answered = np.where(x["first_ns"] == 0, np.int64(-1), _size(x["response_bytes"]))
        ints |= _shown(protocol, "http.response.body.size", answered)
        ints |= _shown(protocol, "stingless.rpc.request.messages", messages(x["request_messages"]))
        ints |= _shown(protocol, "stingless.rpc.response.messages", messages(x["response_messages"]))
        return Spans(resources, shapes, resource, shape, *context(x, clock_offset_ns), ints, texts, state)


def _numbered(found: list[Resource]) -> tuple[list[Resource], I32]:
    """Distinct resources, by identity, and each group's number among them."""
    numbers: dict[int, int] = {}
    resources: list[Resource] = []
    for resource in found:
        if id(resource) not in numbers:
            numbers[id(resource)] = len(resources)
            resources.append(resource)
    return resources, np.array([numbers[id(r)] for r in found], np.int32)


def _size(size: U64) -> I64:
    return np.minimum(size, np.uint64(_WIDEST_SIZE)).astype(np.int64)


def _shown(protocol: U8, name: str, column: I64) -> dict[str, I64]:
    """The column, absent in rows that do not have it; nothing if no row has."""
    rows = shows(protocol, name)
    if rows is None or rows.all():
        return {name: column}
    return {name: np.where(rows, column, np.int64(-1))} if rows.any() else {}
