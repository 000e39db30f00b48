# SPDX-License-Identifier: Apache-2.0
"""Go programs for the tests: real builds, kept in build/go-offsets by toolchain and flags.

Toolchains: the `go` on the PATH, and those that scripts/go_toolchains.sh puts into build/go.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Final

import pytest
from running import ROOT

from instrumenter.binaries.go_offsets import build, run
from instrumenter.binaries.go_wanted import STD

WORK: Final = ROOT / "build" / "go-offsets"
OLDER: Final = "1.21.13"
OLDEST: Final = "1.17.13"
NEXT: Final = "1.27.3"
STRIPPED: Final = ("-ldflags=-s -w",)
PIE: Final = ("-buildmode=pie",)


def go(version: str = "") -> str:
    """A toolchain's command; "": the one on the PATH. Skips if it is not there."""
    path = str(ROOT / "build" / "go" / version / "go" / "bin" / "go") if version else "go"
    found = shutil.which(path) or shutil.which("/usr/local/go/bin/go" if not version else path)
    if found is None:
        pytest.skip(f"needs Go {version}: scripts/go_toolchains.sh" if version else "needs Go")
    return found


def standard(version: str, *flags: str) -> Path:
    """A server and client of net/http and crypto/tls."""
    return build(go(version), STD, "", WORK, *flags)


def small(name: str, source: str, **environment: str) -> Path:
    """A program without net/http, for another architecture or so."""
    directory = WORK / f"small-{name}"
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "go.mod").write_text("module example.org/small\n\ngo 1.18\n")
    (directory / "main.go").write_text(source)
    variables = {"GOTOOLCHAIN": "local", "GOFLAGS": "", "GOWORK": "off", "CGO_ENABLED": "0", **environment}
    command = ["env", *(f"{key}={value}" for key, value in variables.items()), go(), "build", "-o", "program", "."]
    subprocess.run(command, cwd=directory, check=True)
    return directory / "program"


def returns_by_llvm(path: Path, address: int, size: int) -> list[int]:
    """Addresses of the return instructions, by llvm-objdump, whose lines are `address: instruction operands`."""
    command = ["llvm-objdump", "-d", "--no-show-raw-insn", f"--start-address={address}"]
    command += [f"--stop-address={address + size}", str(path)]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    rows = [line.split() for line in lines if ":" in line]
    return [int(row[0].rstrip(":"), 16) for row in rows if len(row) > 1 and row[1] in ("ret", "retq")]


def talk(version: str, *flags: str) -> Path:
    """tests/go_talk: a server with its clients."""
    return _program("talk", version, flags)


def parents(version: str, *flags: str) -> Path:
    """tests/go_parents: a server that calls another one."""
    return _program("parents", version, flags)


def _program(name: str, version: str, flags: tuple[str, ...]) -> Path:
    source = ROOT / "tests" / f"go_{name}" / "main.go"
    directory = WORK / f"{name}-{version}"
    language = "1.17" if version in (OLDEST, OLDER) else "1.22"  # from where on patterns are more than paths
    directory.mkdir(parents=True, exist_ok=True)
    program = directory / "-".join(("program", *flags)).replace(" ", "").replace("=", "")
    if not program.exists() or program.stat().st_mtime < source.stat().st_mtime:
        (directory / "go.mod").write_text(f"module example.org/{name}\n\ngo {language}\n")
        (directory / "main.go").write_text(source.read_text())
        run(go(version), directory, "build", *flags, "-o", program.name, ".")
    return program
