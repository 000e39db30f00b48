# SPDX-License-Identifier: Apache-2.0
"""A Go program: its version, modules, functions, return sites and the offsets of fields. All that its uprobes need.

In: an open `Elf`. Out: `GoProgram`. The rule: what is missing has a reason, by function and by field, and one missing
part (an unknown module version, say) does not take the others away.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Final

from instrumenter.binaries.elf import Elf, Unreadable
from instrumenter.binaries.go_buildinfo import BuildInfo, build_info, is_go
from instrumenter.binaries.go_fields import Fields, field_offsets
from instrumenter.binaries.go_functions import find_functions
from instrumenter.binaries.go_wanted import FUNCTIONS, ROUTERS, STD
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
    build_id: str
    position_independent: bool
    functions: Mapping[str, GoFunction]
    fields: Fields


def go_program(elf: Elf, names: Collection[str] | None = None) -> GoProgram:
    """names: of functions, all that are wanted if not given. Raises Unreadable if it is no Go program, or one that
    cannot be probed."""
    if not is_go(elf):
        raise Unreadable("not a Go program")
    info = build_info(elf)
    if info.minor is not None and info.minor < OLDEST:
        raise Unreadable(f"built by {info.version}; 1.{OLDEST} is the oldest that can be probed")
    found = find_functions(elf, wanted_functions(info) if names is None else names)
    functions = {name: _function(elf, symbol) for name, symbol in found.items()}
    return GoProgram(info, elf.build_id, elf.position_independent, functions, field_offsets(elf, info))


def wanted_functions(info: BuildInfo) -> tuple[str, ...]:
    """Of the standard library and of the modules that the program was built with."""
    modules = {**FUNCTIONS, **ROUTERS}
    return tuple(name for module in modules if module == STD or module in info.modules for name in modules[module])


def _function(elf: Elf, symbol: Symbol) -> GoFunction:
    try:
        return GoFunction(symbol, return_sites(elf, symbol))
    except Unreadable as error:
        return GoFunction(symbol, reason=str(error))
