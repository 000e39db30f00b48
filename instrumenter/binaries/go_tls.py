# SPDX-License-Identifier: Apache-2.0
"""Where crypto/tls of a Go program gives its plaintext: the entry of Write, the returns of Read.

In: an `Elf` of a Go program. Out: probe's name -> place, or why there is none. The rule: the kernel side knows one
layout of net.Conn (probes/include/go.h), which all measured releases have; a program with another, or of which nothing
is known, is left alone. Returns of no bytes get no probe: net/http's server reads in the background while a handler
works, and stops that at its end, with each request.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from instrumenter.binaries.elf import Elf, Unreadable
from instrumenter.binaries.go_buildinfo import BuildInfo, build_info
from instrumenter.binaries.go_fields import offsets_of
from instrumenter.binaries.go_functions import find_functions
from instrumenter.binaries.go_program import OLDEST
from instrumenter.binaries.go_spills import disassembled, lost_arguments
from instrumenter.binaries.returns import return_sites
from instrumenter.binaries.symbols import Symbol
from instrumenter.binaries.tls_table import GO, Lack, Why

READ: Final = "crypto/tls.(*Conn).Read"
WRITE: Final = "crypto/tls.(*Conn).Write"
LAYOUT: Final = {
    "crypto/tls.Conn.conn": 0,
    "net.TCPConn.conn": 0,
    "net.conn.fd": 0,
    "net.netFD.pfd": 0,
    "internal/poll.FD.Sysfd": 16,
    "net.netFD.family": 56,
    "net.netFD.sotype": 64,
}
_SLOT: Final = re.compile(r"mov (\w+), qword ptr (\[rsp \+ \w+\])")
_CHECK_MAX: Final = 12  # instructions
_BRANCH: Final = re.compile(r"j\w+ (0x[0-9a-f]+|\d+)")


def crypto_tls(elf: Elf) -> tuple[str, dict[str, Symbol], Lack | None]:
    """(version of Go, functions, why there are none). Neither of the two: it has no crypto/tls.

    Of Read each return is one, as NAME+distance.
    """
    version = ""
    try:
        info = build_info(elf)
        version = info.version.partition(" ")[0].removeprefix("go")
        if info.minor is not None and info.minor < OLDEST:
            return version, {}, Lack(GO.title, version, Why.TOO_OLD, f"is older than 1.{OLDEST}")
        found = find_functions(elf, (READ, WRITE))
        if READ not in found or WRITE not in found:
            return version, {}, None
        reason = unknown_layout(elf, info) or lost_arguments(elf, found[READ])
        if reason:
            return version, {}, Lack(GO.title, version, Why.UNKNOWN_LAYOUT, f"cannot be read: {reason}")
        sites = giving_returns(elf, found[READ])
    except Unreadable as error:
        return version, {}, Lack(GO.title, version, Why.UNREADABLE, f"cannot be found: {error}")
    read = {f"{READ}+{at - found[READ].offset:#x}": Symbol(READ, at, 0) for at in sites}
    return version, {WRITE: begin(elf, found[WRITE]), **read}, None


def begin(elf: Elf, function: Symbol) -> Symbol:
    """Where it begins once: behind the check of the stack, which goes back to the entry when the stack has been made
    larger. The arguments are still in their registers there. A function without the check: its entry."""
    checked = False
    for at, text in disassembled(elf, function)[:_CHECK_MAX]:
        if checked:
            return Symbol(function.name, function.offset + at, 0)
        checked = text.startswith(("jbe ", "b.ls "))
    return function


def unknown_layout(elf: Elf, info: BuildInfo, layout: Mapping[str, int] = LAYOUT) -> str:
    """Why the program's structs may be others than `layout` says; "" if they are not."""
    offsets = offsets_of(elf, info, layout)
    wrong = next((field for field in layout if offsets[field] != layout[field]), None)
    if wrong is None:
        return ""
    return f"{wrong}: {offsets[wrong]}" if isinstance(offsets[wrong], str) else f"{wrong} has moved"


def giving_returns(elf: Elf, function: Symbol) -> tuple[int, ...]:
    """Offsets in the file of the RETs that may return a first result other than 0. Of arm64 all."""
    sites = return_sites(elf, function)
    if elf.machine != "x86_64":
        return sites
    lines = disassembled(elf, function)
    targets = {int(match[1], 0) for _, text in lines if (match := _BRANCH.match(text))}
    found, begin = [], 0
    for i, (at, text) in enumerate(lines):
        if text.startswith("ret"):
            if not _returns_zero(lines[begin:i], targets):
                found.append(at)
            begin = i + 1
    return tuple(site for site in sites if site - function.offset in found)


def _returns_zero(lines: list[tuple[int, str]], targets: set[int]) -> bool:
    """Whether the straight line to a RET stores 0 where its result is then loaded from, or puts it into RAX."""
    slot, wanted = "", "rax"
    for at, text in reversed(lines):
        if not slot:
            loaded = _SLOT.match(text)
            if loaded and loaded[1] == wanted:
                slot = loaded[2]
            elif text.startswith(f"mov {wanted}, r"):
                wanted = text.rpartition(" ")[2]
            elif text == "xor eax, eax" and wanted == "rax":
                return True
            elif text.startswith(("call", f"mov {wanted}", "lea rax", "add rax", "sub rax")):
                return False
        elif text.startswith(f"mov qword ptr {slot}, "):
            return text.endswith(", 0")
        if at in targets or text.startswith("j"):
            return False
    return False
