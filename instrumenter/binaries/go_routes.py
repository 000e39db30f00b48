# SPDX-License-Identifier: Apache-2.0
"""Where a Go program's requests have their routes: the patterns of http.ServeMux and of routers that are modules.

In: an `Elf` of a Go program whose sockets can be told (go_tls.py). Out: probe's name -> place, and the routers that
tell nothing, each with the reason. The rule: a router gets one probe, where it gets the struct for a request; the
struct's layout is known from the module's version or from DWARF, or there is no probe and routes are by the path.

mux: where the found route is put into the request. chi, gin, echo: behind the call by which the server's entry takes
its struct out of a sync.Pool. Both have the struct in the second register (probes/include/go_router.h).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from instrumenter.binaries.elf import Elf, Unreadable
from instrumenter.binaries.go_buildinfo import BuildInfo
from instrumenter.binaries.go_fields import offsets_of
from instrumenter.binaries.go_functions import find_functions
from instrumenter.binaries.go_spills import disassembled
from instrumenter.binaries.go_tls import begin, unknown_layout
from instrumenter.binaries.go_wanted import CHI, ECHO, GIN, GORILLA, ROUTERS
from instrumenter.binaries.symbols import Symbol
from instrumenter.binaries.tls_table import Lack, Why
from instrumenter.bpf.abi_go import GoRouter, GoServe

SERVE: Final = "net/http.(*conn).serve"
_GET: Final = "sync.(*Pool).Get"
_RWC: Final = {"net/http.conn.rwc": 16}
_REQUEST: Final = _RWC | {"net/http.conn.curReq": 112, "net/http.response.req": 8}
# Where the pattern of the request in work is (probes/include/go_route.h), the newest first.
PATTERNS: Final = {
    GoServe(0): _REQUEST | {"net/http.Request.Pattern": 232},
    GoServe.RELEASE_1_22: _REQUEST | {"net/http.Request.pat": 248, "net/http.pattern.str": 0},
    GoServe.NO_PATTERN: _RWC,
}
_NUMBER: Final = re.compile(r"\d+")
_WRAP: Final = 1 << 64  # of jumps' targets before the function


@dataclass(frozen=True, slots=True)
class Router:
    """fields: their offsets add up to where the route is. first: fields that must be at 0.

    oldest: the first release of its minor version that is as the measured one.
    """

    module: str
    title: str
    form: GoRouter
    fields: tuple[str, ...]
    first: tuple[str, ...] = ()
    oldest: tuple[int, ...] = ()

    @property
    def function(self) -> str:
        return ROUTERS[self.module][0]

    @property
    def entry(self) -> str:
        """The program has this function if it uses the router."""
        return ROUTERS[self.module][-1]


KNOWN: Final = (
    Router(
        GORILLA,
        "gorilla/mux",
        GoRouter.POINTER,
        (f"{GORILLA}.Route.routeConf", f"{GORILLA}.routeConf.regexp", f"{GORILLA}.routeRegexpGroup.path"),
        (f"{GORILLA}.routeRegexp.template",),
    ),
    Router(CHI, "chi", GoRouter.STRINGS | GoRouter.POOLED, (f"{CHI}.Context.RoutePatterns",), oldest=(5, 0, 7)),
    Router(GIN, "gin", GoRouter.POOLED, (f"{GIN}.Context.fullPath",)),
    Router(ECHO, "echo", GoRouter.POOLED, (f"{ECHO}.context.path",)),
)


def routes(elf: Elf, info: BuildInfo) -> tuple[dict[str, Symbol], tuple[Lack, ...]]:
    """Nothing at all if the program has no server of net/http. Raises Unreadable."""
    routers = [router for router in KNOWN if router.module in info.modules]
    wanted = {name for router in routers for name in (router.function, router.entry)}
    found = find_functions(elf, (SERVE, _GET, *sorted(wanted)))
    if SERVE not in found:
        return {}, ()
    told = _patterns(elf, info)
    probes, lacks = {}, []
    for router in routers:
        if router.entry not in found:  # the module is there for something else
            continue
        try:
            if told is None:
                raise Unreadable("net/http is of an unknown layout")
            probes[router.function] = _probe(elf, info, router, found)
        except Unreadable as error:
            reason = f"tells no routes: {error}"
            lacks.append(Lack(router.title, info.modules[router.module], Why.UNKNOWN_LAYOUT, reason))
    if told is None or (not probes and told == GoServe.NO_PATTERN):
        return probes, tuple(lacks)
    begun = begin(elf, found[SERVE])
    probes[SERVE] = Symbol(SERVE, begun.offset, 0, told=told | (GoServe.ROUTED if probes else 0))
    return probes, tuple(lacks)


def _patterns(elf: Elf, info: BuildInfo) -> GoServe | None:
    """What the server's probe is told of patterns; None: its layout is not known."""
    since = [GoServe.NO_PATTERN] if (info.minor or 0) < 22 else PATTERNS
    return next((flag for flag in since if not unknown_layout(elf, info, PATTERNS[flag])), None)


def _probe(elf: Elf, info: BuildInfo, router: Router, found: dict[str, Symbol]) -> Symbol:
    """Raises Unreadable with the reason."""
    if router.function not in found:
        raise Unreadable(f"it has no {router.function.rpartition('.')[2]}")
    version = tuple(int(number) for number in _NUMBER.findall(info.modules[router.module].partition("-")[0]))
    if version and version < router.oldest:
        raise Unreadable("it is older than what was measured")
    offsets = offsets_of(elf, info, (*router.fields, *router.first), router.module)
    reason = next((offset for offset in offsets.values() if isinstance(offset, str)), "")
    if reason:
        raise Unreadable(reason)
    at = sum(int(offsets[field]) for field in router.fields)
    if not 0 <= at < GoRouter.POINTER or any(offsets[field] for field in router.first):
        raise Unreadable("its fields have moved")
    function = found[router.function]
    if router.form & GoRouter.POOLED:
        offset = _behind_call(elf, function, found.get(_GET))
    else:
        offset = begin(elf, function).offset
    return Symbol(function.name, offset, 0, told=at | router.form)


def _behind_call(elf: Elf, function: Symbol, called: Symbol | None) -> int:
    """Where the function goes on after its one call of the other, whose results are in their registers there."""
    if called is None:
        raise Unreadable("it does not take its context from a pool")
    return call_of(elf, function, called)[1]


def call_of(elf: Elf, function: Symbol, called: Symbol) -> tuple[int, int]:
    """Offsets in the file of the function's one call of the other, and of what is behind it. Raises Unreadable."""
    lines = disassembled(elf, function)
    found = [
        (function.offset + at, function.offset + lines[i + 1][0])
        for i, (at, text) in enumerate(lines[:-1])
        if text.startswith(("call 0x", "bl #0x")) and _target(text, function) == called.offset
    ]
    if len(found) != 1:
        raise Unreadable(f"{function.name} does not call {called.name} once")
    return found[0]


def _target(text: str, function: Symbol) -> int:
    """Offset in the file of what is called; code is one segment."""
    at = int(text.rpartition(" ")[2].removeprefix("#"), 16)
    return function.offset + (at - _WRAP if at >= _WRAP // 2 else at)
