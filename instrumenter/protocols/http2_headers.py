# SPDX-License-Identifier: Apache-2.0
"""Field blocks of one half decoded, wherever in its life the connection was joined (HPACK, RFC 7541).

In: `Headers.block`s in order. Out: `FieldList`s. The rule: a field is right, or said to be unknown; never a guess.
Why an index can be trusted although sizes are not known: http2_table.py.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

from hpack.exceptions import HPACKError
from hpack.hpack import decode_integer
from hpack.huffman_table import decode_huffman

from instrumenter.protocols.http2_table import ENTRY, Desync, Field, Table

MAX_LIST: Final = 1 << 14  # size of the wanted fields of one block, as RFC 9113, 10.5.1 counts it
_REMEMBERED: Final = 64  # blocks of a half
_INTEGER: Final = 8  # bytes that an integer of any use has at most


class Unknown(Enum):
    """There may be such a field; its value cannot be known."""

    UNKNOWN = "unknown"


UNKNOWN: Final = Unknown.UNKNOWN
Value = bytes | Unknown | None  # None: certainly no such field


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
            self._table.add(field, ENTRY + len(name or b"") + len(raw))
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
        self._room -= ENTRY + len(name) + len(field.value)
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
