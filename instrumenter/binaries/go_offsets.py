# SPDX-License-Identifier: Apache-2.0
"""`python -m instrumenter.binaries.go_offsets build`: measures go_offsets.json from real builds.

In: toolchains (the commands `go` to use), versions of modules. Out: the table, to which new columns are added. The
rule: every number comes from the DWARF of a program that was built here. See docs/development.md for the toolchains.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from instrumenter.binaries.elf import Elf
from instrumenter.binaries.go_buildinfo import build_info
from instrumenter.binaries.go_fields import TABLE, parse
from instrumenter.binaries.go_samples import SAMPLES
from instrumenter.binaries.go_wanted import FIELDS, GRPC, NET, ROUTERS, STD

_MAJOR: Final = re.compile(r"/v\d+$")


def build(go: str, module: str, version: str, work: Path, *flags: str) -> Path:
    """A program that uses the module, by this toolchain; kept in `work` by version and flags."""
    last = _MAJOR.sub("", module).rpartition("/")[2]
    name = go_version(go) if module == STD else f"{last}-{version}-{go_version(go)}"
    directory = work / name
    program = directory / "-".join(("program", *flags)).replace(" ", "").replace("=", "")
    if program.exists():
        return program
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "main.go").write_text(SAMPLES[module])
    (directory / "go.mod").write_text("module example.org/sample\n\ngo 1.18\n")
    if module != STD:
        run(go, directory, "get", f"{module}@{version}")
    run(go, directory, "build", *flags, "-o", program.name, ".")
    return program


def run(go: str, directory: Path, *arguments: str) -> str:
    """Never by another toolchain than this one."""
    environment = {**os.environ, "GOTOOLCHAIN": "local", "GOFLAGS": "-mod=mod", "GOWORK": "off"}
    environment.pop("GOROOT", None)
    command = [go, *arguments]
    return subprocess.run(command, cwd=directory, env=environment, check=True, capture_output=True, text=True).stdout


def go_version(go: str) -> str:
    return run(go, Path.cwd(), "env", "GOVERSION").strip()


def measure(program: Path, module: str) -> dict[str, int | None]:
    """Field -> offset, None if it has no such field."""
    from instrumenter.binaries.go_dwarf import struct_offsets

    with Elf(str(program)) as elf:
        found = struct_offsets(elf, FIELDS[module])
        built_by = build_info(elf).version
    print(f"{module} {built_by}: {len(found)} of {len(FIELDS[module])} structs", file=sys.stderr)
    return {f"{s}.{field}": found.get(s, {}).get(field) for s, fields in FIELDS[module].items() for field in fields}


def merge(table: Mapping[str, Any], module: str, version: str, column: Mapping[str, int | None]) -> dict[str, Any]:
    """The table with this column added, or in the place of an older one of that version."""
    part = table.get(module, {"versions": [], "offsets": {}})
    columns = {v: {f: row[i] for f, row in part["offsets"].items()} for i, v in enumerate(part["versions"])}
    columns[version] = dict(column)
    versions = sorted(columns, key=lambda v: parse(v) or (0, 0))
    offsets = {field: [columns[v].get(field) for v in versions] for field in sorted(column)}
    return {**table, module: {"versions": versions, "offsets": offsets}}


def write(table: Mapping[str, Any], path: Path) -> None:
    """A line for each field, so that differences can be read."""
    parts = []
    for module in sorted(table):
        rows = ",\n".join(f"      {json.dumps(f)}: {json.dumps(row)}" for f, row in table[module]["offsets"].items())
        versions = json.dumps(table[module]["versions"])
        parts.append(
            f'  {json.dumps(module)}: {{\n    "versions": {versions},\n    "offsets": {{\n{rows}\n    }}\n  }}'
        )
    path.write_text("{\n" + ",\n".join(parts) + "\n}\n", encoding="utf-8")


def short(version: str) -> str:
    """Offsets hold for a minor release: "1.26" of "go1.26.8"."""
    found = parse(version)
    if found is None:
        raise SystemExit(f"not a version: {version}")
    return f"{found[0]}.{found[1]}"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m instrumenter.binaries.go_offsets", description=__doc__)
    parser.add_argument("command", choices=["build"])
    parser.add_argument(
        "--go", action="append", default=[], metavar="GO", help="a toolchain's `go` for the standard library"
    )
    parser.add_argument("--module-go", default="go", metavar="GO", help="the `go` that builds modules")
    parser.add_argument("--net", action="append", default=[], metavar="VERSION", help=f"of {NET}")
    parser.add_argument("--grpc", action="append", default=[], metavar="VERSION", help=f"of {GRPC}")
    parser.add_argument(
        "--router", action="append", default=[], metavar="MODULE@VERSION", help=f"of {', '.join(ROUTERS)}"
    )
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name(TABLE))
    parser.add_argument("--work", type=Path, default=Path("build/go-offsets"))
    options = parser.parse_args(arguments)
    work = options.work.resolve()
    toolchains = [shutil.which(go) or go for go in (options.module_go, *options.go)]
    toolchains = [str(Path(go).absolute()) for go in toolchains]
    wanted = [(go, STD, go_version(go)) for go in toolchains[1:]]
    modules = [*((NET, v) for v in options.net), *((GRPC, v) for v in options.grpc)]
    modules += [(module, version) for module, _, version in (each.partition("@") for each in options.router)]
    wanted += [(toolchains[0], module, version) for module, version in modules]
    failed = 0
    for go, module, version in wanted:
        table = json.loads(options.out.read_text(encoding="utf-8")) if options.out.exists() else {}
        try:
            column = measure(build(go, module, version, work), module)
        except subprocess.CalledProcessError as error:
            print(f"{module} {version} was not built: {error.stderr.strip()}", file=sys.stderr)
            failed += 1
            continue
        write(merge(table, module, short(version), column), options.out)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
