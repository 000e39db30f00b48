# SPDX-License-Identifier: Apache-2.0
"""Functions of a Go program by name, from the table that its runtime needs and that stripping cannot take away.

In: an `Elf`, names as Go writes them ("net/http.(*conn).serve"). Out: `Symbol`s with offsets in the file. The rule:
what the table says is checked against the file, and the addresses against the runtime's own record of it (moduledata),
which is where programs of 1.26 and newer, PIE and cgo alike, keep the start of their text.

The table (.gopclntab) of 1.16 to the newest: a header, names, ..., then pairs of (entry, place of the function's
record), and the records. Source: runtime/symtab.go, debug/gosym/pclntab.go.
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from instrumenter.binaries.elf import CHUNK, PF_X, PT_LOAD, READ_MAX, Elf, Unreadable
from instrumenter.binaries.symbols import Symbol

_GO116, _GO118, _GO120 = 0xFFFFFFFA, 0xFFFFFFF0, 0xFFFFFFF1
_MAGICS: Final = (_GO120, _GO118, _GO116)
_FUNCTIONS_MAX: Final = 4 << 20
_NAME_MAX: Final = 1024
_HITS_MAX: Final = 10_000
# Words of moduledata, the same since 1.16: pcHeader; slices of names, cu, files, pc, pclntable, ftab; findfunctab,
# minpc, maxpc; text.
_MODULE_NAMES, _MODULE_FTAB, _MODULE_TEXT, _MODULE_WORDS = 1, 16, 22, 24


@dataclass(frozen=True, slots=True)
class Table:
    """Where the parts of the table are. records: of the pairs, and what their second halves count from. wide: 1.16
    and 1.17, whose entries are addresses of 64 bits."""

    address: int
    offset: int
    size: int
    count: int
    names: int
    names_size: int
    records: int
    wide: bool
    header_text: int


def find_functions(elf: Elf, names: Collection[str]) -> dict[str, Symbol]:
    """The functions of these names, as far as they are in the program and were not inlined everywhere."""
    table = _table(elf)
    wanted = _name_places(elf, table, {name.encode() for name in names})
    if not wanted:
        return {}
    entries, records = _pairs(elf, table)
    found = {}
    for index, place in _records(elf, table, records, np.array(sorted(wanted), np.uint32)):
        address, end = int(entries[index]), int(entries[index + 1])
        offset = elf.file_offset(address, code=True)
        if offset is None or not address < end:
            raise Unreadable("a function table that points outside of the code")
        found[wanted[place]] = Symbol(wanted[place], offset, end - address)
    return found


def functions_at(elf: Elf, offsets: Collection[int]) -> list[Symbol | None]:
    """The functions, without their names, that have these places in the file. None: none has."""
    entries, _ = _pairs(elf, _table(elf))
    first = elf.file_offset(int(entries[0]), code=True)
    if first is None:
        raise Unreadable("a function table that points outside of the code")
    begins = entries.astype(np.int64) - int(entries[0]) + first
    found: list[Symbol | None] = []
    for offset, i in zip(offsets, np.searchsorted(begins, np.array(list(offsets)), "right").tolist(), strict=True):
        inside = 0 < i < len(begins) and offset < begins[i]
        found.append(Symbol("", int(begins[i - 1]), int(begins[i] - begins[i - 1])) if inside else None)
    return found


def _table(elf: Elf) -> Table:
    section = elf.section(".gopclntab", ".data.rel.ro.gopclntab")
    if section is not None and section.size >= 72:
        found = _header(elf, section.address, section.offset, section.size)
        if found is None:
            raise Unreadable("a function table of an unknown version of Go")
        return found
    for s in elf.segments:
        if s.type == PT_LOAD and not s.flags & PF_X and s.offset + s.file_size <= elf.size:
            for at in _magics(elf, s.offset, s.file_size):
                found = _header(elf, s.address + at, s.offset + at, s.file_size - at)
                if found is not None:
                    return found
    raise Unreadable("no function table")


def _magics(elf: Elf, offset: int, size: int) -> Iterator[int]:
    """Places of the header's first eight bytes: magic, two zeros, the instruction's size, the pointer's."""
    for start, data in elf.chunks(offset, size, overlap=8):
        for magic in _MAGICS:
            for unit in (b"\x01", b"\x04"):
                at = data.find(struct.pack("<IH", magic, 0) + unit + b"\x08")
                if at >= 0:
                    yield start + at


def _header(elf: Elf, address: int, offset: int, size: int) -> Table | None:
    if size < 72:
        return None
    magic, zero, unit, pointer = struct.unpack("<IHBB", elf.read(offset, 8))
    if magic not in _MAGICS or zero or unit not in (1, 4) or pointer != 8:
        return None
    words = [int(word) for word in elf.words(address + 8, 8)]
    wide = magic == _GO116
    count = words[0]
    text, (names, cu, _, _, records) = (0, words[2:7]) if wide else (words[2], words[3:8])
    fits = names <= cu <= size and records <= size and 0 < count <= _FUNCTIONS_MAX
    if not fits or records + (count * 2 + 1) * (8 if wide else 4) > size:
        return None
    return Table(address, offset, size, count, names, cu - names, records, wide, text)


def _name_places(elf: Elf, table: Table, names: set[bytes]) -> dict[int, str]:
    """Place among the names -> name."""
    places: dict[int, str] = {}
    for start, data in elf.chunks(table.offset + table.names - 1, table.names_size + 1, overlap=_NAME_MAX):
        data = b"\0" + data[1:] if start == 0 else data
        for name in names:
            at = data.find(b"\0" + name + b"\0")
            if at >= 0:
                places[start + at] = name.decode()
    return places


def _pairs(elf: Elf, table: Table) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """Addresses of all functions and of the end, ascending, and the places of their records."""
    size = (table.count * 2 + 1) * (8 if table.wide else 4)
    if size > READ_MAX:
        raise Unreadable("a function table that is too large")
    if table.wide:
        values = elf.words(table.address + table.records, table.count * 2 + 1)
        return values[::2], values[1::2]
    values = np.frombuffer(elf.read(table.offset + table.records, size), "<u4").astype(np.uint64)
    return values[::2] + np.uint64(_text(elf, table)), values[1::2]


def _records(
    elf: Elf, table: Table, places: NDArray[np.uint64], wanted: NDArray[np.uint32]
) -> Iterator[tuple[int, int]]:
    """(which function, place of its name) of those whose name is wanted. The name's place is the record's second
    field, after the entry."""
    at = 8 if table.wide else 4
    room = table.size - table.records
    order = np.argsort(places, kind="stable")
    places = places[order]
    hits = 0
    for start, data in elf.chunks(table.offset + table.records, room, overlap=16, unit=8):
        step = CHUNK - CHUNK % 8
        first, last = np.searchsorted(places, np.array([start, start + step], np.uint64))
        inside = (places[first:last] - np.uint64(start)).astype(np.int64) + at
        inside = inside[inside + 4 <= len(data)]
        raw = np.frombuffer(data, np.uint8)[inside[:, None] + np.arange(4)]
        names = np.ascontiguousarray(raw).view("<u4").ravel()
        for index in np.flatnonzero(np.isin(names, wanted)):
            hits += 1
            if hits > _HITS_MAX:
                raise Unreadable("a function table that repeats itself")
            yield int(order[first + index]), int(names[index])


def _text(elf: Elf, table: Table) -> int:
    """The address that entries count from."""
    for address in _module_candidates(elf, table):
        try:
            words = [int(word) for word in elf.words(address, _MODULE_WORDS)]
        except Unreadable:
            continue
        text = words[_MODULE_TEXT]
        parts = words[_MODULE_NAMES] == table.address + table.names
        parts = parts and words[_MODULE_FTAB] == table.address + table.records
        if parts and elf.file_offset(text, code=True) is not None:
            return text
    if table.header_text and elf.file_offset(table.header_text, code=True) is not None:
        return table.header_text
    raise Unreadable("the start of its code is not known")


def _module_candidates(elf: Elf, table: Table) -> Iterator[int]:
    """Addresses of words that hold the table's address: the first of moduledata. In a PIE they are relocations."""
    for rows in elf.relative():
        yield from (int(address) for address in rows["offset"][rows["addend"] == table.address][:_HITS_MAX])
    for s in elf.segments:
        if s.type == PT_LOAD and not s.flags & PF_X and s.offset + s.file_size <= elf.size:
            skip = -s.address % 8
            for start, data in elf.chunks(s.offset + skip, max(s.file_size - skip, 0) & ~7, unit=8):
                hits = np.flatnonzero(np.frombuffer(data, "<u8") == np.uint64(table.address))
                yield from (s.address + skip + start + 8 * int(hit) for hit in hits[:_HITS_MAX])
