# SPDX-License-Identifier: Apache-2.0
"""The stack that the probes' deepest chain of calls takes, as Linux before 6.13 adds it up: at most 512 bytes.

Newer kernels give each program a stack of its own, so the kernel at hand may accept what the oldest one refuses. Read
from the disassembly, without root: frames are rounded up to 32 bytes; a bpf_loop() callback counts as a call.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from running import ROOT

LIMIT, FRAMES = 512, 8
OBJECTS = sorted((ROOT / "instrumenter" / "objects").glob("probes.*.bpf.o"))
FUNCTION = re.compile(r"([0-9a-f]+) <(.+)>:")
SLOT = re.compile(r"\(r10 - (0x[0-9a-f]+|\d+)\)")
POINTER = re.compile(r"(r\d) = r10$")
RELOCATION = re.compile(r"R_BPF_64_(?:32|64)\s+(\S+)")
IMMEDIATE = re.compile(r"(call) (-?0x[0-9a-f]+|-?\d+)|= (0x[0-9a-f]+|\d+) ll")


class Object:
    """frame: function -> bytes; calls: function -> functions, by name or as (".text", instruction)."""

    def __init__(self, listing: str) -> None:
        self.frame: dict[str, int] = {}
        self.calls: dict[str, set[str | int]] = {}
        self.text: dict[int, str] = {}
        section = function = before = ""
        for line in listing.splitlines():
            if line.startswith("Disassembly of section "):
                section = line.removeprefix("Disassembly of section ").rstrip(":")
            elif (found := FUNCTION.match(line)) and not found[2].startswith("LBB"):
                function = found[2]
                self.frame[function], self.calls[function] = 1, set()
                if section == ".text":
                    self.text[int(found[1], 16) // 8] = function
            elif found := RELOCATION.search(line):
                self.calls[function].add(self._target(found[1], before))
            elif function:
                self.frame[function] = max(self.frame[function], self._slot(line, before))
                before = line

    @staticmethod
    def _slot(line: str, before: str) -> int:
        """How far below the frame pointer the instruction reaches, or the address that it and the one before make."""
        found = SLOT.search(line)
        if not found and (pointer := POINTER.search(before)):
            found = re.search(rf"{pointer[1]} \+= -(0x[0-9a-f]+|\d+)", line)
        return int(found[1], 0) if found else 0

    @staticmethod
    def _target(symbol: str, before: str) -> str | int:
        """A static function is its section and the place that the instruction holds."""
        held = IMMEDIATE.search(before)
        if symbol != ".text" or not held:
            return symbol
        return int(held[2], 0) + 1 if held[1] else int(held[3], 0) // 8

    def deepest(self, function: str, above: tuple[str, ...] = ()) -> tuple[int, tuple[str, ...]]:
        """Bytes and chain of the deepest way down from it."""
        own = -(-self.frame[function] // 32) * 32
        names = {self.text.get(each, "") if isinstance(each, int) else each for each in self.calls[function]}
        below = [self.deepest(each, (*above, function)) for each in names & self.frame.keys() - {function, *above}]
        size, chain = max(below, default=(0, ()))
        return own + size, (f"{function}:{own}", *chain)


@pytest.mark.parametrize("path", OBJECTS, ids=lambda path: path.name)
def test_stack_of_the_deepest_calls(path: Path) -> None:
    command = ["llvm-objdump", "-dr", "--no-show-raw-insn", str(path)]
    found = Object(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    programs = set(found.frame) - set(found.text.values())
    ways = [found.deepest(program) for program in programs]
    size, chain = max(ways)
    print(size, " > ".join(chain))
    assert 200 < size <= LIMIT, chain
    assert len(chain) <= FRAMES
    assert any("finish_exchange" in each for _, way in ways for each in way), "callbacks are not followed"
