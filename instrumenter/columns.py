# SPDX-License-Identifier: Apache-2.0
"""Columns of numbers and texts, handled without a Python call per row.

In: NumPy arrays. Out: groups of equal rows, and texts cut out of rows at uneven places. The rule this file protects:
no read outside an array, whatever lengths a record claims.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from instrumenter.bpf.abi import EXCHANGE, RED_KEY
from instrumenter.model import I32, I64, U8, U64, Text

Rows = NDArray[np.intp]
Bools = NDArray[np.bool_]

_MIX: Final = np.uint64(0x9E37_79B9_7F4A_7C15)
_SHIFT: Final = np.uint64(29)
_EXCHANGE_WORDS: Final = np.dtype((np.dtype("<u8"), (EXCHANGE.itemsize // 8,)))
_KEY_WORDS: Final = RED_KEY.itemsize // 8
_PADDING: Final = np.uint64((1 << 56) - 1)  # `pad` is the last byte of a key


def distinct(words: U64) -> tuple[Rows, Rows]:
    """Groups of equal rows of `words` (n, k): one row of each group (m,), and each row's group (n,).

    Sorts one 64-bit mix per row, then checks that rows of a group really are equal; if a mix collided it sorts the
    whole rows, which is slower and always right.
    """
    if len(words) and all(bool((words[:, place] == words[0, place]).all()) for place in range(words.shape[1])):
        return np.zeros(1, np.intp), np.zeros(len(words), np.intp)
    mixed: U64 = words[:, 0] * _MIX
    for column in range(1, words.shape[1]):
        mixed ^= mixed >> _SHIFT
        mixed ^= words[:, column]
        mixed *= _MIX
    first, group = _unique(mixed)
    if np.array_equal(words[first][group], words):
        return first, group
    whole = np.ascontiguousarray(words).view(np.dtype((np.void, 8 * words.shape[1]))).ravel()
    return _unique(whole)


def _unique(values: NDArray[Any]) -> tuple[Rows, Rows]:
    _, first, group = np.unique(values, return_index=True, return_inverse=True)
    return first, group.reshape(-1)


def key_words(x: NDArray[Any]) -> U64:
    """The metric keys of exchange records as words (n, 3), a copy, their padding zero."""
    raw = x.view(_EXCHANGE_WORDS)
    words = np.empty((len(x), _KEY_WORDS), np.uint64)
    for place in range(_KEY_WORDS - 1):
        words[:, place] = raw[:, place]
    np.bitwise_and(raw[:, _KEY_WORDS - 1], _PADDING, out=words[:, -1])
    return words


def amounts(numbers: NDArray[Any]) -> list[tuple[int, int]]:
    """Each distinct number and how often it is there; one that is alone is found without sorting."""
    if not len(numbers):
        return []
    if bool((numbers == numbers[0]).all()):
        return [(int(numbers[0]), len(numbers))]
    found, counts = np.unique(numbers, return_counts=True)
    return list(zip(found.tolist(), counts.tolist(), strict=True))


def within(width: int, length: I64) -> Bools:
    """(n, width): whether a place is inside its row's length."""
    dtype = np.uint8 if width < 256 else np.int32
    places: Any = np.arange(width, dtype=dtype)
    return np.asarray(places < np.clip(length, 0, width).astype(dtype)[:, None])


class Cutter:
    """Cuts texts out of the rows of a matrix (n, w), each row at its own offset."""

    def __init__(self, text: U8) -> None:
        height, width = text.shape
        self._room = width  # zeros behind the last row, so that a cut at its end stays inside
        self._flat = np.zeros(text.size + width, np.uint8)
        self._flat[: text.size].reshape(text.shape)[:] = text
        self._starts: I64 = np.arange(height, dtype=np.int64) * width

    def cut(self, offset: I64, length: I64, rows: Rows | None = None, clean: bool = False, multiple: int = 1) -> U8:
        """Row i is text[i, offset[i] : offset[i] + length[i]] at its left, as wide as the longest (rounded up).

        offset + length must stay within the matrix's width. What follows a shorter text is whatever was beside it,
        zeros if `clean`. With `rows`, offset and length belong to those rows only.
        """
        longest = int(length.max(initial=0))
        width = -(-longest // multiple) * multiple
        starts = self._starts if rows is None else self._starts[rows]
        if width > self._room:
            self._flat = np.concatenate([self._flat, np.zeros(width - self._room, np.uint8)])
            self._room = width
        if width == 0 or len(starts) == 0:
            return np.zeros((len(starts), width), np.uint8)
        # A view of every place at once; NumPy refuses one that would reach beyond the buffer.
        windows = np.ndarray((len(self._flat) - width + 1, width), np.uint8, self._flat, strides=(1, 1))
        out: U8 = windows[starts + offset]
        if clean:
            out *= within(width, length)
        return out


def as_words(text: U8) -> U64:
    """A matrix of zero-padded texts as 64-bit words; its width must be a multiple of 8."""
    return np.ascontiguousarray(text).view("<u8")


def table(texts: Sequence[bytes]) -> Text:
    """A column of the given texts."""
    width = max((len(t) for t in texts), default=0)
    data = np.frombuffer(b"".join([t.ljust(width, b"\0") for t in texts]), np.uint8).reshape(len(texts), width)
    return Text(data, np.array([len(t) for t in texts], np.int32))


def pick(column: Text, rows: Rows) -> Text:
    return Text(column.data.take(rows, 0), column.length.take(rows))


def only(column: Text, rows: Bools) -> Text:
    """The column, absent outside of `rows`."""
    return Text(column.data, np.where(rows, column.length, np.int32(-1)))


def spread(column: Text, rows: Rows, height: int) -> Text:
    """The column's rows put at `rows` of a column of `height`; absent elsewhere."""
    data = np.zeros((height, column.data.shape[1]), np.uint8)
    data[rows] = column.data
    length: I32 = np.full(height, -1, np.int32)
    length[rows] = column.length
    return Text(data, length)
