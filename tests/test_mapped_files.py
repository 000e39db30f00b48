# SPDX-License-Identifier: Apache-2.0
"""Which files a process runs code of: lines as the kernel writes them, and a child whose library is replaced."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from elf_parts import library

from instrumenter.binaries.elf import Elf
from instrumenter.binaries.mapped import MappedFile, mapped_files, parse_maps

TREE = Path(__file__).parent / "proc"

LINES = [
    ("7f10-7f20 r-xp 00001000 fe:00 12 /usr/lib/libssl.so.3", [("/usr/lib/libssl.so.3", 12, False)]),
    ("7f10-7f20 r-xp 00001000 fe:00 12      /usr/lib/a b.so\n", [("/usr/lib/a b.so", 12, False)]),
    ("7f10-7f20 r-xp 00001000 fe:00 12 /usr/lib/libssl.so.3 (deleted)\n", [("/usr/lib/libssl.so.3", 12, True)]),
    ("7f10-7f20 rwxp 00001000 00:01 12 /memfd:jit (deleted)\n", [("/memfd:jit", 12, True)]),
    (r"7f10-7f20 r-xp 0 fe:00 12 /tmp/a\012b.so" + "\n", [("/tmp/a\nb.so", 12, False)]),
    ("7f10-7f20 r--p 00001000 fe:00 12 /usr/lib/libssl.so.3\n", []),
    ("7f10-7f20 r-xp 00000000 00:00 0 [vdso]\n", []),
    ("7f10-7f20 rwxp 00000000 00:00 0 \n", []),
    ("ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0 [vsyscall]\n", []),
    ("", []),
    ("7f10-7f20", []),
    ("\0\xff r-xp\n", []),
]


@pytest.mark.parametrize(("line", "expected"), LINES)
def test_lines(line: str, expected: list[tuple[str, int, bool]]) -> None:
    assert [(file.path, file.inode, file.deleted) for file in parse_maps(7, [line])] == expected


def test_a_file_is_its_device_and_inode() -> None:
    """Two versions under one path are two files; two mappings of one file are one, the first."""
    lines = [
        "1000-2000 r-xp 00001000 fe:00 12 /usr/lib/libssl.so.3 (deleted)\n",
        "2000-3000 r-xp 00002000 fe:00 12 /usr/lib/libssl.so.3 (deleted)\n",
        "3000-4000 r-xp 00001000 fe:00 13 /usr/lib/libssl.so.3\n",
        "4000-5000 r-xp 00001000 fe:01 12 /usr/lib/libssl.so.3\n",
    ]
    assert [(file.start, file.device, file.inode) for file in parse_maps(7, lines)] == [
        (0x1000, "fe:00", 12),
        (0x3000, "fe:00", 13),
        (0x4000, "fe:01", 12),
    ]
    assert next(parse_maps(7, lines)).paths() == (
        "/proc/7/map_files/1000-2000",
        "/proc/7/root/usr/lib/libssl.so.3",
    )


def test_bounded() -> None:
    lines = (f"{i:x}000-{i:x}fff r-xp 0 fe:00 {i} /lib/{i}\n" for i in range(1, 100_000))
    assert len(list(parse_maps(1, lines))) == 4096


def test_tree() -> None:
    files = mapped_files(400, str(TREE))
    assert [file.name for file in files] == ["python3.11", "libcrypto.so.3", "libssl.so.3"]
    assert all(file.openable(str(TREE)) == "" for file in files)
    assert mapped_files(999999, str(TREE)) == ()


def test_replaced_and_deleted_libraries_are_told_apart(tmp_path: Path) -> None:
    """A child maps a library, another is put in its place and mapped too, and that is deleted."""
    path = tmp_path / "libx.so"
    old = library("libold.so", "old_one")
    new = library("libnew.so", "new_one new_two")
    shutil.copy(old, path)
    code = """
import ctypes, os, sys
path = sys.argv[1]
other = os.path.dirname(path) + "/./libx.so"  # the loader takes the same name for the same library
first = ctypes.CDLL(path); print("old", flush=True); sys.stdin.readline()
second = ctypes.CDLL(other); os.unlink(path); print("new", flush=True); sys.stdin.readline()
"""
    with subprocess.Popen(
        [sys.executable, "-c", code, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        assert child.stdout.readline() == "old\n"
        other = tmp_path / "other.so"
        shutil.copy(new, other)
        other.rename(path)
        child.stdin.write("\n")
        child.stdin.flush()
        assert child.stdout.readline() == "new\n"
        mapped = [file for file in mapped_files(child.pid) if file.path == str(path)]
        found = {build_id(file) for file in mapped}
        child.stdin.write("\n")
        child.stdin.flush()
    assert [file.deleted for file in mapped] == [True, True]
    if os.geteuid() == 0:
        assert found == {elf_build_id(old), elf_build_id(new)}
    else:
        assert found == {""}  # without map_files they are out of reach, and nothing else is opened for them


def build_id(file: MappedFile) -> str:
    path = file.openable()
    return elf_build_id(Path(path)) if path else ""


def elf_build_id(path: Path) -> str:
    with Elf(str(path)) as elf:
        assert len(elf.build_id) == 40
        return elf.build_id
