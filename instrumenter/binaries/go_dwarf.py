# SPDX-License-Identifier: Apache-2.0
"""Offsets of the fields of Go's structs, from the DWARF of a program that was not stripped.

In: an `Elf`, names of structs ("net/http.Request"). Out: name -> field -> offset. The rule: only the entries that are
asked for are read. Go writes the names of types into .debug_info itself, so each is found by a search and not by a
walk, which takes a minute for a large program. Source: DWARF 4 and 5, sections 7.5.1 to 7.5.6.
"""

from __future__ import annotations

import zlib
from bisect import bisect_right
from collections.abc import Collection
from typing import Final, NamedTuple

from instrumenter.binaries.elf import SHF_COMPRESSED, Elf, Section, Unreadable

SIZE_MAX: Final = 64 << 20  # of .debug_info, uncompressed; a server with 2,000 packages has some 40 MB
_UNITS_MAX, _ABBREVIATIONS_MAX, _MEMBERS_MAX, _HITS_MAX = 200_000, 4096, 2048, 10_000
_STRUCTURE, _MEMBER = 0x13, 0x0D
_NAME, _LOCATION = 0x03, 0x38
_STRING, _UDATA, _SDATA, _IMPLICIT = 0x08, 0x0F, 0x0D, 0x21
_CONSTANTS: Final = {0x0B: 1, 0x05: 2, 0x06: 4, 0x07: 8}  # data1, data2, data4, data8
# Sizes of the other forms, of 64-bit programs in the 32-bit format of DWARF.
_FIXED: Final = {
    0x01: 8,
    0x0C: 1,
    0x0E: 4,
    0x10: 4,
    0x17: 4,
    0x19: 0,
    0x1E: 16,
    0x1F: 4,
    0x20: 8,  # addr, flag, strp ...
    0x11: 1,
    0x12: 2,
    0x13: 4,
    0x14: 8,  # ref1, ref2, ref4, ref8
    0x25: 1,
    0x26: 2,
    0x27: 3,
    0x28: 4,
    0x29: 1,
    0x2A: 2,
    0x2B: 3,
    0x2C: 4,  # strx1..4, addrx1..4
}
_VARIABLE: Final = frozenset((0x0F, 0x0D, 0x15, 0x1A, 0x1B, 0x22, 0x23))  # udata, sdata, ref_udata, strx, addrx ...
_BLOCKS: Final = {0x0A: 1, 0x03: 2, 0x04: 4}  # block1, block2, block4: the size of their length
_LONG_BLOCKS: Final = frozenset((0x09, 0x18))  # block, exprloc


class Abbreviation(NamedTuple):
    """attributes: (attribute, form) pairs."""

    tag: int
    children: bool
    attributes: tuple[tuple[int, int], ...]


Abbreviations = dict[int, Abbreviation]


def has_dwarf(elf: Elf) -> bool:
    return elf.section(".debug_info", ".zdebug_info") is not None


def struct_offsets(elf: Elf, structs: Collection[str], size_max: int = SIZE_MAX) -> dict[str, dict[str, int]]:
    """Those of the structs that are described. Raises Unreadable."""
    info, abbreviations = _contents(elf, "info", size_max), _contents(elf, "abbrev", size_max)
    units = _units(info)
    starts = [start for start, _ in units]
    tables: dict[int, Abbreviations] = {}
    found = {}
    try:
        for struct in structs:
            text, hits = struct.encode() + b"\0", 0
            at = info.find(text)
            while at > 0 and struct not in found and hits < _HITS_MAX:
                unit = bisect_right(starts, at) - 1
                if unit >= 0:
                    place = units[unit][1]
                    table = tables[place] if place in tables else tables.setdefault(place, _table(abbreviations, place))
                    fields = _fields(info, at, table)
                    if fields is not None:
                        found[struct] = fields
                at, hits = info.find(text, at + 1), hits + 1
    except IndexError as error:
        raise Unreadable("debug information that ends too early") from error
    return found


def _fields(info: bytes, name: int, table: Abbreviations) -> dict[str, int] | None:
    """Of the struct whose name is here; None if this is the name of something else."""
    entry = table.get(info[name - 1])
    if entry is None or entry.tag != _STRUCTURE or not entry.children or entry.attributes[:1] != ((_NAME, _STRING),):
        return None
    at = name
    for _, form in entry.attributes:
        _, at = _value(info, at, form)
    fields: dict[str, int] = {}
    for _ in range(_MEMBERS_MAX):
        code, at = _varint(info, at)
        if code == 0:
            return fields
        child = table.get(code)
        if child is None or child.tag != _MEMBER or child.children:
            return None
        values: dict[int, bytes | int | None] = {}
        for attribute, form in child.attributes:
            values[attribute], at = _value(info, at, form)
        label, location = values.get(_NAME), values.get(_LOCATION)
        if isinstance(label, bytes) and isinstance(location, int):
            fields[label.decode("utf-8", "replace")] = location
    return None


def _value(data: bytes, at: int, form: int) -> tuple[bytes | int | None, int]:
    """(value of a string or a constant, place after it)."""
    if form == _STRING:
        end = data.find(b"\0", at)
        if end < 0:
            raise IndexError(at)
        return data[at:end], end + 1
    if form in _CONSTANTS:
        after = at + _CONSTANTS[form]
        return int.from_bytes(data[at:after], "little"), after
    if form in _FIXED:
        return None, at + _FIXED[form]
    if form in _VARIABLE:
        value, after = _varint(data, at)
        return (value if form == _UDATA else None), after
    if form in _BLOCKS:
        after = at + _BLOCKS[form]
        return None, after + int.from_bytes(data[at:after], "little")
    if form in _LONG_BLOCKS:
        size, after = _varint(data, at)
        return None, after + size
    if form == _IMPLICIT:
        return None, at
    raise Unreadable(f"debug information of an unknown form ({form:#x})")


def _units(info: bytes) -> list[tuple[int, int]]:
    """(start, place of its abbreviations) of every unit."""
    found: list[tuple[int, int]] = []
    at = 0
    while at + 12 <= len(info) and len(found) < _UNITS_MAX:
        size = int.from_bytes(info[at : at + 4], "little")
        version = int.from_bytes(info[at + 4 : at + 6], "little")
        if size < 8 or size >= 0xFFFFFFF0 or version not in (2, 3, 4, 5):
            raise Unreadable("debug information of an unknown format")
        place = at + (8 if version == 5 else 6)
        found.append((at, int.from_bytes(info[place : place + 4], "little")))
        at += 4 + size
    return found


def _table(data: bytes, at: int) -> Abbreviations:
    """Rows of code, tag, whether there are children, pairs of attribute and form up to (0, 0); up to the code 0."""
    found: Abbreviations = {}
    for _ in range(_ABBREVIATIONS_MAX):
        code, at = _varint(data, at)
        if code == 0:
            return found
        tag, at = _varint(data, at)
        children, at = data[at] != 0, at + 1
        attributes = []
        for _ in range(64):
            attribute, at = _varint(data, at)
            form, at = _varint(data, at)
            if form == _IMPLICIT:
                _, at = _varint(data, at)
            if attribute == form == 0:
                break
            attributes.append((attribute, form))
        found[code] = Abbreviation(tag, children, tuple(attributes))
    raise Unreadable("debug information with too many abbreviations")


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at
        if shift > 63:
            raise Unreadable("debug information with an endless number")


def _contents(elf: Elf, name: str, size_max: int) -> bytes:
    """A debug section, uncompressed. Compressed: after Elf64_Chdr, or before 1.19 after "ZLIB" and the size."""
    section = elf.section(f".debug_{name}", f".zdebug_{name}")
    if section is None or not section.size:
        raise Unreadable("no debug information")
    if section.name.startswith(".z"):
        return _inflated(elf, section, 12, size_max)
    if section.flags & SHF_COMPRESSED:
        if int.from_bytes(elf.read(section.offset, 4), "little") != 1:
            raise Unreadable("debug information that is not compressed by zlib")
        return _inflated(elf, section, 24, size_max)
    if section.size > size_max:
        raise Unreadable("too much debug information")
    return elf.read(section.offset, section.size)


def _inflated(elf: Elf, section: Section, header: int, size_max: int) -> bytes:
    parts, size, stream = [], 0, zlib.decompressobj()
    try:
        for _, data in elf.chunks(section.offset + header, max(section.size - header, 0)):
            part = stream.decompress(data, size_max - size + 1)
            size += len(part)
            if size > size_max:
                raise Unreadable("too much debug information")
            parts.append(part)
    except zlib.error as error:
        raise Unreadable("debug information that is damaged") from error
    return b"".join(parts)
