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

from exporters.template import LENGTH, VARINT, tag, varint
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
        value = np.maximum(value, 0)
        size = varint_size(value)
        self._attribute(number, key, 1 + size, present)
        self.literal(tag(3, VARINT), present)
        self.varint(value, present)

    def string(self, number: int, key: bytes, value: Text) -> None:
        """A repeated KeyValue field with a text; absent where the length is negative. key: as of `integer`."""
        present = _some(value.length >= 0)
        if present is False:
            return
        length = np.maximum(value.length, 0).astype(np.int64)
        self._attribute(number, key, 1 + varint_size(length) + length, present)
        self.text(1, Text(value.data, length.astype(np.int32)), present)

    def text(self, number: int, value: Text, present: Bools | None = None) -> None:
        """A string or bytes field; present also where empty."""
        length = value.length.astype(np.int64)
        self.literal(tag(number, LENGTH), present)
        self.varint(length, present)
        self.ragged(value.data[:, : int(length.max(initial=0))], length)

    def _attribute(self, number: int, key: bytes, inner: I64, present: Bools | None) -> None:
        """All of a KeyValue field up to the AnyValue's own fields, of which there are `inner` bytes."""
        size = len(key) + 1 + varint_size(inner) + inner
        widest = int(size.max(initial=0))
        if widest < 0x80:  # both lengths are one byte: one constant piece with two places to fill
            start = self._grow(tag(number, LENGTH) + b"\0" + key + tag(2, LENGTH) + b"\0")
            place = start + len(tag(number, LENGTH))
            self._writes.append((place, place + 1, size.astype(np.uint8)[:, None]))
            self._writes.append((len(self._template) - 1, len(self._template), inner.astype(np.uint8)[:, None]))
            self._show(start, present)
            return
        self.literal(tag(number, LENGTH), present)
        self.varint(size, present)
        self.literal(key + tag(2, LENGTH), present)
        self.varint(inner, present)

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

    def pack(self, number: int) -> Packed:
        """All rows as fields `number` of whatever holds them."""
        template, length, writes, masks = self._template, self._length, self._writes, self._masks
        front = Page(self._rows)
        front.literal(tag(number, LENGTH))
        front.varint(length)
        shift = len(front._template)
        width = shift + len(template)
        matrix = np.empty((self._rows, width), np.uint8)
        there = np.ones((self._rows, width), np.bool_)
        matrix[:] = np.frombuffer(bytes(front._template + template), np.uint8)
        for by, some_writes, some_masks in ((0, front._writes, front._masks), (shift, writes, masks)):
            for start, end, data in some_writes:
                matrix[:, start + by : end + by] = data
            for start, end, mask in some_masks:
                there[:, start + by : end + by] = mask
        return Packed(matrix[there], length + front._length)


def _some(present: Bools) -> Any:
    """None if all are present, False if none is, else the column itself."""
    if present.all():
        return None
    return present if present.any() else False


def fixed64(values: NDArray[np.uint64]) -> U8:
    return np.ascontiguousarray(values, dtype="<u8").view(np.uint8).reshape(-1, 8)


__all__ = ["Packed", "Page", "fixed64", "varint", "varint_size"]
