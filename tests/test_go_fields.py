# SPDX-License-Identifier: Apache-2.0
"""Offsets of fields: what the table says of versions that were measured and not, and broken debug information."""

from __future__ import annotations

import json
import random
import re
import zlib
from pathlib import Path
from typing import Any

import pytest
from elf_parts import compiled
from go_builds import standard

from instrumenter.binaries import go_dwarf
from instrumenter.binaries.elf import Elf, Unreadable
from instrumenter.binaries.go_buildinfo import BuildInfo, _modules
from instrumenter.binaries.go_dwarf import struct_offsets
from instrumenter.binaries.go_fields import Table, field_offsets, parse, tables
from instrumenter.binaries.go_offsets import merge, short, write
from instrumenter.binaries.go_wanted import FIELDS, GRPC, NET, STD

TABLE = Table(
    ["1.19", "1.21", "1.22", "1.25"],
    {"T.same": [8, 8, 8, 8], "T.moved": [8, 16, 16, 24], "T.new": [None, 0, 0, 0], "T.back": [8, 16, 8, 8]},
)
FOUND = [
    ("T.same", (1, 19), 8),
    ("T.same", (1, 20), 8),
    ("T.back", (1, 19), 8),
    ("T.back", (1, 20), "it moves between versions, and 1.20 was not measured"),
    ("T.same", (1, 24), 8),
    ("T.moved", (1, 22), 16),
    ("T.moved", (1, 20), "it moves between versions, and 1.20 was not measured"),
    ("T.moved", (1, 24), "it moves between versions, and 1.24 was not measured"),
    ("T.new", (1, 19), "1.19 has no such field"),
    ("T.new", (1, 20), "it moves between versions, and 1.20 was not measured"),
    ("T.new", (1, 22), 0),
    ("T.same", (1, 18), "1.18 is older than what was measured"),
    ("T.same", (1, 26), "1.26 is newer than what was measured"),
    ("T.same", None, "of an unknown version"),
    ("T.other", (1, 22), "not in the table"),
]


@pytest.mark.parametrize(("field", "version", "expected"), FOUND)
def test_never_guessed(field: str, version: tuple[int, int] | None, expected: int | str) -> None:
    assert TABLE.find(field, version) == expected


VERSIONS = [
    ("go1.26.8", (1, 26)),
    ("v1.60.1", (1, 60)),
    ("1.5", (1, 5)),
    ("v0.0.0-2021", (0, 0)),
    ("", None),
    ("(devel)", None),
]


@pytest.mark.parametrize(("text", "expected"), VERSIONS)
def test_versions(text: str, expected: tuple[int, int] | None) -> None:
    assert parse(text) == expected


def test_modules() -> None:
    text = (
        "path\texample.org/cmd\nmod\texample.org\tv1.0.0\th1:x=\n"
        "dep\tgoogle.golang.org/grpc\tv1.60.1\th1:y=\n"
        "dep\tgolang.org/x/net\tv0.1.0\n=>\tgolang.org/x/net\tv0.30.0\th1:z=\n"
        'dep\tother\tv1.0.0\n=>\t../other\nbuild\t-ldflags="-s -w"\ndep\n\n'
    )
    assert _modules(text) == (
        "example.org/cmd",
        {"example.org": "v1.0.0", "google.golang.org/grpc": "v1.60.1", "golang.org/x/net": "v0.30.0", "other": ""},
    )


def test_the_checked_in_table() -> None:
    """Of every wanted field, and ascending; what no version has was not measured or is misspelt."""
    content = tables()
    assert set(content) == set(FIELDS)
    for module, table in content.items():
        assert table.versions == sorted(set(table.versions))
        assert set(table.offsets) == {f"{s}.{field}" for s, fields in FIELDS[module].items() for field in fields}
        assert [field for field, row in table.offsets.items() if not any(v is not None for v in row)] == []


@pytest.mark.parametrize(("module", "version"), [(STD, ""), (NET, "v0.33.0"), (GRPC, "v1.60.0")])
def test_without_symbols_by_version(module: str, version: str) -> None:
    """What matters most is known of versions whose very number was not measured."""
    info = BuildInfo("go1.26.1", "", {module: version})
    with Elf(str(compiled("plain", "int main(void) { return 0; }\n"))) as elf:
        fields = field_offsets(elf, info)
    assert fields.offsets["net/http.Request.URL"] == 16
    assert all(reason for reason in fields.missing.values())
    if module == NET:
        assert fields.offsets["golang.org/x/net/http2.FrameHeader.StreamID"] == 8
    if module == GRPC:
        assert "google.golang.org/grpc/internal/transport.CallHdr.Method" in fields.offsets


def test_an_unknown_version_is_told() -> None:
    with Elf(str(compiled("plain", "int main(void) { return 0; }\n"))) as elf:
        fields = field_offsets(elf, BuildInfo("go1.99", "", {GRPC: "v9.9.9"}))
    assert fields.offsets == {}
    assert set(fields.missing.values()) == {
        "1.99 is newer than what was measured",
        "9.9 is newer than what was measured",
    }


def test_the_table_is_merged_and_written(tmp_path: Path) -> None:
    table = merge({}, STD, "1.22", {"T.a": 8})
    table = merge(table, STD, "1.9", {"T.a": 0, "T.b": 4})
    table = merge(table, STD, "1.22", {"T.a": 16, "T.b": None})
    write(table, tmp_path / "t.json")
    assert json.loads((tmp_path / "t.json").read_text()) == table
    assert table[STD] == {"versions": ["1.9", "1.22"], "offsets": {"T.a": [0, 16], "T.b": [4, None]}}
    assert short("go1.26.8") == "1.26"


def test_members_as_pyelftools_reads_them() -> None:
    """Of one struct, by an independent reader."""
    from elftools.elf.elffile import ELFFile

    path = standard("")
    with Elf(str(path)) as elf:
        ours = struct_offsets(elf, ["net/http.Request"])["net/http.Request"]
    with path.open("rb") as file:
        dwarf = ELFFile(file).get_dwarf_info()
        stream: Any = dwarf.debug_info_sec.stream  # type: ignore[union-attr]
        names = re.finditer(rb"net/http\.Request\0", stream.getvalue())
        entries = [dwarf.get_CU_containing(m.start()).get_DIE_from_refaddr(m.start() - 1) for m in names]
        (entry,) = [entry for entry in entries if entry.tag == "DW_TAG_structure_type"]
        unit = entry.cu
        theirs = {
            child.attributes["DW_AT_name"].value.decode(): child.attributes["DW_AT_data_member_location"].value
            for child in unit.iter_DIE_children(entry)
        }
    assert ours == theirs


def test_broken_debug_information(tmp_path: Path) -> None:
    """Uncompressed, so that what is changed is the information: a reason, or numbers, and no end without."""
    with Elf(str(standard(""))) as elf:
        parts = {name: go_dwarf._contents(elf, name, go_dwarf.SIZE_MAX) for name in ("info", "abbrev")}
    start = parts["info"].index(b"net/http.Request\0") - 40
    draw = random.Random(5)
    good = bytes(parts["info"][:12]) + parts["info"][start : start + 3000]
    good = (len(good) - 4).to_bytes(4, "little") + good[4:8] + bytes(4) + good[12:]
    assert go_dwarf._units(good)
    for _ in range(2000):
        info, abbrev = bytearray(good), bytearray(parts["abbrev"])
        for _ in range(draw.choice((1, 4, 30))):
            target = draw.choice((info, abbrev))
            target[draw.randrange(len(target))] = draw.randrange(256)
        try:
            table = go_dwarf._table(bytes(abbrev), 0)
            go_dwarf._units(bytes(info))
            at = info.find(b"net/http.Request\0")
            if at > 0:
                go_dwarf._fields(bytes(info), at, table)
        except (Unreadable, IndexError):
            continue


def test_a_bomb_is_refused(tmp_path: Path) -> None:
    """Zeros that unpack to more than is allowed."""
    stream = zlib.compressobj()
    packed = b"".join(stream.compress(bytes(1 << 20)) for _ in range(8)) + stream.flush()
    path = tmp_path / "x"
    with Elf(str(standard(""))) as elf:
        section = elf.section(".debug_info")
        assert section is not None
        data = bytearray(Path(elf.path).read_bytes())
    assert len(packed) < section.size
    data[section.offset + 24 : section.offset + 24 + len(packed)] = packed
    path.write_bytes(data)
    with Elf(str(path)) as elf, pytest.raises(Unreadable, match="too much"):
        struct_offsets(elf, ["net/http.Request"], 4 << 20)
