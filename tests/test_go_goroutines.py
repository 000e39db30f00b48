# SPDX-License-Identifier: Apache-2.0
"""Where Go's goroutines tell whose they are, and which of them may go on with another one's work."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from go_builds import NEXT, OLDER, OLDEST, PIE, STRIPPED, parents, small, standard

from instrumenter.binaries.elf import Elf
from instrumenter.binaries.go_buildinfo import build_info
from instrumenter.binaries.go_functions import find_functions, functions_at
from instrumenter.binaries.go_goroutines import ASK, BORN, goroutines
from instrumenter.binaries.go_loops import BEGIN, ITS_OWN, Frame, frames, repeats, runs_once
from instrumenter.binaries.go_routes import SERVE
from instrumenter.binaries.go_spills import disassembled
from instrumenter.binaries.tls_table import Why
from instrumenter.bpf.abi_go import GO_HIGH, GoServe

WAYS = [("", ()), ("", (*PIE, *STRIPPED)), ("1.24.11", STRIPPED), (OLDER, ()), (OLDEST, ()), (NEXT, STRIPPED)]
# Whether a call of main.get there may be come to again.
CALLS = {"main.front": False, "main.deep": False, "main.work": True, "main.again": True, "main.pooled.func1": True}


@pytest.mark.parametrize(("version", "goid", "curg"), [(OLDEST, 152, 192), ("1.24.11", 160, 192), (NEXT, 152, 184)])
def test_places(version: str, goid: int, curg: int) -> None:
    with Elf(str(standard(version, *STRIPPED))) as elf:
        probes, lack = goroutines(elf, build_info(elf))
        found = find_functions(elf, (SERVE, ASK, BORN))
        code = disassembled(elf, found[BORN])
    assert lack is None
    assert probes[SERVE].told == goid << GO_HIGH | GoServe.NO_PATTERN
    assert probes[ASK].told == curg << GO_HIGH | goid
    assert probes[BORN].told == probes[ASK].told
    assert dict(code)[probes[BORN].offset - found[BORN].offset].startswith("call ")
    assert all(found[name].offset < probes[name].offset < found[name].offset + 40 for name in (SERVE, ASK))


def test_an_unknown_release() -> None:
    with Elf(str(standard("", *STRIPPED))) as elf:
        probes, lack = goroutines(elf, replace(build_info(elf), version="go1.99.1"))
    assert probes == {}
    assert lack is not None
    assert (lack.why, lack.version) == (Why.UNKNOWN_LAYOUT, "1.99.1")
    assert "newer than what was measured" in lack.reason


def test_a_program_that_serves_nothing() -> None:
    with Elf(str(small("hello", "package main\n\nfunc main() { go println(1) }\n"))) as elf:
        assert goroutines(elf, build_info(elf)) == ({}, None)


def called(elf: Elf, name: str) -> list[int]:
    """Where calls of main.get return to in that function, bytes into it."""
    found = find_functions(elf, (name, "main.get"))
    lines = disassembled(elf, found[name])
    wanted = found["main.get"].offset - found[name].offset
    targets = {f"call {wanted % (1 << 64):#x}", f"bl #{wanted % (1 << 64):#x}"}
    return [lines[i + 1][0] for i, (_, text) in enumerate(lines[:-1]) if text in targets]


def check_loops(path: Path) -> None:
    with Elf(str(path)) as elf:
        functions = find_functions(elf, CALLS)
        for name in functions:
            returns = called(elf, name)
            assert returns, name
            assert {repeats(elf, functions[name], at) for at in returns} == {CALLS[name]}, name
    assert len(functions) == len(CALLS)


@pytest.mark.parametrize(("version", "flags"), WAYS)
def test_loops(version: str, flags: tuple[str, ...]) -> None:
    check_loops(parents(version, *flags))


def test_loops_on_arm64() -> None:
    source = (Path(__file__).parent / "go_parents" / "main.go").read_text()
    check_loops(small("parents-arm64", source, GOARCH="arm64"))


def test_stacks() -> None:
    """Believed down to their beginning only."""
    with Elf(str(parents(""))) as elf:
        found = find_functions(elf, (BEGIN, *ITS_OWN, "main.deep", "main.work"))
        begin, deep = found[BEGIN].offset + 1, found["main.deep"].offset + called(elf, "main.deep")[0]
        work = found["main.work"].offset + called(elf, "main.work")[0]
        (place,) = functions_at(elf, [deep])
        assert place == replace(found["main.deep"], name="")
        stack = frames(elf, [deep, work, begin])
        assert functions_at(elf, [1, 1 << 40]) == [None, None]
    assert stack == [Frame.ONCE, Frame.REPEATS, Frame.BEGIN]
    once, loop, end = stack
    for told in ([once, end], [once, once, end], [end]):
        assert runs_once(told)
    for told in ([], [once], [once, loop, end], [end, once]):
        assert not runs_once(told)
