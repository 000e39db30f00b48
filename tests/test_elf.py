# SPDX-License-Identifier: Apache-2.0
"""Functions of ELF files by name: against pyelftools, on real files; and broken files, which give a reason."""

from __future__ import annotations

import ctypes.util
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from elf_parts import broken, compiled, library
from running import ROOT

from instrumenter.binaries.elf import Elf, Unreadable
from instrumenter.binaries.symbols import Symbol, find_symbols

PROGRAM = "int helper(int x) { return x + 1; }\nint main(int n, char **v) { return helper(n); }\n"
SSL = ("SSL_read", "SSL_write", "SSL_do_handshake", "SSL_free")


def offsets_by_pyelftools(path: Path, names: set[str]) -> dict[str, int]:
    from elftools.elf.elffile import ELFFile
    from elftools.elf.sections import SymbolTableSection

    found = {}
    with path.open("rb") as file:
        elf = ELFFile(file)
        for section in elf.iter_sections():
            if isinstance(section, SymbolTableSection):
                for symbol in section.iter_symbols():
                    if symbol.name in names and symbol["st_shndx"] != "SHN_UNDEF":
                        [found[symbol.name]] = list(elf.address_offsets(symbol["st_value"]))
    return found


def system_library(name: str) -> Path:
    directories = [Path("/lib"), *Path("/lib").glob("*-linux-gnu"), Path("/lib64"), Path("/usr/lib64")]
    soname = ctypes.util.find_library(name) or "none"
    found = [d / soname for d in directories if (d / soname).exists()]
    if not found:
        pytest.skip(f"lib{name} is not installed")
    return found[0].resolve()


@pytest.mark.parametrize("flags", [("-pie", "-fPIE"), ("-no-pie", "-fno-pie"), ("-no-pie", "-fno-pie", "-static")])
def test_programs(flags: tuple[str, ...]) -> None:
    path = compiled("-".join(("program", *flags)).replace("/", ""), PROGRAM, *flags)
    with Elf(str(path)) as elf:
        found = find_symbols(elf, ("main", "helper", "absent", "elper"))
        assert {name: symbol.offset for name, symbol in found.items()} == offsets_by_pyelftools(
            path, {"main", "helper"}
        )
        assert elf.position_independent == ("-pie" in flags)
        assert elf.executable
        assert len(elf.build_id) == 40


def test_imported_and_data_symbols_are_not_found() -> None:
    source = 'int puts(const char *); int some_data = 3; int f(void) { return puts("x") + some_data; }\n'
    with Elf(str(compiled("libimport.so", source, "-shared", "-fPIC"))) as elf:
        assert set(find_symbols(elf, ("puts", "some_data", "f"))) == {"f"}
        assert not elf.executable


def test_stripped_of_its_symbol_table() -> None:
    path = library("libstripped.so", "visible", "-s")
    with Elf(str(path)) as elf:
        assert set(find_symbols(elf, ("visible",))) == {"visible"}
    with Elf(str(compiled("program-stripped", PROGRAM, "-s"))) as elf:
        assert find_symbols(elf, ("main", "helper")) == {}


def test_default_version_of_several(tmp_path: Path) -> None:
    script = tmp_path / "versions"
    script.write_text("V_1 { };\nV_2 { };\n")
    source = """
int old(int x) { return x; } __asm__(".symver old,call@V_1");
int new(int x) { return x + 1; } __asm__(".symver new,call@@V_2");
"""
    path = compiled("libversions.so", source, "-shared", "-fPIC", f"-Wl,--version-script={script}")
    with Elf(str(path)) as elf:
        found = find_symbols(elf, ("call", "new"))
    assert found["call"].version == "V_2"
    assert found["call"].offset == found["new"].offset


def test_the_system_library() -> None:
    path = system_library("ssl")
    with Elf(str(path)) as elf:
        found = find_symbols(elf, SSL)
    assert {name: symbol.offset for name, symbol in found.items()} == offsets_by_pyelftools(path, set(SSL))
    assert all(symbol.version.startswith("OPENSSL_") and symbol.size > 0 for symbol in found.values())


def test_a_large_program_costs_little() -> None:
    """All symbols of Node.js: some 100 MB, 180,000 symbols. In a process of its own, for its memory."""
    node = shutil.which("node")
    if node is None or Path(node).stat().st_size < 20 << 20:
        pytest.skip("needs a Node.js whose code is in one file")
    code = f"""
import resource, sys, time
from instrumenter.binaries.elf import Elf
from instrumenter.binaries.symbols import find_symbols
before, begin = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
with Elf({os.path.realpath(node)!r}) as elf:
    found = find_symbols(elf, {SSL!r} + ("main", "none_such"))
print(len(found), time.process_time() - begin, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    result = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=ROOT)
    count, seconds, kilobytes = result.stdout.split()
    assert int(count) >= 1  # a Node.js of a distribution may take OpenSSL from a library
    assert float(seconds) < 2
    assert int(kilobytes) < 32 << 10


REFUSED = [
    (b"", "not an ELF file"),
    (b"#!/bin/sh\n" * 20, "not an ELF file"),
    (b"\x7fELF\x01\x01" + bytes(100), "a 32-bit binary"),
    (b"\x7fELF\x02\x02" + bytes(100), "a big-endian binary"),
    (b"\x7fELF\x02\x01" + bytes(100), "another processor"),
    (b"\x7fELF\x02\x01" + bytes(10) + b"\x01\0\x3e\0" + bytes(100), "neither an executable"),
    (b"\x7fELF\x02\x01" + bytes(10) + b"\x03\0\x3e\0" + bytes(100), "program headers"),
]


@pytest.mark.parametrize(("content", "reason"), REFUSED)
def test_refused(content: bytes, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(content)
    with pytest.raises(Unreadable, match=reason):
        Elf(str(path))


def test_no_file_to_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path, tmp_path / "none", "/dev/zero", "a\0b"):
        with pytest.raises(Unreadable):
            Elf(str(path))


def test_broken_files_give_a_reason_or_offsets_within_them(tmp_path: Path) -> None:
    path = tmp_path / "x"
    refused = 0
    for data in broken(library("libgood.so", "SSL_read SSL_write other").read_bytes(), 400):
        path.write_bytes(data)
        try:
            with Elf(str(path)) as elf:
                symbols = find_symbols(elf, SSL).values()
                assert all(isinstance(s, Symbol) and s.offset < len(data) for s in symbols)
                assert len(elf.build_id) <= 128
                elf.words(elf.segments[0].address, 4)
        except Unreadable:
            refused += 1
    assert refused > 10
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < 2 << 20


def test_tables_that_all_point_to_the_same_bytes_are_not_read_for_ever(tmp_path: Path) -> None:
    """8,000 section headers, each a symbol table of the whole file."""
    good = bytearray(library("libgood.so", "SSL_read SSL_write other").read_bytes())
    good += bytes(4 << 20)
    headers = len(good)
    row = (2).to_bytes(4, "little").rjust(8, b"\0") + bytes(16) + bytes(8) + len(good).to_bytes(8, "little")
    row += (1).to_bytes(4, "little") + bytes(20)
    assert len(row) == 64
    good += row * 8000
    good[40:48], good[60:62], good[62:64] = headers.to_bytes(8, "little"), (8000).to_bytes(2, "little"), b"\0\0"
    path = tmp_path / "x"
    path.write_bytes(good)
    with Elf(str(path)) as elf, pytest.raises(Unreadable, match=r"overlap|repeats"):
        find_symbols(elf, ("absent", "SSL_read"))
