# SPDX-License-Identifier: Apache-2.0
"""Where Go's structs keep what the probes read: from the program's own DWARF, else from a table of measured versions.

In: an `Elf` and its `BuildInfo`. Out: `Fields`. The rule this file protects: an offset is never guessed. It is what was
measured for that minor release; one that was not measured, between two that were, has it only of a field that never
moved (x/net's ClientConn has fields that moved there and back). All else is unknown, with the reason.

The table is go_offsets.json; `python -m instrumenter.binaries.go_offsets` measures real builds (docs/development.md).
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Final

from instrumenter.binaries.elf import Elf, Unreadable
from instrumenter.binaries.go_buildinfo import BuildInfo
from instrumenter.binaries.go_dwarf import has_dwarf, struct_offsets
from instrumenter.binaries.go_wanted import FIELDS, GRPC, NET, STD

TABLE: Final = "go_offsets.json"
_VERSION: Final = re.compile(r"(?:go|v)?(\d+)\.(\d+)")

Version = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Fields:
    """offsets: "net/http.Request.Method" -> bytes. missing: of the wanted, why there is none. source: "DWARF" or
    "table"."""

    offsets: Mapping[str, int]
    missing: Mapping[str, str]
    source: str

    def get(self, *names: str) -> int | None:
        """Of the first of these that is there: a struct's place and name differ between versions."""
        return next((self.offsets[name] for name in names if name in self.offsets), None)


class Table:
    """One module's measured offsets. versions: ascending. offsets: field -> one for each; None: no such field."""

    def __init__(self, versions: Iterable[str], offsets: Mapping[str, list[int | None]]) -> None:
        self.versions = [parse(version) or (0, 0) for version in versions]
        self.offsets = offsets

    def find(self, field: str, version: Version | None) -> int | str:
        """The offset, or the reason why there is none."""
        values = self.offsets.get(field)
        if values is None:
            return "not in the table"
        if version is None:
            return "of an unknown version"
        if version in self.versions:
            value = values[self.versions.index(version)]
            return f"{_text(version)} has no such field" if value is None else value
        if not self.versions or not self.versions[0] < version < self.versions[-1]:
            newer = bool(self.versions) and version > self.versions[-1]
            return f"{_text(version)} is {'newer' if newer else 'older'} than what was measured"
        if len(set(values)) > 1 or values[0] is None:
            return f"it moves between versions, and {_text(version)} was not measured"
        return values[0]


def field_offsets(elf: Elf, info: BuildInfo) -> Fields:
    """Of all that is wanted of the modules in this program."""
    wanted = {module: FIELDS[module] for module in FIELDS if module == STD or module in info.modules}
    if has_dwarf(elf):
        try:
            return _from_dwarf(elf, wanted)
        except Unreadable:
            pass  # too large, or damaged: the table has the same
    return _from_table(info, wanted)


def offsets_of(elf: Elf, info: BuildInfo, fields: Collection[str], module: str = STD) -> dict[str, int | str]:
    """Of these fields of one module, each offset or the reason why it is not known.

    By the table where it knows the version, as the DWARF of a large program takes long.
    """
    version = _go_version(info) if module == STD else parse(info.modules[module])
    offsets = {field: tables()[module].find(field, version) for field in fields}
    if any(isinstance(offset, str) for offset in offsets.values()) and has_dwarf(elf):
        structs = struct_offsets(elf, {field.rpartition(".")[0] for field in fields})
        for field in fields:
            struct, _, name = field.rpartition(".")
            offsets[field] = structs.get(struct, {}).get(name, "not described")
    return offsets


def parse(version: str) -> Version | None:
    """(1, 26) of "go1.26.8" or "v1.26.0"; None if it is no version."""
    match = _VERSION.match(version)
    return (int(match[1]), int(match[2])) if match else None


@cache
def tables() -> dict[str, Table]:
    """The checked-in table, by module."""
    content = json.loads((files("instrumenter.binaries") / TABLE).read_text(encoding="utf-8"))
    return {module: Table(part["versions"], part["offsets"]) for module, part in content.items()}


def _from_dwarf(elf: Elf, wanted: Mapping[str, Mapping[str, tuple[str, ...]]]) -> Fields:
    names = [struct for structs in wanted.values() for struct in structs]
    found = struct_offsets(elf, names)
    offsets, missing = {}, {}
    for structs in wanted.values():
        for struct, fields in structs.items():
            for field in fields:
                if field in found.get(struct, {}):
                    offsets[f"{struct}.{field}"] = found[struct][field]
                else:
                    missing[f"{struct}.{field}"] = "not in this program" if struct not in found else "no such field"
    return Fields(offsets, missing, "DWARF")


def _from_table(info: BuildInfo, wanted: Mapping[str, Mapping[str, tuple[str, ...]]]) -> Fields:
    offsets: dict[str, int] = {}
    missing: dict[str, str] = {}
    for module, structs in wanted.items():
        version = _go_version(info) if module == STD else parse(info.modules[module])
        table = tables().get(module)
        for struct, fields in structs.items():
            for field in fields:
                value = table.find(f"{struct}.{field}", version) if table else "not in the table"
                if isinstance(value, int):
                    offsets[f"{struct}.{field}"] = value
                else:
                    missing[f"{struct}.{field}"] = value
    return Fields(offsets, missing, "table")


def _go_version(info: BuildInfo) -> Version | None:
    return (1, info.minor) if info.minor is not None else None


def _text(version: Version) -> str:
    return f"{version[0]}.{version[1]}"


__all__ = ["GRPC", "NET", "STD", "TABLE", "Fields", "Table", "field_offsets", "offsets_of", "parse", "tables"]
