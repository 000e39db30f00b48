# SPDX-License-Identifier: Apache-2.0
"""A 64-bit little-endian ELF file, read piece by piece.

In: a path. Out: its segments, sections and build id, and `read`, `chunks`, `words`; or `Unreadable` with the reason.
The rule this file protects: the file belongs to the watched process and may be hostile, truncated or shrinking. No
size is believed that the file does not have, at most `CHUNK` or an asked-for bound is in memory at a time, all reads
together are bounded (tables may overlap, thousands of them), and it is never mapped: a file that shrinks under a
mapping kills its reader.

Read here rather than by pyelftools, whose object for each symbol makes a Node.js executable take seconds and hundreds
of megabytes. Source: elf(5), the generic ABI's chapters 4 and 5.
"""

from __future__ import annotations

import os
import stat
import struct
from collections.abc import Iterator
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from instrumenter.errors import StinglessError

CHUNK: Final = 1 << 20
READ_MAX: Final = 64 << 20  # bytes that one read may ask for
READ_AGAIN: Final = 8  # how often the whole file may be read, all in all

ET_EXEC, ET_DYN = 2, 3
MACHINES: Final = {62: "x86_64", 183: "aarch64"}
PT_LOAD, PT_INTERP, PT_NOTE = 1, 3, 4
PF_X, PF_W = 1, 2
SHT_SYMTAB, SHT_STRTAB, SHT_RELA, SHT_NOBITS, SHT_DYNSYM = 2, 3, 4, 8, 11
SHF_ALLOC, SHF_COMPRESSED = 2, 0x800
_R_RELATIVE: Final = {"x86_64": 8, "aarch64": 1027}
_NT_GNU_BUILD_ID: Final = 3
_SECTIONS_MAX, _SEGMENTS_MAX = 8192, 512
_ADDRESS_MAX: Final = 1 << 63  # of user space: less
_RELA: Final = np.dtype([("offset", "<u8"), ("info", "<u8"), ("addend", "<i8")])


class Unreadable(StinglessError):
    """This binary cannot be used; str() is the reason, a clause without a capital."""


class Segment(NamedTuple):
    """A row of the program headers."""

    type: int
    flags: int
    offset: int
    address: int
    file_size: int
    memory_size: int


class Section(NamedTuple):
    name: str
    type: int
    flags: int
    address: int
    offset: int
    size: int
    link: int
    entry_size: int


class Elf:
    """An open ELF file; a context manager. See the module."""

    def __init__(self, path: str) -> None:
        self.path = path
        try:
            self._file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except (OSError, ValueError) as error:
            raise Unreadable(f"cannot be opened: {getattr(error, 'strerror', None) or error}") from error
        try:
            status = os.fstat(self._file)
            if not stat.S_ISREG(status.st_mode):
                raise Unreadable("not a regular file")
            self.size = status.st_size
            self._budget = self.size * READ_AGAIN + READ_MAX
            self.identity = (status.st_dev, status.st_ino, status.st_mtime_ns, status.st_size)
            self._headers()
        except BaseException:
            os.close(self._file)
            raise

    def __enter__(self) -> Elf:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._file)

    @property
    def position_independent(self) -> bool:
        return bool(self.type == ET_DYN)

    @property
    def executable(self) -> bool:
        """A program rather than a library."""
        return self.type == ET_EXEC or any(s.type == PT_INTERP for s in self.segments)

    def section(self, *names: str) -> Section | None:
        """The first of these names that is there."""
        return next((s for name in names for s in self.sections if s.name == name), None)

    def read(self, offset: int, size: int) -> bytes:
        """Exactly these bytes of the file."""
        if offset < 0 or size < 0 or offset + size > self.size:
            raise Unreadable("truncated")
        if size > READ_MAX:
            raise Unreadable("a part of it is too large")
        self._budget -= size
        if self._budget < 0:
            raise Unreadable("its tables overlap")
        try:
            data = os.pread(self._file, size, offset)
        except OSError as error:
            raise Unreadable(f"cannot be read: {error.strerror}") from error
        if len(data) != size:
            raise Unreadable("truncated")
        return data

    def chunks(self, offset: int, size: int, *, overlap: int = 0, unit: int = 1) -> Iterator[tuple[int, bytes]]:
        """(position from offset, bytes): whole units, at most CHUNK bytes, and the overlap, which begins the next."""
        step = CHUNK - CHUNK % unit
        for position in range(0, size, step):
            yield position, self.read(offset + position, min(step + overlap, size - position))

    def file_offset(self, address: int, *, code: bool = False) -> int | None:
        """Where in the file an address is; None if it is in no segment, or with `code` in none that is executable."""
        for s in self.segments:
            if s.type == PT_LOAD and s.address <= address < s.address + s.file_size and (not code or s.flags & PF_X):
                offset = address - s.address + s.offset
                return offset if offset < self.size else None
        return None

    def read_at(self, address: int, size: int) -> bytes:
        offset = self.file_offset(address)
        if offset is None:
            raise Unreadable("an address points outside of it")
        return self.read(offset, size)

    def words(self, address: int, count: int) -> NDArray[np.uint64]:
        """64-bit words as the process sees them but for its load address: relative relocations are applied."""
        found = np.frombuffer(self.read_at(address, count * 8), "<u8").astype(np.uint64)
        for rela in self.relative():
            inside = rela[(rela["offset"] >= address) & (rela["offset"] < address + count * 8)]
            found[(inside["offset"] - np.uint64(address)) // np.uint64(8)] = inside["addend"].astype(np.uint64)
        return found

    def relative(self) -> Iterator[NDArray[np.void]]:
        """The relative relocations, piece by piece: rows of offset (an address), info, addend."""
        kind = _R_RELATIVE[self.machine]
        for section in self.sections:
            if section.type == SHT_RELA and section.flags & SHF_ALLOC:
                for _, data in self.chunks(section.offset, section.size - section.size % 24, unit=24):
                    rows = np.frombuffer(data, _RELA)
                    yield rows[(rows["info"] & np.uint64(0xFFFFFFFF)) == kind]

    # -- headers -----------------------------------------------------------------------------------------------------

    def _headers(self) -> None:
        if self.size < 64 or self.read(0, 4) != b"\x7fELF":
            raise Unreadable("not an ELF file")
        head = self.read(0, 64)
        if head[4] != 2:
            raise Unreadable("a 32-bit binary")
        if head[5] != 1:
            raise Unreadable("a big-endian binary")
        (self.type, machine, _, self.entry, ph_offset, sh_offset, _, _, ph_size, ph_count, sh_size, sh_count, names) = (
            struct.unpack_from("<HHIQQQIHHHHHH", head, 16)
        )
        if machine not in MACHINES:
            raise Unreadable(f"for another processor (machine {machine})")
        self.machine: str = MACHINES[machine]
        if self.type not in (ET_EXEC, ET_DYN):
            raise Unreadable("neither an executable nor a shared library")
        if ph_size != 56 or not 0 < ph_count <= _SEGMENTS_MAX:
            raise Unreadable("no usable program headers")
        table = self.read(ph_offset, ph_count * 56)
        self.segments = tuple(
            Segment(kind, flags, offset, address, in_file, in_memory)
            for kind, flags, offset, address, _, in_file, in_memory, _ in struct.iter_unpack("<IIQQQQQQ", table)
            if address + in_file < _ADDRESS_MAX
        )
        usable = sh_size == 64 and 0 < sh_count <= _SECTIONS_MAX and sh_offset + sh_count * 64 <= self.size
        self.sections = self._section_headers(sh_offset, sh_count, names) if usable else ()

    def _section_headers(self, start: int, count: int, names: int) -> tuple[Section, ...]:
        """All of them, in order: `link` counts them. What does not lie in the file has the size 0."""
        rows = list(struct.iter_unpack("<IIQQQQIIQQ", self.read(start, count * 64)))
        strings = b""
        if names < count and rows[names][5] <= CHUNK and rows[names][4] + rows[names][5] <= self.size:
            strings = self.read(rows[names][4], rows[names][5])
        found = []
        for name, kind, flags, address, offset, size, link, _, _, entry in rows:
            text = strings[name : strings.find(b"\0", name)][:256].decode("ascii", "replace")
            fits = kind != SHT_NOBITS and offset + size <= self.size
            found.append(Section(text, kind, flags, address, offset, size if fits else 0, link, entry))
        return tuple(found)

    @property
    def build_id(self) -> str:
        """In hexadecimal; "" if the linker wrote none."""
        for segment in self.segments:
            if segment.type != PT_NOTE or segment.offset + segment.file_size > self.size:
                continue
            data = self.read(segment.offset, min(segment.file_size, 65536))
            position = 0
            while position + 12 <= len(data):
                name_size, size, kind = struct.unpack_from("<III", data, position)
                begin = position + 12 + (name_size + 3 & ~3)
                if kind == _NT_GNU_BUILD_ID and data[position + 12 : position + 16] == b"GNU\0" and size <= 64:
                    return data[begin : begin + size].hex()
                position = begin + (size + 3 & ~3)
        return ""
