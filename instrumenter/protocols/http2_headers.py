# SPDX-License-Identifier: Apache-2.0
"""Field blocks of one half decoded, wherever in its life the connection was joined (HPACK, RFC 7541).

In: `Headers.block`s in order. Out: `FieldList`s. The rule: a field is right, or said to be unknown; never a guess.

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

import dataclasses
from collections import deque
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final, NamedTuple

from hpack.exceptions import HPACKError
from hpack.hpack import decode_integer
from hpack.huffman_table import decode_huffman
from hpack.table import HeaderTable, table_entry_size

DEFAULT_TABLE: Final = 4096  # RFC 9113, 6.5.2
MAX_KEPT: Final = 1 << 16  # of a larger table the oldest entries are not kept: unknown
MAX_LIST: Final = 1 << 14  # size of the wanted fields of one block, as RFC 9113, 10.5.1 counts it
_ENTRY: Final = table_entry_size(b"", b"")  # the least an entry takes
_REMEMBERED: Final = 64  # blocks of a half
_INTEGER: Final = 8  # bytes that an integer of any use has at most


class Unknown(Enum):
    """There may be such a field; its value cannot be known."""

    UNKNOWN = "unknown"


UNKNOWN: Final = Unknown.UNKNOWN
Value = bytes | Unknown | None  # None: certainly no such field


class Field(NamedTuple):
    """name None: an entry of before. value None: that, or of a field that nobody asked for."""

    name: bytes | None
    value: bytes | None


_NAMELESS: Final = Field(None, None)
_STATIC_FIELDS: Final = tuple(Field(*entry) for entry in HeaderTable.STATIC_TABLE)  # RFC 7541, A
_STATIC_SIZE: Final = len(_STATIC_FIELDS)


class _Strings:
    """Huffman-coded strings that were decoded before; of wanted fields only, and not for ever."""

    def __init__(self, most: int) -> None:
        self._known: dict[bytes, bytes] = {}
        self._most = most

    def decode(self, coded: bytes) -> bytes:
        found = self._known.get(coded)
        if found is None:
            found = decode_huffman(coded)
            if len(self._known) >= self._most:
                self._known.clear()
            self._known[coded] = found
        return found


_STRINGS: Final = _Strings(1024)


@dataclass(slots=True)
class FieldList:
    """The wanted fields of one block, in order, and which others there may be. Not to be changed, but for `made`.

    has_pseudo: a pseudo-header field was seen; hides_pseudo, hides_regular: one may be there that is not known.
    made: what its reader made of it, for the next time that the same list is given.
    """

    fields: tuple[Field, ...]
    has_pseudo: bool = False
    hides_pseudo: bool = False
    hides_regular: bool = False
    made: Any = dataclasses.field(default=None, compare=False, repr=False)

    def get(self, name: bytes) -> Value:
        """The first of this name."""
        for field in self.fields:
            if field.name == name:
                return field.value
        hidden = self.hides_pseudo if name.startswith(b":") else self.hides_regular
        return UNKNOWN if hidden else None

    def joined(self, name: bytes) -> Value:
        """All of this name as one list (RFC 9110, 5.3); unknown if there may be more."""
        if self.hides_regular:
            return UNKNOWN
        return b",".join([f.value for f in self.fields if f.name == name and f.value is not None]) or None


def nothing_known() -> FieldList:
    """A block that says nothing."""
    return FieldList((), hides_pseudo=True, hides_regular=True)


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
        return self._open and (self._max is None or self._size + older * _ENTRY <= self._max)

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


class FieldDecoder:
    """Decodes the blocks of one half. wanted: names whose values are kept and given (None: all); lower case.

    Values of other fields (cookies, credentials) are not kept, not even in the table.
    """

    def __init__(self, wanted: frozenset[bytes] | None = None, *, joined: bool = False) -> None:
        self._wanted = wanted
        self.table = Table(joined=joined)
        self.failed = 0  # blocks that could not be of this half's encoder
        self._known: dict[bytes, FieldList] = {}  # whole blocks that changed nothing, of the table as it is
        self._version = 0  # of that table

    def decode(self, block: bytes, cut: bool = False) -> FieldList:
        """cut: the block went on. Any bytes are taken; a block that cannot be gives nothing known."""
        if self._version != self.table.version or len(self._known) >= _REMEMBERED:
            self._known.clear()
            self._version = self.table.version
        elif not cut and (known := self._known.get(block)) is not None:
            return known
        found = self._read(block, cut)
        if self._version == self.table.version:
            self._known[block] = found
        return found

    def _read(self, block: bytes, cut: bool) -> FieldList:
        reader = _Reader(block, self.table, self._wanted)
        try:
            reader.run()
        except (HPACKError, Desync):
            if not cut:
                self.failed += 1
                self.table.forget()
                return nothing_known()
        if cut:
            self.table.forget()
        return reader.list(cut)

    def forget(self) -> None:
        """Blocks may have been missed."""
        self.table.forget()

    def limit(self, size: int) -> None:
        """SETTINGS_HEADER_TABLE_SIZE of the half's receiver. An encoder tells what it makes of it (RFC 7541, 4.2)."""
        self.table.allow(size)


class _Reader:
    """Reads one block, field by field (RFC 7541, 6)."""

    def __init__(self, block: bytes, table: Table, wanted: frozenset[bytes] | None) -> None:
        self._block = block
        self._at = 0
        self._table = table
        self._wanted = wanted
        self._fields: list[Field] = []
        self._room = MAX_LIST
        self._any = self._pseudo = self._regular = False  # what kinds of field were seen
        self._hides_pseudo = self._hides_regular = False

    def list(self, cut: bool) -> FieldList:
        # Pseudo-header fields come first (RFC 9113, 8.3): behind a regular field there is none.
        return FieldList(
            tuple(self._fields), self._pseudo, self._hides_pseudo or (cut and not self._regular),
            self._hides_regular or cut,
        )  # fmt: skip

    def run(self) -> None:
        block, size = self._block, len(self._block)
        while self._at < size:
            first = block[self._at]
            if first & 0x80:
                if first < 0xFF:
                    self._at += 1
                    self._found(self._table.get(first & 0x7F))
                else:
                    self._found(self._table.get(self._integer(7)))
            elif first & 0x40:
                self._literal(6, enters=True)
            elif first & 0x20:
                if self._any:
                    raise Desync("a table's size changes behind a field")
                self._table.resize(self._integer(5))
            else:
                self._literal(4, enters=False)

    def _literal(self, prefix: int, enters: bool) -> None:
        index = self._integer(prefix)
        name = self._table.get(index).name if index else self._string()
        wanted = self._is_wanted(name)
        raw, coded = self._raw()
        if coded and wanted:
            raw = _STRINGS.decode(raw)
        elif coded and enters:
            raw = decode_huffman(raw)
        field = Field(name, raw if wanted else None)
        if enters:
            self._table.add(field, _ENTRY + len(name or b"") + len(raw))
        self._found(field)

    def _is_wanted(self, name: bytes | None) -> bool:
        return name is not None and (self._wanted is None or name in self._wanted)

    def _found(self, field: Field) -> None:
        self._any = True
        name = field.name
        if name is None:
            self._hides_pseudo |= not self._regular
            self._hides_regular = True
            return
        pseudo = name[:1] == b":"
        if pseudo:
            self._pseudo = True
            if not self._regular:
                self._hides_regular = False  # whatever was unknown until here was a pseudo-header field too
        else:
            self._regular = True
        if field.value is None or not self._is_wanted(name):
            return
        self._room -= _ENTRY + len(name) + len(field.value)
        if self._room < 0:
            self._hides_regular = True
            self._hides_pseudo |= pseudo
        else:
            self._fields.append(field)

    def _integer(self, prefix: int) -> int:
        mask = (1 << prefix) - 1
        number = self._block[self._at] & mask
        if number < mask:  # as hpack's, which logs every one
            self._at += 1
            return number
        number, used = decode_integer(self._block[self._at : self._at + _INTEGER], prefix)
        self._at += used
        return number

    def _raw(self) -> tuple[bytes, bool]:
        """A string's bytes, and whether they are Huffman-coded."""
        if self._at >= len(self._block):
            raise Desync("a string is wanting")
        coded = bool(self._block[self._at] & 0x80)
        length = self._integer(7)
        raw = self._block[self._at : self._at + length]
        if len(raw) < length:
            raise Desync("a string is cut")
        self._at += length
        return raw, coded

    def _string(self) -> bytes:
        raw, coded = self._raw()
        return _STRINGS.decode(raw) if coded else raw
