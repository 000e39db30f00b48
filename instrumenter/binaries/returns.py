# SPDX-License-Identifier: Apache-2.0
"""Where a function returns: uprobes on its RET instructions.

A return probe replaces the return address on the stack, which a Go program moves and walks: it would crash. In: an
`Elf` and a function. Out: offsets in the file. The rule: all of the function's returns or a reason, never some.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from instrumenter.binaries.elf import Elf, Unreadable
from instrumenter.binaries.symbols import Symbol

_FUNCTION_MAX: Final = 1 << 20  # bytes
_ARM64_RET: Final = 0xD65F03C0  # RET X30
_PADDING: Final = b"\xcc\x90\x00"  # after a function's last instruction: INT3 (Go), NOP, zeros


def return_sites(elf: Elf, function: Symbol) -> tuple[int, ...]:
    """Offsets in the file, ascending; raises Unreadable."""
    if not 0 < function.size <= _FUNCTION_MAX:
        raise Unreadable(f"{function.name} has an impossible size")
    code = elf.read(function.offset, function.size)
    found = _arm64(code) if elf.machine == "aarch64" else _x86_64(code, function.name)
    sites = tuple(function.offset + at for at in found)
    if not sites:
        raise Unreadable(f"{function.name} has no return instruction")
    return sites


def _arm64(code: bytes) -> Iterator[int]:
    """Instructions are words; no other one has this value, and Go keeps data out of its text."""
    return (at for at in range(0, len(code) - 3, 4) if int.from_bytes(code[at : at + 4], "little") == _ARM64_RET)


def _x86_64(code: bytes, name: str) -> list[int]:
    """Only decoding from the beginning tells a RET from the same byte within another instruction."""
    import capstone

    decoder: Any = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64)  # type: ignore[no-untyped-call]
    found, end = [], 0
    for address, size, mnemonic, _ in decoder.disasm_lite(code, 0):
        end = address + size
        if mnemonic in ("ret", "retf", "repz ret", "rep ret", "bnd ret", "notrack ret"):
            found.append(address)
    if code[end:].strip(_PADDING):
        raise Unreadable(f"{name} has instructions that are not known")
    return found
