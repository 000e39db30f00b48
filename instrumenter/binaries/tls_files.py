# SPDX-License-Identifier: Apache-2.0
"""What one file holds of TLS, whichever process maps it.

In: an open `Elf`. Out: `FileTls`: the families whose functions it defines, with their places, and those that are in it
without symbols. The rule: nothing here depends on the process, so that one analysis, kept by the file's identity,
serves all that map it. tls_libraries.py joins the files of a process.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass, replace
from typing import Final

from instrumenter.binaries.elf import PF_X, PT_LOAD, Elf, Unreadable
from instrumenter.binaries.go_buildinfo import build_info, is_go
from instrumenter.binaries.symbols import Symbol, find_symbols
from instrumenter.binaries.tls_table import FAMILIES, GO, TEXTS, Family, Lack, Text, Why
from instrumenter.bpf.abi_go import GO_HIGH

_MARKS: Final = tuple(family.part_of for family in FAMILIES if family.part_of)
_NAMES: Final = frozenset((*_MARKS, *(name for f in FAMILIES for name in (*f.required, *f.functions))))
_DT_NEEDED: Final = 1
_AROUND: Final = 96  # bytes after a needle that a version may take
_TEXT_MAX: Final = 512 << 20  # bytes of read-only data that are searched
_HITS_MAX: Final = 4096  # of one needle in one piece


@dataclass(frozen=True, slots=True)
class Found:
    """A family's functions in this file: probe's name -> symbol. title: OpenSSL's names may belong to BoringSSL."""

    family: str
    title: str
    version: str
    functions: dict[str, Symbol]


@dataclass(frozen=True, slots=True)
class FileTls:
    """versions: title -> version, also of a library that this file only belongs to (libcrypto). marks: see part_of.
    needed: DT_NEEDED, the libraries that it asks for by name."""

    build_id: str = ""
    found: tuple[Found, ...] = ()
    lacks: tuple[Lack, ...] = ()
    versions: tuple[tuple[str, str], ...] = ()
    marks: tuple[str, ...] = ()
    needed: tuple[str, ...] = ()


def file_tls(elf: Elf) -> FileTls:
    """See the module; raises Unreadable."""
    if is_go(elf):
        return _go(elf)
    symbols = find_symbols(elf, _NAMES)
    found, lacks = [], []
    texts = _texts(elf)
    for family in FAMILIES:
        if not all(name in symbols for name in family.required):
            continue
        title, version = _version(family, texts)
        if family.unsupported:
            lacks.append(Lack(title, version, Why.UNSUPPORTED, family.unsupported))
        else:
            functions = {name: symbols[name] for name in family.functions if name in symbols}
            found.append(Found(family.key, title, version, functions))
    known = {f.family for f in found} | {f.key for f in FAMILIES if f.title in {lack.title for lack in lacks}}
    lacks += [
        Lack(text.title, _version_of(text.title, texts), text.why, text.reason)
        for text, _ in texts
        if text.code and text.family not in known
    ]
    return FileTls(
        elf.build_id,
        tuple(found),
        tuple(dict.fromkeys(lacks)),
        tuple((text.title, version) for text, version in texts if version),
        tuple(name for name in _MARKS if name in symbols),
        _needed(elf) if found else (),
    )


def _go(elf: Elf) -> FileTls:
    """Go programs carry their own table of functions, stripped or not."""
    from instrumenter.binaries.go_goroutines import goroutines
    from instrumenter.binaries.go_routes import SERVE, routes
    from instrumenter.binaries.go_tls import crypto_tls

    version, functions, lack = crypto_tls(elf)
    if not functions:
        return FileTls(elf.build_id, lacks=(lack,) if lack else ())
    try:
        probes, lacks = routes(elf, build_info(elf))
        causes, unknown = goroutines(elf, build_info(elf))
    except Unreadable as error:
        lack = Lack("net/http", version, Why.UNREADABLE, f"tells no routes and parents: {error}")
        return FileTls(elf.build_id, (Found(GO.key, GO.title, version, functions),), (lack,))
    if SERVE in probes and SERVE in causes:
        probes[SERVE] = replace(probes[SERVE], told=probes[SERVE].told | causes.pop(SERVE).told & -1 << GO_HIGH)
    lacks += (unknown,) if unknown else ()
    return FileTls(elf.build_id, (Found(GO.key, GO.title, version, functions | probes | causes),), lacks)


def _version(family: Family, texts: list[tuple[Text, str]]) -> tuple[str, str]:
    """(title, version) by what the texts tell, of which the first is the most certain."""
    title = next((text.title for text, _ in texts if text.family == family.key), family.title)
    return title, _version_of(title, texts)


def _version_of(title: str, texts: list[tuple[Text, str]]) -> str:
    return next((version for text, version in texts if text.title == title and version), "")


def _texts(elf: Elf) -> list[tuple[Text, str]]:
    """The rows of TEXTS whose needle, and pattern if there is one, is in the read-only data; with the version."""
    found: dict[Text, str] = {}
    budget = _TEXT_MAX
    for offset, size in _read_only(elf):
        size = min(size, budget)
        budget -= size
        for _, data in elf.chunks(offset, size, overlap=_AROUND):
            for text in TEXTS:
                if text not in found and (version := _find_text(text, data)) is not None:
                    found[text] = version
    return [(text, found[text]) for text in TEXTS if text in found]


def _find_text(text: Text, data: bytes) -> str | None:
    at = data.find(text.needle)
    if not text.pattern or at < 0:
        return None if at < 0 else ""
    for _ in range(_HITS_MAX):
        match = re.compile(text.pattern).match(data, at, at + _AROUND)
        if match is not None:
            return match[1].decode("ascii", "replace")
        at = data.find(text.needle, at + 1)
        if at < 0:
            break
    return None


def _read_only(elf: Elf) -> list[tuple[int, int]]:
    """(offset, size) of constants; without section headers all that is loaded and not code."""
    sections = [(s.offset, s.size) for s in elf.sections if s.name.startswith(".rodata") and s.size]
    loaded = [s for s in elf.segments if s.type == PT_LOAD and s.offset + s.file_size <= elf.size]
    return sections or [(s.offset, s.file_size) for s in loaded if not s.flags & PF_X]


def _needed(elf: Elf) -> tuple[str, ...]:
    section = elf.section(".dynamic")
    if section is None or section.link >= len(elf.sections):
        return ()
    strings = elf.sections[section.link]
    data = elf.read(section.offset, min(section.size - section.size % 16, 65536))
    names = []
    for tag, value in struct.iter_unpack("<QQ", data):
        if tag == _DT_NEEDED and value < strings.size:
            text = elf.read(strings.offset + value, min(256, strings.size - value))
            names.append(text.partition(b"\0")[0].decode("utf-8", "replace"))
    return tuple(names)
