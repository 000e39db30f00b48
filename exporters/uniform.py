# SPDX-License-Identifier: Apache-2.0
"""Spans of one length, written as copies of one template with only their numbers put in.

In: `Spans` without texts of their own (what is said of them is in their shapes). Out: encoded runs, and the rows that
are too few of their kind to have a template. The rule this file protects: the same fields as `page` writes, each length
right because it is the same for all rows of a template.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from exporters import template as t
from exporters.envelope import Run, with_room
from exporters.page import varint_size
from instrumenter.model import I32, I64, KIND_SERVER, U8, U64, Spans, Text

Rows = NDArray[np.intp]
FEWEST: Final = 16  # rows of a template: below it a page is cheaper
_LONGEST: Final = 8  # bytes of a varint that are written as one word


class _Number(NamedTuple):
    """An attribute's column. sizes: of its varints, 0 where absent; None if all rows have the first one's value."""

    key: bytes
    values: I64
    sizes: I64 | None


def uniform(spans: Spans, fragments: Sequence[t.Fragments]) -> tuple[list[Run], Rows]:
    """Runs of rows that have a template, and the other rows. fragments: of the shapes."""
    everything: Rows = np.arange(len(spans))
    if spans.texts or not spans.start_ns.all() or not spans.end_ns.all() or (spans.trace_state.length > 0).any():
        return [], everything
    numbers = [_number(key, values) for key, values in spans.ints.items()]
    layout, parent = _layouts(spans, numbers)
    if bool((layout == layout[0]).all()):
        groups = [everything]
    else:
        order = np.argsort(layout, kind="stable")
        groups = np.split(order, np.flatnonzero(np.diff(layout[order])) + 1)
    writers: dict[int, list[_Writer]] = {}  # by resource
    others = []
    for rows in groups:
        first = int(rows[0])
        sizes = [-1 if n.sizes is None else int(n.sizes[first]) for n in numbers]
        if len(rows) < FEWEST or max(sizes, default=0) > _LONGEST:
            others.append(rows)
            continue
        part = spans if len(groups) == 1 else spans.take(rows)
        columns = list(part.ints.values())
        writer = _Writer(part, fragments[int(spans.shape[first])], bool(parent[first]))
        for number, size, values in zip(numbers, sizes, columns, strict=True):
            writer.integer(number.key, size, values)
        writers.setdefault(int(spans.resource[first]), []).append(writer)
    runs = [_run(resource, parts) for resource, parts in writers.items()]
    return runs, np.concatenate(others) if others else everything[:0]


def _run(resource: int, writers: Sequence[_Writer]) -> Run:
    """The rows of all writers, each in its place of one memory, with room for what a request puts around them."""
    templates = [writer.finish() for writer in writers]
    each = np.repeat([len(template) for template in templates], [writer.rows for writer in writers])
    ends = np.cumsum(each, dtype=np.int64)
    data = with_room(int(ends[-1]))
    begin = 0
    for writer, template in zip(writers, templates, strict=True):
        end = begin + writer.rows * len(template)
        writer.write(data[begin:end].reshape(writer.rows, -1), template)
        begin = end
    return Run(resource, data, ends)


def joined(batch: Sequence[Spans]) -> list[Spans]:
    """The same spans in as few batches as may be: one without texts costs no more for being long."""
    out: list[Spans] = []
    by_columns: dict[tuple[str, ...], list[Spans]] = {}
    for spans in batch:
        if spans.texts or (spans.trace_state.length > 0).any():
            out.append(spans)
        else:
            by_columns.setdefault(tuple(spans.ints), []).append(spans)
    return [*out, *(parts[0] if len(parts) == 1 else _concatenated(parts) for parts in by_columns.values())]


def _concatenated(parts: list[Spans]) -> Spans:
    resources = {id(r): r for part in parts for r in part.resources}
    shapes = {id(s): s for part in parts for s in part.shapes}
    places = {key: place for known in (resources, shapes) for place, key in enumerate(known)}

    def numbers(items: Sequence[object], column: I32) -> I32:
        if len(items) == 1:
            return np.full(len(column), places[id(items[0])], np.int32)
        return np.array([places[id(item)] for item in items], np.int32)[column]

    def column(name: str) -> Any:
        return np.concatenate([getattr(part, name) for part in parts])

    rows = sum(map(len, parts))
    return Spans(
        list(resources.values()), list(shapes.values()),
        np.concatenate([numbers(part.resources, part.resource) for part in parts]),
        np.concatenate([numbers(part.shapes, part.shape) for part in parts]),
        column("trace_id"), column("span_id"), column("parent_id"), column("flags"),
        column("start_ns"), column("end_ns"),
        {key: np.concatenate([part.ints[key] for part in parts]) for key in parts[0].ints}, {},
        Text(np.zeros((rows, 0), np.uint8), np.full(rows, -1, np.int32)),
    )  # fmt: skip


def _number(key: str, values: I64) -> _Number:
    front = t.message(t.KEY_VALUE_KEY, t.text(key))
    if bool((values == values[0]).all()):
        return _Number(front, values, None)
    sizes = varint_size(np.maximum(values, 0))
    return _Number(front, values, sizes if int(values.min()) >= 0 else np.where(values < 0, 0, sizes))


def _layouts(spans: Spans, numbers: list[_Number]) -> tuple[I64, NDArray[np.bool_]]:
    """(n,): equal where all of a span is equally long and of one shape and resource; and who has a parent."""
    parent: NDArray[np.bool_] = spans.parent_id.view("<u8").ravel() != 0
    layout = spans.shape.astype(np.int64) * len(spans.resources) + spans.resource
    layout = layout * 2 + parent
    for number in numbers:
        if number.sizes is not None:
            layout = layout * 11 + number.sizes
    return layout, parent


class _Writer:
    """Makes the template of some rows, and then the rows."""

    def __init__(self, spans: Spans, fragments: t.Fragments, parent: bool) -> None:
        self._spans, self._fragments = spans, fragments
        self._template = bytearray()
        self._words: list[tuple[int, U64]] = []  # where in the template, and what to write there
        self._front = 0  # bytes before it: its tag and length
        server = spans.shapes[int(spans.shape[0])].kind == KIND_SERVER
        self._remote = parent and server  # the parent of a server's span is in another process, any other's is here
        self._block(t.SPAN_TRACE_ID, spans.trace_id)
        self._block(t.SPAN_SPAN_ID, spans.span_id)
        if parent:
            self._block(t.SPAN_PARENT_SPAN_ID, spans.parent_id)
        self._template += fragments.head
        for number, times in ((t.SPAN_START, spans.start_ns), (t.SPAN_END, spans.end_ns)):
            self._template += t.tag(number, t.FIXED64)
            self._place(times)
        self._template += fragments.attributes

    def _block(self, number: int, data: U8) -> None:
        self._template += t.tag(number, t.LENGTH) + t.varint(data.shape[1])
        for column in np.ascontiguousarray(data).view("<u8").T:
            self._place(column)

    def _place(self, words: U64) -> None:
        self._words.append((len(self._template), words))
        self._template += bytes(8)

    def integer(self, key: bytes, size: int, values: I64) -> None:
        """An attribute; of `size` bytes, 0: absent, -1: the same in all rows. key: the KeyValue.key field, whole."""
        if size < 0:
            value = int(values[0])
            if value >= 0:
                number = t.message(t.KEY_VALUE_VALUE, t.tag(t.ANY_INT, t.VARINT) + t.varint(value))
                self._template += t.message(t.SPAN_ATTRIBUTES, key + number)
        elif size:
            number = t.message(t.KEY_VALUE_VALUE, t.tag(t.ANY_INT, t.VARINT) + bytes(size))
            self._template += t.message(t.SPAN_ATTRIBUTES, key + number)
            self._words.append((len(self._template) - size, _varints(values, size)))

    @property
    def rows(self) -> int:
        return len(self._spans)

    def finish(self) -> U8:
        """The whole template, as a field; nothing is added to it after."""
        flags = t.FLAGS_HAS_IS_REMOTE | (t.FLAGS_IS_REMOTE if self._remote else 0)
        self._template += self._fragments.tail + t.tag(t.SPAN_FLAGS, t.FIXED32) + flags.to_bytes(4, "little")
        front = t.tag(t.SCOPE_SPANS_SPANS, t.LENGTH) + t.varint(len(self._template))
        self._front = len(front)
        return np.frombuffer(front + bytes(self._template), np.uint8)

    def write(self, matrix: U8, template: U8) -> None:
        """All rows, as rows of the matrix."""
        matrix[:] = template
        for place, words in self._words:
            _write(matrix, template, place + self._front, words)
        matrix[:, len(template) - 4] = self._spans.flags


def _varints(values: I64, size: int) -> U64:
    """Varints of `size` bytes, the first one lowest."""
    whole = values.view(np.uint64)
    words: U64 = whole & np.uint64(0x7F)
    for place in range(1, size):
        words |= ((whole >> np.uint64(7 * place)) & np.uint64(0x7F)) << np.uint64(8 * place)
    return words | np.uint64(sum(0x80 << 8 * place for place in range(size - 1)))


def _write(matrix: U8, template: U8, place: int, words: U64) -> None:
    """Put words at a place of each row; of a shorter number the template's own bytes follow, so they stay."""
    rest = template[place : place + 8].copy()
    if len(rest) < 8:  # the last bytes of a row
        data = np.ascontiguousarray(words).view(np.uint8).reshape(-1, 8)[:, : len(rest)]
        matrix[:, place : place + len(rest)] = data | rest
        return
    np.bitwise_or(words, rest.view("<u8")[0], out=np.ndarray(len(matrix), "<u8", matrix, place, matrix.strides[:1]))
