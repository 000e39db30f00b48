# SPDX-License-Identifier: Apache-2.0
"""Functions of an ELF file by name: where in the file a uprobe on them goes.

In: an `Elf` and names. Out: `Symbol`s, from .dynsym, and for what is not there from .symtab. The rule this file
protects: an offset is one in the file and inside executable code, never a virtual address. A table is searched as a
column: the names in the string table first, then one comparison over all symbols, so that 200,000 of them cost
milliseconds. Source: elf(5), and the generic ABI's chapter 4; symbol versions: the LSB's "Symbol Versioning".
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from instrumenter.binaries.elf import CHUNK, SHT_DYNSYM, SHT_SYMTAB, Elf, Section, Unreadable

_SYMBOL: Final = np.dtype(
    [("name", "<u4"), ("info", "u1"), ("other", "u1"), ("section", "<u2"), ("value", "<u8"), ("size", "<u8")]
)
_STT_FUNC: Final = 2
_HIDDEN: Final = 0x8000  # in .gnu.version: not the default version of that name
_NAME_MAX: Final = 1024
_HITS_MAX: Final = 20_000  # occurrences in a string table; more is no honest file
_VERSIONS_MAX: Final = 1024


@dataclass(frozen=True, slots=True)
class Symbol:
    """A function. offset: in the file. size: bytes, 0 if unknown. version: such as "OPENSSL_3.0.0", "" if none.

    told: what a probe here is told besides the function, for the upper half of its cookie.
    """

    name: str
    offset: int
    size: int
    version: str = ""
    told: int = 0


def find_symbols(elf: Elf, names: Collection[str]) -> dict[str, Symbol]:
    """The functions of these names that are defined in this file."""
    found: dict[str, Symbol] = {}
    for kind in (SHT_DYNSYM, SHT_SYMTAB):
        missing = {name.encode() for name in names if name not in found}
        for table in elf.sections:
            if table.type == kind and missing:
                found = {**_search(elf, table, _exact(elf, table, missing)), **found}
    return found


def _strings(elf: Elf, table: Section) -> Section:
    if table.link >= len(elf.sections):
        raise Unreadable("a symbol table without names")
    return elf.sections[table.link]


def _exact(elf: Elf, table: Section, names: set[bytes]) -> dict[int, str]:
    """Place in the string table -> name. Linkers let a name share the tail of a longer one, so every hit counts."""
    strings = _strings(elf, table)
    hits: dict[int, str] = {}
    for start, data in elf.chunks(strings.offset, strings.size, overlap=_NAME_MAX):
        for name in names:
            at = data.find(name + b"\0")
            while at >= 0:
                hits[start + at] = name.decode()
                _bound(hits)
                at = data.find(name + b"\0", at + 1)
    return hits


def _bound(hits: dict[int, str]) -> None:
    if len(hits) > _HITS_MAX:
        raise Unreadable("a table of names that repeats itself")


def _search(elf: Elf, table: Section, hits: dict[int, str]) -> dict[str, Symbol]:
    """The functions among the hits. Of one name in several versions the default one, and the first."""
    if not hits:
        return {}
    wanted = np.array(sorted(place for place in hits if place < 1 << 32), np.uint32)
    found: dict[str, tuple[bool, Symbol]] = {}
    for number, (index, row) in enumerate(_rows(elf, table, wanted)):
        if number > _HITS_MAX:
            raise Unreadable("a symbol table that repeats itself")
        offset = elf.file_offset(int(row["value"]), code=True)
        if int(row["info"]) & 15 != _STT_FUNC or not row["section"] or offset is None:
            continue
        version, hidden = _version(elf, index) if table.type == SHT_DYNSYM else ("", False)
        name = hits[int(row["name"])]
        if name not in found or (found[name][0] and not hidden):
            found[name] = hidden, Symbol(name, offset, int(row["size"]), version)
    return {name: symbol for name, (_, symbol) in found.items()}


def _rows(elf: Elf, table: Section, wanted: NDArray[np.uint32]) -> Iterator[tuple[int, np.void]]:
    size = table.size - table.size % _SYMBOL.itemsize
    for first, data in elf.chunks(table.offset, size, unit=_SYMBOL.itemsize):
        rows = np.frombuffer(data, _SYMBOL)
        for at in np.flatnonzero(np.isin(rows["name"], wanted)):
            yield first // _SYMBOL.itemsize + int(at), rows[at]


def _version(elf: Elf, index: int) -> tuple[str, bool]:
    """Name of the version of a dynamic symbol that this file defines, and whether it is not the default."""
    table = elf.section(".gnu.version")
    if table is None or (index + 1) * 2 > table.size:
        return "", False
    number = int.from_bytes(elf.read(table.offset + index * 2, 2), "little")
    return _version_name(elf, number & ~_HIDDEN), bool(number & _HIDDEN)


def _version_name(elf: Elf, number: int) -> str:
    """Verdef: version, flags, ndx, cnt, hash, aux, next; its first Verdaux: name, next."""
    section = elf.section(".gnu.version_d")
    if section is None or number < 2 or section.size > CHUNK or section.link >= len(elf.sections):
        return ""
    data, strings, at = elf.read(section.offset, section.size), elf.sections[section.link], 0
    for _ in range(_VERSIONS_MAX):
        if at + 20 > len(data):
            break
        ndx, aux, next_ = struct.unpack_from("<4xH6xII", data, at)
        if ndx == number and at + aux + 4 <= len(data):
            name = struct.unpack_from("<I", data, at + aux)[0]
            if name >= strings.size:
                break
            text = elf.read(strings.offset + name, min(256, strings.size - name))
            return text.partition(b"\0")[0].decode("ascii", "replace")
        if next_ == 0:
            break
        at += next_
    return ""
