# SPDX-License-Identifier: Apache-2.0
"""Many protobuf messages of one layout, written side by side.

In: constant bytes and columns, in the order they have on the wire. Out: the messages back to back. The rule this file
protects: every length is computed from what is written, and what a row lacks leaves no byte behind.

A page is a matrix with one message per row, each piece at its own columns wide enough for the widest row, and a
second matrix that says which bytes are there. All rows begin as copies of a template; only what differs is written;
selecting the bytes that are there packs the rows. It costs the same whether all rows are alike or all are different.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from exporters.template import ANY_INT, ANY_STRING, KEY_VALUE_VALUE, LENGTH, VARINT, tag
from instrumenter.model import I64, U8, Text

Bools = NDArray[np.bool_]


class Packed(NamedTuple):
    """Messages back to back, and the length of each with its own tag and length."""

    data: U8
    length: I64


def varint_size(values: I64) -> I64:
    """Bytes of each value (not negative) as a varint."""
    size = np.ones(len(values), np.int64)
    widest = int(values.max(initial=0))
    bound = 0x80
    while widest >= bound:
        size += values >= bound
        bound <<= 7
    return size


class Page:
    """Builds n messages. Pieces are added from left to right, `pack` ends it."""

    def __init__(self, rows: int) -> None:
        self._rows = rows
        self._template = bytearray()
        self._length: I64 = np.zeros(rows, np.int64)
        self._writes: list[tuple[int, int, Any]] = []  # first column, end, what to write: (end - first) or 1 wide
        self._masks: list[tuple[int, int, Any]] = []  # likewise, for the matrix of bytes that are there

    def literal(self, data: bytes, present: Bools | None = None) -> None:
        """Constant bytes, in the rows where `present` (None: all)."""
        start = self._grow(data)
        self._show(start, present)

    def block(self, data: U8, present: Bools | None = None) -> None:
        """Columns of fixed width (n, k)."""
        start = self._grow(bytes(data.shape[1]))
        self._writes.append((start, len(self._template), data))
        self._show(start, present)

    def ragged(self, data: U8, length: I64) -> None:
        """The first length[i] bytes of each row; none if negative."""
        length = np.maximum(length, 0)
        self._length += length
        self._ragged(data, length)

    def varint(self, values: I64, present: Bools | None = None) -> None:
        """Varints of the values; of absent rows the value may be anything not negative."""
        size = varint_size(values)
        self._length += size if present is None else np.where(present, size, 0)
        self._varint(values, size, present)

    def integer(self, number: int, key: bytes, value: I64) -> None:
        """A repeated KeyValue field with an int; absent where negative. key: the KeyValue.key field, whole."""
        present = _some(value >= 0)
        if present is False:
            return
        value = value if present is None else np.maximum(value, 0)
        size = varint_size(value)
        start = self._attribute_front(number, key, tag(ANY_INT, VARINT), len(key) + 3 + size, 1 + size)
        self._show(start, present)
        self._length += size if present is None else np.where(present, size, 0)
        self._varint(value, size, present)

    def string(self, number: int, key: bytes, value: Text) -> None:
        """A repeated KeyValue field with a text; absent where the length is negative. key: as of `integer`."""
        present = _some(value.length >= 0)
        if present is False:
            return
        length = np.maximum(value.length, 0).astype(np.int64)
        widest = int(length.max(initial=0))
        data = value.data[:, :widest]
        if len(key) + widest + 4 < 0x80:  # every length is one byte: one constant piece with three places to fill
            front = tag(ANY_STRING, LENGTH) + b"\0"
            start = self._attribute_front(number, key, front, len(key) + 4 + length, 2 + length)
            self._write(len(self._template) - 1, length)
            self._show(start, present)
            self.ragged(data, length)
            return
        inner = 1 + varint_size(length) + length
        self.literal(tag(number, LENGTH), present)
        self.varint(len(key) + 1 + varint_size(inner) + inner, present)
        self.literal(key + tag(KEY_VALUE_VALUE, LENGTH), present)
        self.varint(inner, present)
        self.text(ANY_STRING, Text(data, length.astype(np.int32)), present)

    def text(self, number: int, value: Text, present: Bools | None = None) -> None:
        """A string or bytes field; present also where empty."""
        length = value.length.astype(np.int64)
        self.literal(tag(number, LENGTH), present)
        self.varint(length, present)
        self.ragged(value.data[:, : int(length.max(initial=0))], length)

    def _attribute_front(self, number: int, key: bytes, front: bytes, outer: I64, inner: I64) -> int:
        """A KeyValue field up to its value, if its own and its AnyValue's length are one byte each; where it starts.

        front: the AnyValue's bytes before the value; outer, inner: lengths of KeyValue and AnyValue.
        """
        start = self._grow(tag(number, LENGTH) + b"\0" + key + tag(KEY_VALUE_VALUE, LENGTH) + b"\0" + front)
        self._write(start + len(tag(number, LENGTH)), outer)
        self._write(len(self._template) - len(front) - 1, inner)
        return start

    def _write(self, place: int, values: I64) -> None:
        """One byte per row."""
        self._writes.append((place, place + 1, values.astype(np.uint8)[:, None]))

    def _grow(self, data: bytes) -> int:
        start = len(self._template)
        self._template += data
        return start

    def _show(self, start: int, present: Bools | None) -> None:
        """Count the bytes from `start` on, and hide them where absent."""
        width = len(self._template) - start
        if present is None:
            self._length += width
        else:
            self._length += np.where(present, width, 0)
            self._masks.append((start, len(self._template), present[:, None]))

    def _ragged(self, data: U8, length: I64) -> None:
        width = data.shape[1]
        start = self._grow(bytes(width))
        self._writes.append((start, start + width, data))
        if width and int(length.min(initial=width)) < width:
            dtype = np.uint8 if width < 256 else np.int32
            places: Any = np.arange(width, dtype=dtype)
            inside = places < length.astype(dtype)[:, None]
            self._masks.append((start, start + width, inside))

    def _varint(self, values: I64, size: I64, present: Bools | None) -> None:
        widest = int(size.max(initial=1))
        start = self._grow(bytes(widest))
        for place in range(widest):
            group = (values >> (7 * place)) & 0x7F
            if place < widest - 1:
                group |= np.where(size > place + 1, 0x80, 0)
            self._writes.append((start + place, start + place + 1, group.astype(np.uint8)[:, None]))
            there = _some(size > place)
            if present is not None:
                there = present if there is None else present & there
            if there is not None:
                self._masks.append((start + place, start + place + 1, np.asarray(there)[:, None]))

    def pack(self, number: int, scratch: Scratch) -> Packed:
        """All rows as fields `number` of whatever holds them."""
        front = Page(self._rows)
        front.literal(tag(number, LENGTH))
        front.varint(self._length)
        shift = len(front._template)
        template = np.frombuffer(bytes(front._template + self._template), np.uint8)
        matrix, there = scratch.matrices(self._rows, len(template))
        matrix[:] = template
        there[:] = True
        for by, page in ((0, front), (shift, self)):
            for start, end, data in page._writes:
                matrix[:, start + by : end + by] = data
            for start, end, mask in page._masks:
                there[:, start + by : end + by] = mask
        return Packed(matrix[there], self._length + front._length)


class Scratch:
    """Memory for a page, used again by the next one: fresh memory costs more than what is done with it."""

    def __init__(self) -> None:
        self._bytes: U8 = np.empty(0, np.uint8)
        self._there: Bools = np.empty(0, np.bool_)

    def matrices(self, rows: int, width: int) -> tuple[U8, Bools]:
        """Two matrices (rows, width) of any content, valid until the next call."""
        size = rows * width
        if len(self._bytes) < size:
            self._bytes, self._there = np.empty(size, np.uint8), np.empty(size, np.bool_)
        return self._bytes[:size].reshape(rows, width), self._there[:size].reshape(rows, width)


def _some(present: Bools) -> Any:
    """None if all are present, False if none is, else the column itself."""
    if present.all():
        return None
    return present if present.any() else False


def fixed64(values: NDArray[np.uint64]) -> U8:
    return np.ascontiguousarray(values, dtype="<u8").view(np.uint8).reshape(-1, 8)
