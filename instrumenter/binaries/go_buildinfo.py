# SPDX-License-Identifier: Apache-2.0
"""Whether an ELF file was built by Go, by which version, and with which modules.

In: an `Elf`. Out: `BuildInfo`. The rule: `is_go` costs no more than the headers that were read anyway. Source: the two
formats of Go's debug/buildinfo (pointers before 1.18, strings in place since).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from instrumenter.binaries.elf import PF_W, PT_LOAD, PT_NOTE, Elf, Unreadable

_SECTIONS: Final = (".go.buildinfo", ".gopclntab", ".data.rel.ro.gopclntab", ".note.go.buildid")
_MAGIC: Final = b"\xff Go buildinf:"
_HEADER: Final = 32
_INLINE: Final = 2  # flag: strings follow the header
_BIG_ENDIAN: Final = 1
_TEXT_MAX: Final = 1 << 20  # modules of the largest programs take some 100 KB
_SEARCH_MAX: Final = 1 << 20  # without section headers: the linker puts it near the beginning of the data
_RELEASE: Final = re.compile(r"\bgo1\.(\d+)")


@dataclass(frozen=True, slots=True)
class BuildInfo:
    """version: such as "go1.26.8", "" if unknown. minor: 26. path: the main package's. modules: path -> version, the
    main module too; "" if it was replaced by another module or a directory, about which its version tells nothing.
    """

    version: str = ""
    path: str = ""
    modules: Mapping[str, str] = field(default_factory=dict)

    @property
    def minor(self) -> int | None:
        match = _RELEASE.search(self.version)
        return int(match[1]) if match else None


def is_go(elf: Elf) -> bool:
    if elf.sections:
        return elf.section(*_SECTIONS) is not None
    notes = (elf.read(s.offset, 16) for s in elf.segments if s.type == PT_NOTE and s.offset + 16 <= elf.size)
    return any(note[12:16] == b"Go\0\0" for note in notes)


def build_info(elf: Elf) -> BuildInfo:
    """What the program tells; all empty if that was taken out of it. Raises Unreadable."""
    address = _find(elf)
    if address is None:
        return BuildInfo()
    header = elf.read_at(address, _HEADER)
    if header[15] & _INLINE:
        version, after = _counted(elf, address + _HEADER)
        text, _ = _counted(elf, after)
    elif header[14] == 8 and not header[15] & _BIG_ENDIAN:
        versions, texts = (int(word) for word in elf.words(address + 16, 2))
        version, text = _pointed(elf, versions), _pointed(elf, texts)
    else:
        raise Unreadable("build information of an unknown format")
    # Between 16 bytes of sentinels on either side.
    framed = len(text) >= 33 and text[-17:-16] == b"\n"
    path, modules = _modules(text[16:-16].decode("utf-8", "replace")) if framed else ("", {})
    return BuildInfo(version.decode("utf-8", "replace"), path, modules)


def _find(elf: Elf) -> int | None:
    section = elf.section(".go.buildinfo")
    if section is not None and section.size >= _HEADER:
        return section.address
    for s in elf.segments:
        if s.type == PT_LOAD and s.flags & PF_W and s.offset + s.file_size <= elf.size:
            data = elf.read(s.offset, min(s.file_size, _SEARCH_MAX))
            at = data.find(_MAGIC)
            while at >= 0 and at % 16:
                at = data.find(_MAGIC, at + 1)
            if 0 <= at <= len(data) - _HEADER:
                return s.address + at
    return None


def _counted(elf: Elf, address: int) -> tuple[bytes, int]:
    """A string after its length as an unsigned varint, and the address after it."""
    size = shift = used = 0
    for byte in elf.read_at(address, 5):
        size |= (byte & 127) << shift
        shift, used = shift + 7, used + 1
        if byte < 128:
            break
    if size > _TEXT_MAX:
        raise Unreadable("build information that is too long")
    return elf.read_at(address + used, size), address + used + size


def _pointed(elf: Elf, address: int) -> bytes:
    """A Go string by the address of its header: pointer, length."""
    if address == 0:
        return b""
    pointer, size = (int(word) for word in elf.words(address, 2))
    if size > _TEXT_MAX:
        raise Unreadable("build information that is too long")
    return elf.read_at(pointer, size) if size else b""


def _modules(text: str) -> tuple[str, dict[str, str]]:
    """Lines of tab-separated columns: path P; mod P V; dep P V SUM; => P V SUM, for the line before."""
    path, last = "", ""
    modules: dict[str, str] = {}
    for line in text.splitlines():
        kind, *columns = line.split("\t")
        if kind == "path" and columns:
            path = columns[0]
        elif kind in ("mod", "dep") and len(columns) >= 2:
            last = columns[0]
            modules[last] = columns[1]
        elif kind == "=>" and last:
            modules[last] = columns[1] if columns[0] == last and len(columns) >= 2 else ""
    return path, modules
