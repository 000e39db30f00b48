# SPDX-License-Identifier: Apache-2.0
"""A Go program: its version, modules, functions, return sites and the offsets of fields. All that its uprobes need.

In: an open `Elf`. Out: `GoProgram`. The rule: what is missing has a reason, by function and by field, and one missing
part (an unknown module version, say) does not take the others away.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Final

from instrumenter.binaries.elf import Elf, Unreadable
from instrumenter.binaries.go_buildinfo import BuildInfo, build_info, is_go
from instrumenter.binaries.go_functions import find_functions
from instrumenter.binaries.returns import return_sites
from instrumenter.binaries.symbols import Symbol

OLDEST: Final = 17  # 1.17: the first whose functions take their arguments in registers, on amd64


@dataclass(frozen=True, slots=True)
class GoFunction:
    """symbol.offset: its entry. returns: its RET instructions. Both in the file. reason: why there are no returns."""

    symbol: Symbol
    returns: tuple[int, ...] = ()
    reason: str = ""


@dataclass(frozen=True, slots=True)
class GoProgram:
    """functions: those of the wanted that are in the program."""

    info: BuildInfo
    functions: Mapping[str, GoFunction] = field(default_factory=dict)


def go_program(elf: Elf, names: Collection[str]) -> GoProgram:
    """Raises Unreadable if it is no Go program, or one that cannot be probed."""
    if not is_go(elf):
        raise Unreadable("not a Go program")
    info = build_info(elf)
    if info.minor is not None and info.minor < OLDEST:
        raise Unreadable(f"built by {info.version}; 1.{OLDEST} is the oldest that can be probed")
    found = find_functions(elf, names)
    return GoProgram(info, {name: _function(elf, symbol) for name, symbol in found.items()})


def crypto_tls(elf: Elf, names: Collection[str]) -> tuple[str, dict[str, Symbol], str]:
    """(version of Go, functions, reason) for the view of TLS. No reason and no functions: it has no crypto/tls."""
    version = ""
    try:
        info = build_info(elf)
        version = info.version.partition(" ")[0].removeprefix("go")
        if info.minor is not None and info.minor < OLDEST:
            return version, {}, f"is older than 1.{OLDEST}"
        return version, find_functions(elf, names), ""
    except Unreadable as error:
        return version, {}, f"cannot be found: {error}"


def _function(elf: Elf, symbol: Symbol) -> GoFunction:
    try:
        return GoFunction(symbol, return_sites(elf, symbol))
    except Unreadable as error:
        return GoFunction(symbol, reason=str(error))
