# SPDX-License-Identifier: Apache-2.0
"""Columns: grouping that no input can fool, cuts that no length can lead astray."""

from __future__ import annotations

import numpy as np
import pytest

from instrumenter.columns import Cutter, distinct
from instrumenter.model import Text
from instrumenter.urls import first_known, join


def mixed(word: int) -> int:
    """What `distinct` has made of the first word when it comes to the second."""
    state = word * 0x9E3779B97F4A7C15 % 2**64
    return state ^ state >> 29


@pytest.mark.parametrize("width", [1, 2, 3, 4])
def test_groups_are_of_equal_rows(width: int) -> None:
    rng = np.random.default_rng(width)
    kinds = rng.integers(0, 2**63, (20, width)).astype(np.uint64)
    words = kinds[rng.integers(0, 20, 500)]
    first, group = distinct(words)
    assert np.array_equal(words[first][group], words)
    assert len(first) == len({row.tobytes() for row in words})


def test_rows_made_to_collide_are_told_apart() -> None:
    a, b = (5, 77), (6, 77 ^ mixed(5) ^ mixed(6))
    words = np.array([a, b, a, b], np.uint64)
    first, group = distinct(words)
    assert len(first) == 2
    assert np.array_equal(words[first][group], words)


def test_cuts() -> None:
    cutter = Cutter(np.frombuffer(b"abcdefgh", np.uint8).reshape(2, 4))
    offset, length = np.array([1, 0]), np.array([2, 4])
    assert cutter.cut(offset, length, clean=True).tobytes() == b"bc\0\0efgh"
    assert cutter.cut(offset, length, clean=True, multiple=8).shape == (2, 8)
    assert cutter.cut(np.array([4]), np.array([0]), np.array([1])).shape == (1, 0)
    assert cutter.cut(np.array([3, 4]), np.array([1, 0]), clean=True).tobytes() == b"d\0"
    last = cutter.cut(np.array([3]), np.array([1]), np.array([1]), clean=True, multiple=8)
    assert last.tobytes() == b"h" + bytes(7)


def text(*values: bytes | None) -> Text:
    width = max(len(v or b"") for v in values)
    data = np.frombuffer(b"".join((v or b"").ljust(width, b"#") for v in values), np.uint8)
    return Text(data.reshape(len(values), width), np.array([-1 if v is None else len(v) for v in values], np.int32))


def shown(column: Text) -> list[bytes | None]:
    return [None if n < 0 else row[:n].tobytes() for row, n in zip(column.data, column.length, strict=True)]


def test_texts_are_joined() -> None:
    assert shown(join([text(b"a", b"", b"ccc"), text(b"x", b"yy", None)])) == [b"ax", b"yy", b"ccc"]
    assert shown(join([text(b"", b"")])) == [b"", b""]


def test_first_known() -> None:
    assert shown(first_known(text(b"a", None, b""), text(b"long", b"long", None))) == [b"a", b"long", b""]
    assert shown(first_known(text(b"abc", None), text(b"d", None))) == [b"abc", None]
