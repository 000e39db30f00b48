# SPDX-License-Identifier: Apache-2.0
"""Where routes of Go's routers are read: found in real builds, refused where nothing is known of them."""

from __future__ import annotations

from pathlib import Path

import pytest
from go_builds import OLDER, OLDEST, STRIPPED, WORK, go, standard

from instrumenter.binaries.elf import Elf
from instrumenter.binaries.go_buildinfo import BuildInfo, build_info
from instrumenter.binaries.go_fields import parse, tables
from instrumenter.binaries.go_functions import find_functions
from instrumenter.binaries.go_offsets import build
from instrumenter.binaries.go_routes import KNOWN, SERVE, Router, routes
from instrumenter.binaries.go_spills import disassembled
from instrumenter.binaries.go_wanted import CHI, ECHO, GIN, GORILLA
from instrumenter.binaries.symbols import Symbol
from instrumenter.binaries.tls_table import Why
from instrumenter.bpf.abi_go import GoRouter, GoServe

VERSIONS = [(GORILLA, "v1.8.1"), (CHI, "v5.5.0"), (CHI, "v5.0.12"), (GIN, "v1.12.0"), (ECHO, "v4.16.0")]


def of(module: str) -> Router:
    return next(router for router in KNOWN if router.module == module)


def placed(path: Path, module: str) -> tuple[Symbol, GoServe, str]:
    """The router's probe, what the server's is told, and the instruction before the router's."""
    with Elf(str(path)) as elf:
        probes, lacks = routes(elf, build_info(elf))
        probe = probes[of(module).function]
        function = find_functions(elf, [probe.name])[probe.name]
        before = [text for at, text in disassembled(elf, function) if function.offset + at < probe.offset]
    assert lacks == ()
    return probe, GoServe(probes[SERVE].told), before[-1] if before else ""


@pytest.mark.parametrize(("module", "version"), VERSIONS)
@pytest.mark.parametrize("flags", [(), STRIPPED], ids=["exe", "stripped"])
def test_places(module: str, version: str, flags: tuple[str, ...]) -> None:
    probe, serve, before = placed(build(go(), module, version, WORK, *flags), module)
    column = tables()[module].versions.index(parse(version) or (0, 0))
    offsets = [tables()[module].offsets[field][column] or 0 for field in of(module).fields]
    assert probe.told == sum(offsets) | of(module).form
    assert serve == GoServe.ROUTED
    assert before.startswith("call " if of(module).form & GoRouter.POOLED else "jbe ")


def test_arm64(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOARCH", "arm64")
    for module, version in ((GORILLA, "v1.8.1"), (CHI, "v5.5.0")):
        path = build(go(), module, version, WORK / "arm64")
        _, _, before = placed(path, module)
        assert before.startswith(("bl ", "b.ls ", "str ", "sub "))


@pytest.mark.parametrize(("version", "told"), [("", GoServe(0)), ("1.22.10", GoServe.RELEASE_1_22)])
def test_without_routers(version: str, told: GoServe) -> None:
    with Elf(str(standard(version))) as elf:
        probes, lacks = routes(elf, build_info(elf))
    assert ({name: probe.told for name, probe in probes.items()}, lacks) == ({SERVE: told}, ())


@pytest.mark.parametrize("version", [OLDER, OLDEST])
def test_nothing_to_read(version: str) -> None:
    """Before patterns, a program without one of these routers gets no probe for routes."""
    with Elf(str(standard(version))) as elf:
        assert routes(elf, build_info(elf)) == ({}, ())


@pytest.mark.parametrize(
    ("version", "reason"), [("v5.99.1", "5.99 is newer than what was measured"), ("", "of an unknown version")]
)
def test_unknown_version(version: str, reason: str) -> None:
    """Of a stripped program the patterns of http.ServeMux are left; one with DWARF tells itself."""
    info = BuildInfo("go1.26.8", "", {CHI: version})
    with Elf(str(build(go(), CHI, "v5.5.0", WORK, *STRIPPED))) as elf:
        probes, (lack,) = routes(elf, info)
    assert {name: probe.told for name, probe in probes.items()} == {SERVE: 0}
    assert (lack.title, lack.version, lack.why) == ("chi", version, Why.UNKNOWN_LAYOUT)
    assert lack.reason == f"tells no routes: {reason}"
    with Elf(str(build(go(), CHI, "v5.5.0", WORK))) as elf:
        probes, lacks = routes(elf, info)
    assert of(CHI).function in probes
    assert lacks == ()


def test_releases_of_another_layout() -> None:
    """Of chi 5.0 the first ones; of gorilla/mux those that put the route elsewhere."""
    info = BuildInfo("go1.26.8", "", {CHI: "v5.0.6"})
    with Elf(str(build(go(), CHI, "v5.5.0", WORK))) as elf:
        _, (lack,) = routes(elf, info)
    assert lack.reason == "tells no routes: it is older than what was measured"
    with Elf(str(build(go(), GORILLA, "v1.7.3", WORK))) as elf:
        _, (lack,) = routes(elf, build_info(elf))
    assert (lack.title, lack.reason) == ("gorilla/mux", "tells no routes: it has no requestWithRoute")
