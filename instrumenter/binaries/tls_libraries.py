# SPDX-License-Identifier: Apache-2.0
"""Where a process's TLS can be seen in plain: its libraries with the places of probes, or why there are none.

In: the mapped files of a process, and what each file holds (`Files`). Out: `TlsView`, for the loader of uprobes and
for `doctor --pid`. The rule this file protects: "no" always has a reason, and a library that gives nothing is told
even when another is visible.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple

from instrumenter.binaries.cache import Cache
from instrumenter.binaries.elf import Elf, Unreadable
from instrumenter.binaries.mapped import MappedFile, mapped_files
from instrumenter.binaries.symbols import Symbol
from instrumenter.binaries.tls_files import FileTls, Found, file_tls
from instrumenter.binaries.tls_table import FAMILIES, NGINX, Why

_PART_OF: Final = {family.key: family.part_of for family in FAMILIES if family.part_of}
_JVM: Final = "libjvm.so"
NO_LIBRARY: Final = "no TLS library is mapped"


@dataclass(frozen=True, slots=True)
class TlsLibrary:
    """functions: probe's name -> symbol, whose offset is in the file. path: what to attach to, for now.

    build_id or identity (device, inode, mtime in ns, size) tell whether another process maps the same file.
    """

    family: str
    title: str
    version: str
    file: MappedFile
    path: str
    build_id: str
    identity: tuple[int, int, int, int]
    functions: Mapping[str, Symbol]

    def __str__(self) -> str:
        return " ".join(filter(None, (self.title, self.version, self.file.name)))


class Skipped(NamedTuple):
    """A library that gives nothing, by the file that it is in. library: "unknown" if that could not be read."""

    identity: tuple[int, int, int, int]
    library: str
    why: Why


@dataclass(frozen=True, slots=True)
class TlsView:
    """libraries: also programs that have other probes. reasons: why TLS, or some of it, is not visible; a sentence's
    part each. skipped: the same, to be counted."""

    libraries: tuple[TlsLibrary, ...] = ()
    reasons: tuple[str, ...] = ()
    skipped: tuple[Skipped, ...] = ()

    @property
    def visible(self) -> bool:
        return bool(_of_tls(self.libraries))

    def __str__(self) -> str:
        """What follows "TLS visible: "."""
        if not self.visible:
            return f"no ({'; '.join(self.reasons)})"
        rest = f"; not seen: {'; '.join(self.reasons)}" if self.reasons else ""
        return f"yes ({', '.join(map(str, _of_tls(self.libraries)))}){rest}"


def _of_tls(libraries: Iterable[TlsLibrary]) -> list[TlsLibrary]:
    return [library for library in libraries if library.family != NGINX.key]


@dataclass(frozen=True, slots=True)
class Examined:
    """A mapped file, the path that it was opened by, and what was found; a reason if it could not be read."""

    file: MappedFile
    path: str
    identity: tuple[int, int, int, int]
    tls: FileTls
    reason: str = ""


class Files:
    """Opens and examines mapped files, each file of the machine once. root: of /proc."""

    def __init__(self, root: str = "/proc", *, keep: int = 4096) -> None:
        self._root = root
        self._cache: Cache[FileTls | str] = Cache(keep)

    def examine(self, file: MappedFile) -> Examined:
        path = file.openable(self._root)
        if not path:
            return Examined(file, "", (0, 0, 0, 0), FileTls(), "cannot be opened")
        try:
            with Elf(path) as elf:
                known = self._cache.get(elf.identity)
                if known is None:
                    known = self._cache.put(elf.identity, _reasoned(elf))
                tls, reason = (FileTls(), known) if isinstance(known, str) else (known, "")
                return Examined(file, path, elf.identity, tls, reason)
        except Unreadable as error:
            return Examined(file, path, (0, 0, 0, 0), FileTls(), str(error))

    def tls(self, pid: int) -> TlsView:
        """What `doctor --pid` prints."""
        return tls_of(mapped_files(pid, self._root), self.examine)


def tls_of(files: Iterable[MappedFile], examine: Callable[[MappedFile], Examined]) -> TlsView:
    """The libraries of a process, by its mapped files."""
    examined = [examine(file) for file in files]
    if not examined:
        return TlsView(reasons=("its memory map cannot be read: it ended, or belongs to another user",))
    marks = {mark for one in examined for mark in one.tls.marks}
    libraries, reasons, skipped = [], [], []
    for one in examined:
        libraries += [
            TlsLibrary(
                f.family, *_named(f, one, examined), one.file, one.path, one.tls.build_id, one.identity, f.functions
            )
            for f in one.tls.found
            if f.family not in _PART_OF or _PART_OF[f.family] in marks
        ]
        reasons += [f"{_join(lack.title, lack.version, 'in', one.file.name)} {lack.reason}" for lack in one.tls.lacks]
        skipped += [Skipped(one.identity, lack.title, lack.why) for lack in one.tls.lacks]
        if one.file.name == _JVM:
            reasons.append("Java's own TLS (JSSE) runs in code that the JVM generates")
            skipped.append(Skipped(one.identity, "JSSE", Why.GENERATED_CODE))
    if not _of_tls(libraries) and not reasons:
        unread = _unread(examined)
        skipped = [Skipped((0, one.file.inode, 0, 0), "unknown", Why.UNREADABLE) for one in unread]
        reasons = [*(f"{one.file.name}: {one.reason}" for one in unread), NO_LIBRARY]
    return TlsView(tuple(libraries), tuple(dict.fromkeys(reasons)), tuple(skipped))


def _unread(examined: list[Examined]) -> list[Examined]:
    """Those that may hold TLS all the same: the program itself, and what is named like a library of it."""
    return [
        one
        for i, one in enumerate(examined)
        if one.reason and (i == 0 or one.file.name.startswith(("libssl", "libgnutls", "libnspr")))
    ]


def _named(found: Found, one: Examined, examined: list[Examined]) -> tuple[str, str]:
    """(title, version): libssl's is written in the libcrypto that it needs, libnspr's in NSS."""
    if found.version:
        return found.title, found.version
    mark = _PART_OF.get(found.family)
    for other in examined:
        near = mark in other.tls.marks if mark else any(_same(name, other.file) for name in one.tls.needed)
        for title, version in other.tls.versions if near else ():
            if title == found.title or title in ("LibreSSL", "AWS-LC"):
                return title, version
    return found.title, ""


def _same(needed: str, file: MappedFile) -> bool:
    """libcrypto.so.3 may be a link to libcrypto.so.3.0.7."""
    return file.name == needed or file.name.startswith(needed + ".")


def _join(*words: str) -> str:
    return " ".join(filter(None, words))


def _reasoned(elf: Elf) -> FileTls | str:
    try:
        return file_tls(elf)
    except Unreadable as error:
        return str(error)
