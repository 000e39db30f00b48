# SPDX-License-Identifier: Apache-2.0
"""Where a Go program's goroutines tell for which request they work: parents inside of the process.

In: an `Elf` of a Go program whose sockets can be told (go_tls.py). Out: probe's name -> place, or why there is none.
The rule: goroutines go by their number (runtime.g.goid), which is where it was measured for that release or there are
no probes and no parents. Programs that serve nothing by net/http have none to tell.
"""

from __future__ import annotations

from typing import Final

from instrumenter.binaries.elf import Elf, Unreadable
from instrumenter.binaries.go_buildinfo import BuildInfo
from instrumenter.binaries.go_fields import offsets_of
from instrumenter.binaries.go_functions import find_functions
from instrumenter.binaries.go_routes import SERVE, call_of
from instrumenter.binaries.go_tls import begin, unknown_layout
from instrumenter.binaries.symbols import Symbol
from instrumenter.binaries.tls_table import Lack, Why
from instrumenter.bpf.abi_go import GO_HIGH, GoServe

ASK: Final = "net/http.(*persistConn).roundTrip"
BORN: Final = "runtime.newproc.func1"
_READY: Final = "runtime.runqput"  # called once there, of (processor, new goroutine)
_LAYOUT: Final = {"runtime.g.m": 48, "net/http.conn.rwc": 16, "net/http.persistConn.conn": 80}
_GOID, _CURG = "runtime.g.goid", "runtime.m.curg"
TITLE: Final = "goroutines"


def goroutines(elf: Elf, info: BuildInfo) -> tuple[dict[str, Symbol], Lack | None]:
    """SERVE is told what a program without patterns is."""
    found = find_functions(elf, (SERVE, ASK, BORN, _READY))
    if SERVE not in found or ASK not in found:
        return {}, None
    version = info.version.partition(" ")[0].removeprefix("go")
    try:
        if BORN not in found or _READY not in found:
            raise Unreadable("where goroutines begin is not known")
        probes = _probes(elf, info, found)
    except Unreadable as error:
        return {}, Lack(TITLE, version, Why.UNKNOWN_LAYOUT, f"tell no parents: {error}")
    return probes, None


def _probes(elf: Elf, info: BuildInfo, found: dict[str, Symbol]) -> dict[str, Symbol]:
    reason = unknown_layout(elf, info, _LAYOUT)
    offsets = offsets_of(elf, info, (_GOID, _CURG))
    reason = reason or next((f"{field}: {why}" for field, why in offsets.items() if isinstance(why, str)), "")
    if reason:
        raise Unreadable(reason)
    goid, curg = int(offsets[_GOID]), int(offsets[_CURG])
    told = curg << GO_HIGH | goid
    return {
        SERVE: Symbol(SERVE, begin(elf, found[SERVE]).offset, 0, told=goid << GO_HIGH | GoServe.NO_PATTERN),
        ASK: Symbol(ASK, begin(elf, found[ASK]).offset, 0, told=told),
        BORN: Symbol(BORN, call_of(elf, found[BORN], found[_READY])[0], 0, told=told),
    }
