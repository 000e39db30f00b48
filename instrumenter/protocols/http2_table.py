# SPDX-License-Identifier: Apache-2.0
"""The dynamic table of one half's encoder as far as it is known (HPACK, RFC 7541, 2.3), joined at any time.

In: insertions, changes of size. Out: fields by index. The rule: an entry is right, or said to be unknown.

Why an index can be trusted although sizes are not known. Entries only enter at the front and only leave at the back
(2.3.2, 4.4), so what the table holds is always a run of the newest insertions, and index n of the dynamic table, if an
encoder may use it at all, is the n-th newest insertion, however many older ones are gone. Hence:

- since the last moment of ignorance (joining, a gap, a block that was cut) all insertions are known; an index among
  them is right, one beyond them means an entry of before: unknown;
- an insertion larger than the table empties it and does not enter (4.4). If the table's size is unknown so is whether
  this happened; but then every index that may still be used is of later insertions, which count the same;
- an entry is dropped only when it is certainly gone: the sizes of newer ones, of which those with an unknown name are
  taken at their least, leave no room for it. Once they leave no room for any entry of before, all is known again;
- an index for which there is certainly no entry shows that the table is not the encoder's: everything is forgotten.

A literal whose name is an index into the past enters with an unknown name. Encoders take such a name from the newest
entry that has it, so it stays unknown until they spell it out again; names of the static table are not concerned.
"""

from __future__ import annotations

from collections import deque
from typing import Final, NamedTuple

from hpack.table import HeaderTable, table_entry_size

DEFAULT_TABLE: Final = 4096  # RFC 9113, 6.5.2
MAX_KEPT: Final = 1 << 16  # of a larger table the oldest entries are not kept: unknown
ENTRY: Final = table_entry_size(b"", b"")  # the least an entry takes


class Field(NamedTuple):
    """name None: an entry of before. value None: that, or of a field that nobody asked for."""

    name: bytes | None
    value: bytes | None


_NAMELESS: Final = Field(None, None)
_STATIC_FIELDS: Final = tuple(Field(*entry) for entry in HeaderTable.STATIC_TABLE)  # RFC 7541, A
_STATIC_SIZE: Final = len(_STATIC_FIELDS)


class Desync(Exception):
    """The block cannot be of an encoder whose table is ours."""


class Table:
    """The dynamic table as far as it is known."""

    def __init__(self, *, joined: bool) -> None:
        self._entries: deque[tuple[Field, int]] = deque()  # newest first, each with its size or the least it may be
        self._size = 0
        self._max: int | None = DEFAULT_TABLE  # None: unknown
        self._open = False  # there may be older entries, of which nothing is known
        self.version = 0  # changes with everything that an index depends on
        if joined:
            self.forget()

    @property
    def is_whole(self) -> bool:
        """Nothing of before is left in it."""
        return not self._open

    def __len__(self) -> int:
        return len(self._entries)

    def forget(self) -> None:
        """Insertions and changes of size may have been missed."""
        self.version += 1
        self._entries.clear()
        self._size = 0
        self._max = None
        self._open = True

    def get(self, index: int) -> Field:
        """Of the static and the dynamic table together (RFC 7541, 2.3.3)."""
        if 0 < index <= _STATIC_SIZE:
            return _STATIC_FIELDS[index - 1]
        place = index - _STATIC_SIZE - 1
        if 0 <= place < len(self._entries):
            return self._entries[place][0]
        if index == 0 or not self._may_hold(place - len(self._entries) + 1):
            raise Desync(f"index {index}")
        return _NAMELESS

    def _may_hold(self, older: int) -> bool:
        """Whether that many entries of before may be left."""
        return self._open and (self._max is None or self._size + older * ENTRY <= self._max)

    def add(self, field: Field, size: int) -> None:
        """size: of the entry, or the least it may be."""
        self.version += 1
        if self._max is not None and size > self._max:
            self._entries.clear()
            self._size, self._open = 0, False
            return
        self._entries.appendleft((field, size))
        self._size += size
        self._shrink()

    def resize(self, size: int) -> None:
        """The encoder's own word (RFC 7541, 6.3)."""
        self.version += 1
        self._max = size
        self._shrink()

    def allow(self, size: int) -> None:
        """The decoder's peer may use this much. Should it do so without a word, its entries are not taken for gone."""
        self.version += 1
        if self._max is not None:
            self._max = max(self._max, size)

    def _shrink(self) -> None:
        while self._max is not None and self._size > self._max:
            self._size -= self._entries.pop()[1]
            self._open = False
        while self._size > MAX_KEPT:
            self._size -= self._entries.pop()[1]
            self._open = True
        self._open = self._may_hold(1)
