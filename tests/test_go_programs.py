# SPDX-License-Identifier: Apache-2.0
"""Real Go programs: stripped and not, PIE and not, by the Go on the PATH and an older one: the same is found in all."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from elf_parts import broken, compiled
from go_builds import OLDER, PIE, STRIPPED, WORK, go, returns_by_llvm, small, standard

from instrumenter.binaries.elf import PT_LOAD, Elf, Unreadable
from instrumenter.binaries.go_buildinfo import build_info, is_go
from instrumenter.binaries.go_functions import find_functions
from instrumenter.binaries.go_offsets import build, go_version
from instrumenter.binaries.go_program import GoProgram, go_program
from instrumenter.binaries.go_wanted import FUNCTIONS, GRPC, NET, STD
from instrumenter.binaries.symbols import find_symbols
from instrumenter.binaries.tls_files import file_tls

VERSIONS = ("", OLDER)
MUST = {
    *("runtime.newproc1", "net/http.serverHandler.ServeHTTP", "net/http.(*conn).serve"),
    *("net/http.(*Transport).roundTrip", "crypto/tls.(*Conn).Read", "crypto/tls.(*Conn).Write"),
}
SMALL = """package main

import "os"

//go:noinline
func many(n int) int {
	switch {
	case n > 100:
		return n * 2
	case n > 50:
		os.Exit(n)
	}
	return n + 1
}

func main() { os.Exit(many(len(os.Args))) }
"""


def analysed(path: Path) -> GoProgram:
    with Elf(str(path)) as elf:
        return go_program(elf)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("flags", [(), PIE], ids=["exe", "pie"])
def test_the_same_functions_stripped_and_not(version: str, flags: tuple[str, ...]) -> None:
    """Stripping takes away the symbol table, which agrees with what Go's own table says."""
    whole, stripped = standard(version, *flags), standard(version, *flags, *STRIPPED)
    with Elf(str(whole)) as elf:
        by_symbols = find_symbols(elf, FUNCTIONS[STD])
        found = find_functions(elf, FUNCTIONS[STD])
        assert elf.position_independent == bool(flags)
    with Elf(str(stripped)) as elf:
        assert find_symbols(elf, FUNCTIONS[STD]) == {}
        assert find_functions(elf, FUNCTIONS[STD]) == found
    assert set(found) >= MUST
    assert {name: s.offset for name, s in found.items()} == {name: s.offset for name, s in by_symbols.items()}
    assert all(0 <= found[name].size - by_symbols[name].size < 64 for name in found)  # with padding


@pytest.mark.parametrize("version", VERSIONS)
def test_returns(version: str) -> None:
    """Every RET that a disassembler finds. Offsets in the file, and so the same as addresses but for the segment's."""
    path = standard(version, *PIE)
    program = analysed(path)
    with Elf(str(path)) as elf:
        (text,) = [s for s in elf.segments if s.type == PT_LOAD and s.flags & 1]
    bias = text.address - text.offset
    assert all(function.reason == "" for function in program.functions.values())
    for name in MUST:
        function = program.functions[name]
        expected = returns_by_llvm(path, function.symbol.offset + bias, function.symbol.size)
        assert [at + bias for at in function.returns] == expected != []


@pytest.mark.parametrize("version", VERSIONS)
def test_build_info(version: str) -> None:
    for flags in ((), STRIPPED):
        info = analysed(standard(version, *flags)).info
        assert info.version == go_version(go(version))
        assert (info.path, info.modules) == ("example.org/sample", {"example.org/sample": "(devel)"})
        assert f"go1.{info.minor}." in info.version + "."


@pytest.mark.parametrize("version", VERSIONS)
def test_offsets_by_dwarf_are_those_of_the_table(version: str) -> None:
    by_dwarf = analysed(standard(version)).fields
    by_table = analysed(standard(version, *STRIPPED)).fields
    assert (by_dwarf.source, by_table.source) == ("DWARF", "table")
    assert by_dwarf.offsets == by_table.offsets
    assert set(by_dwarf.missing) == set(by_table.missing)
    assert by_dwarf.offsets.keys() >= {
        *("net/http.Request.Method", "net/http.Request.URL", "net/http.Request.Host", "net/http.response.status"),
        *("net/http.conn.rwc", "net.netFD.pfd", "internal/poll.FD.Sysfd", "runtime.g.goid", "crypto/tls.Conn.conn"),
    }
    assert by_dwarf.get("net/http.none", "net/http.Request.URL") == 16
    assert by_dwarf.get("net/http.none") is None


@pytest.mark.parametrize(
    ("module", "version", "names", "fields"),
    [
        (
            GRPC,
            "v1.71.0",
            {"google.golang.org/grpc.(*Server).handleStream", "google.golang.org/grpc.(*ClientConn).Invoke"},
            {
                "google.golang.org/grpc/internal/transport.Stream.id",
                "google.golang.org/grpc/internal/transport.Stream.method",
                "google.golang.org/grpc/internal/transport.ServerStream.Stream",
            },
        ),
        (
            NET,
            "v0.30.0",
            {
                "golang.org/x/net/http2.(*serverConn).processHeaders",
                "golang.org/x/net/http2.(*Framer).WriteHeaders",
            },
            {"golang.org/x/net/http2.FrameHeader.StreamID", "golang.org/x/net/http2.serverConn.framer"},
        ),
    ],
)
def test_modules(module: str, version: str, names: set[str], fields: set[str]) -> None:
    """Their version comes from the build information; functions and offsets are the same stripped and not."""
    try:
        whole, stripped = (analysed(build(go(), module, version, WORK, *flags)) for flags in ((), STRIPPED))
    except subprocess.CalledProcessError as error:
        pytest.skip(f"{module} {version} was not built: {error.stderr[-200:]}")
    assert whole.info == stripped.info
    assert whole.info.modules[module] == version
    assert whole.functions == stripped.functions
    assert set(whole.functions) >= names
    assert (whole.fields.source, stripped.fields.source) == ("DWARF", "table")
    assert fields <= set(stripped.fields.offsets)
    assert stripped.fields.offsets.items() >= whole.fields.offsets.items()


def test_arm64() -> None:
    path = small("arm64", SMALL, GOARCH="arm64")
    with Elf(str(path)) as elf:
        assert elf.machine == "aarch64"
        program = go_program(elf, ("main.many", "main.main", "runtime.newproc1"))
        (text,) = [s for s in elf.segments if s.type == PT_LOAD and s.flags & 1]
    bias = text.address - text.offset
    assert set(program.functions) == {"main.many", "main.main", "runtime.newproc1"}
    for name in ("main.many", "runtime.newproc1"):
        function = program.functions[name]
        expected = returns_by_llvm(path, function.symbol.offset + bias, function.symbol.size)
        assert [at + bias for at in function.returns] == expected != []


def test_tls_of_go() -> None:
    with Elf(str(standard("", *STRIPPED))) as elf:
        (found,) = file_tls(elf).found
    assert (found.title, f"go{found.version}") == ("Go crypto/tls", go_version(go()))
    assert {name.partition("+")[0] for name in found.functions} == {
        "crypto/tls.(*Conn).Read",
        "crypto/tls.(*Conn).Write",
        "net/http.(*conn).serve",
        "net/http.(*persistConn).roundTrip",
        "runtime.newproc.func1",
    }
    with Elf(str(small("native", SMALL))) as elf:
        tls = file_tls(elf)
        assert (tls.found, tls.lacks) == ((), ())


def test_not_go() -> None:
    path = compiled("plain", "int main(void) { return 0; }\n")
    with Elf(str(path)) as elf:
        assert not is_go(elf)
        with pytest.raises(Unreadable, match="not a Go program"):
            go_program(elf)
        assert build_info(elf).version == ""


def test_without_section_headers(tmp_path: Path) -> None:
    """As some packers leave it: the tables are found by what they look like."""
    whole = small("native", SMALL)
    data = bytearray(whole.read_bytes())
    data[40:48], data[58:64] = bytes(8), bytes(6)
    path = tmp_path / "x"
    path.write_bytes(data)
    names = ("main.many", "main.main", "runtime.newproc1")
    with Elf(str(whole)) as elf:
        expected = find_functions(elf, names)
    with Elf(str(path)) as elf:
        assert elf.sections == ()
        assert is_go(elf)
        assert build_info(elf).version == go_version(go())
        assert find_functions(elf, names) == expected


def test_broken_programs_give_a_reason(tmp_path: Path) -> None:
    good = small("native", SMALL).read_bytes()
    path = tmp_path / "x"
    refused = 0
    for data in broken(good, 60, seed=3):
        path.write_bytes(data)
        try:
            with Elf(str(path)) as elf:
                program = go_program(elf, ("main.many", "main.main", "runtime.newproc1"))
                assert all(function.symbol.offset < len(data) for function in program.functions.values())
        except Unreadable:
            refused += 1
    assert refused > 10
