# SPDX-License-Identifier: Apache-2.0
"""Formats of Go 1.17, and what is broken about them: written by hand into C, and so linked as it was, PIE too."""

from __future__ import annotations

import pytest
from elf_parts import compiled

from instrumenter.binaries.elf import Elf, Unreadable
from instrumenter.binaries.go_buildinfo import build_info
from instrumenter.binaries.go_functions import find_functions
from instrumenter.binaries.go_program import go_program
from instrumenter.binaries.returns import return_sites
from instrumenter.binaries.symbols import find_symbols

# runtime/symtab.go of 1.17: pcHeader, then what its offsets name; entries are addresses, records begin with one.
SOURCE = r"""
__attribute__((noinline, section(".text.go"))) int one(int x) { return x > 3 ? x * 7 : x; }
__attribute__((noinline, section(".text.go"))) int two(int x) { return one(x) + 1; }
__attribute__((noinline, section(".text.go"))) void end(void) { }

struct record { void *entry; unsigned name; unsigned rest[9]; };
struct table {
	unsigned magic; unsigned short zero; unsigned char unit, pointer;
	unsigned long count, files, names, cu, file, pc, records;
	char name[32];
	struct { void *entry; unsigned long record; } pairs[2];
	void *last;
	struct record record[2];
};
#define BEGIN __builtin_offsetof(struct table, pairs)
#define RECORD(i) (__builtin_offsetof(struct table, record) + i * sizeof(struct record) - BEGIN)
__attribute__((section(SECTION), used)) struct table table = {
	0xfffffffa, 0, 1, 8,
	2, 0, __builtin_offsetof(struct table, name), BEGIN, BEGIN, BEGIN, BEGIN,
	"\0main.one\0main.two",
	{ { one, RECORD(0) }, { two, RECORD(1) } }, end,
	{ { one, 1 }, { two, 10 } },
};

struct string { const char *text; unsigned long size; };
struct string version = { "go1.17.13", 9 };
struct string modules = { "0123456789abcdefpath\tmain\nmod\tmain\t(devel)\t\n0123456789abcdef", 16 + 10 + 18 + 16 };
__attribute__((section(".go.buildinfo"), used, aligned(16))) struct {
	char magic[14]; char pointer, flags; struct string *version, *modules;
} info = { "\xff Go buildinf:", 8, 0, &version, &modules };

int main(int n, char **v) { return two(n); }
"""


def old(name: str, magic: str, *flags: str) -> str:
    section = ".data.rel.ro.gopclntab" if "-pie" in flags else ".gopclntab"
    source = SOURCE.replace("0xfffffffa", magic)
    return str(compiled(name, source, f'-DSECTION="{section}"', *flags))


@pytest.mark.parametrize("flags", [("-no-pie", "-fno-pie"), ("-pie", "-fPIE")], ids=["exe", "pie"])
def test_1_17(flags: tuple[str, ...]) -> None:
    path = old("go117" + flags[0], "0xfffffffa", *flags)
    with Elf(path) as elf:
        by_symbols = find_symbols(elf, ("one", "two"))
        found = find_functions(elf, ("main.one", "main.two", "main.on", "one"))
        assert {name: s.offset for name, s in found.items()} == {f"main.{n}": s.offset for n, s in by_symbols.items()}
        assert return_sites(elf, found["main.one"])
        info = build_info(elf)
        assert (info.version, info.minor, info.path, info.modules) == ("go1.17.13", 17, "main", {"main": "(devel)"})
        fields = go_program(elf).fields
        assert set(fields.missing.values()) == {"1.17 has no such field"}


def test_unknown_formats_have_a_reason() -> None:
    path = old("go199", "0xffffff00", "-no-pie", "-fno-pie")
    with Elf(path) as elf, pytest.raises(Unreadable, match="unknown version of Go"):
        find_functions(elf, ("main.one",))
