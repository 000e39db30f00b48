# SPDX-License-Identifier: Apache-2.0
"""Whether a Go function's first arguments can still be read where it returns.

Go passes arguments in registers, but the caller keeps a place for each above the return address, where functions that
call others save them (cmd/compile/abi-internal.md, "spill space"). At a RET argument i is 8 * (i + 1) bytes above the
stack pointer, on both architectures. In: an `Elf` and a function. Out: why they cannot be read, "" if they can. The
rule: the save is seen in the straight line after the check of the stack, and nothing else may write to that place or
take its address.
"""

from __future__ import annotations

import re
from typing import Any, Final, NamedTuple

from instrumenter.binaries.elf import Elf
from instrumenter.binaries.symbols import Symbol

ARGUMENTS: Final = 2  # the receiver and a slice's pointer
_WIDE: Final = {"xmmword": 16, "ymmword": 32, "stp": 16}  # bytes that an access may have; others at most 8


class _Machine(NamedTuple):
    """Regular expressions on `mnemonic operands`. grows: the frame, by group 1. place: on the stack, with its distance
    in group 1. stores: into memory, if it names a place. straight: what the prologue does not contain."""

    registers: tuple[str, ...]
    grows: re.Pattern[str]
    place: re.Pattern[str]
    stores: re.Pattern[str]
    straight: re.Pattern[str]


_MACHINES: Final = {
    "x86_64": _Machine(
        ("rax", "rbx"),
        re.compile(r"(?:sub rsp, |add rsp, -)(\w+)$"),
        re.compile(r"\[rsp(?: \+ (\w+))?"),
        re.compile(r"(?!cmp|test|ucomis)\w+ [^,]*\[|lea |xchg|\w*xadd|push|call"),
        re.compile(r"call|ret|j"),
    ),
    "aarch64": _Machine(
        ("x0", "x1"),
        re.compile(r"(?:str x30, \[sp, #-|sub sp, sp, #|sub x20, sp, #)(\w+)"),
        re.compile(r"\[sp(?:, #(\w+))?\]|(?<=add )\w+, sp, #(\w+)"),
        re.compile(r"st|add "),
        re.compile(r"b|ret|cb|tb"),
    ),
}


def lost_arguments(elf: Elf, function: Symbol) -> str:
    """Why its first ARGUMENTS are not to be found above the stack pointer where it returns; "": they are."""
    machine = _MACHINES[elf.machine]
    lines = [text for _, text in disassembled(elf, function)]
    frame, saves = _prologue(machine, lines)
    places = [frame + 8 * (i + 1) for i in range(ARGUMENTS)]
    if any(saves.get(register) != place for register, place in zip(machine.registers, places, strict=True)):
        return "does not save its arguments at first"
    if sum(_writes(machine, line, places) for line in lines) > ARGUMENTS:
        return "uses the place of its arguments for something else"
    return ""


def disassembled(elf: Elf, function: Symbol) -> list[tuple[int, str]]:
    """(offset in the function, instruction with its operands) of all."""
    import capstone

    x86 = elf.machine == "x86_64"
    kind = (capstone.CS_ARCH_X86, capstone.CS_MODE_64) if x86 else (capstone.CS_ARCH_ARM64, capstone.CS_MODE_ARM)
    decoder: Any = capstone.Cs(*kind)  # type: ignore[no-untyped-call]
    code = elf.read(function.offset, function.size)
    return [(at, f"{mnemonic} {operands}") for at, _, mnemonic, operands in decoder.disasm_lite(code, 0)]


def _prologue(machine: _Machine, lines: list[str]) -> tuple[int, dict[str, int]]:
    """(bytes of the frame, register -> distance of the place where it was saved, as long as it held its argument)."""
    frame, checks = 0, 0
    saves: dict[str, int] = {}
    changed: set[str] = set()
    for line in lines:
        if machine.straight.match(line):
            checks += 1
            if checks > 1:
                break
        if line == "push rbp":
            frame += 8
        if grown := machine.grows.match(line):
            frame += int(grown[1], 0)
        mnemonic, _, operands = line.partition(" ")
        words = re.split(r",\s*", operands)
        at = machine.place.search(line)
        if at and machine.stores.match(line):
            held = words[:2] if mnemonic == "stp" else words[:1] if mnemonic.startswith("st") else words[1:2]
            saves |= {r: _number(at) + 8 * i for i, r in enumerate(held) if r not in changed | saves.keys()}
        elif mnemonic not in ("cmp", "test"):
            changed.add(words[0].replace("e", "r", 1) if words[0].startswith("e") else words[0].replace("w", "x", 1))
    return frame, saves


def _writes(machine: _Machine, line: str, places: list[int]) -> int:
    """How many of the places this instruction may change, or let others change."""
    at = machine.place.search(line)
    if at is None or not machine.stores.match(line):
        return 0
    size = next((n for word, n in _WIDE.items() if word in line), 8)
    begin = _number(at)
    return sum(begin < place + 8 and place < begin + size for place in places)


def _number(at: re.Match[str]) -> int:
    return int(next((group for group in at.groups() if group), "0"), 0)
