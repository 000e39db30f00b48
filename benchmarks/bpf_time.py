# SPDX-License-Identifier: Apache-2.0
"""The kernel's own statistics of BPF programs, and what they and the kernel cost where a program does nothing.

The rule it protects: a figure of the statistics has their readings of the clock in it, so it is shown beside that of an
empty program of the same kind, at the same place, in the same calls.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from instrumenter.bpf.libbpf import library, object_path  # noqa: E402
from instrumenter.bpf.objfile import BpfObject  # noqa: E402

STATS = Path("/proc/sys/kernel/bpf_stats_enabled")
EMPTY = 'SEC("{section}") int empty{number}(void *context) {{ return 0; }}\n'
SOURCE = '#include <linux/bpf.h>\n#include <bpf/bpf_helpers.h>\nchar granted[] SEC("license") = "GPL";\n'
SYSTEM = f"/usr/include/{subprocess.run(['uname', '-m'], capture_output=True, text=True).stdout.strip()}-linux-gnu"


def shown() -> dict[int, dict[str, Any]]:
    """Every loaded program, by its id."""
    said = subprocess.run(["bpftool", "-j", "prog", "show"], capture_output=True, check=True).stdout
    return {program["id"]: program for program in json.loads(said)}


def programs_of(pid: int) -> dict[int, str]:
    """Names by id of the programs that a process holds."""
    ids = set()
    for path in Path(f"/proc/{pid}/fdinfo").iterdir():
        with suppress(FileNotFoundError):  # closed meanwhile
            ids |= {int(found) for found in re.findall(r"^prog_id:\s+(\d+)$", path.read_text(), re.MULTILINE)}
    return {i: program["name"] for i, program in shown().items() if i in ids}


@contextmanager
def empty(programs: Sequence[str], folder: Path) -> Iterator[dict[int, str]]:
    """Empty programs where these of the agent's are attached, meanwhile. Their ids, and whose place each has."""
    lib = library()
    ours = BpfObject(lib, object_path())
    sections = ours.sections()
    ours.close()
    source = folder / "empty.bpf.c"
    source.write_text(SOURCE + "".join(EMPTY.format(section=sections[p], number=n) for n, p in enumerate(programs)))
    built = source.with_suffix(".o")
    subprocess.run(
        ["clang", "-g", "-O2", "-target", "bpf", "-idirafter", SYSTEM, "-c", source, "-o", built], check=True
    )
    opened, links = BpfObject(lib, built), []
    try:
        refused = opened.load()
        if refused:
            raise SystemExit(f"an empty program was refused: {refused}")
        links = [opened.attach(f"empty{number}") for number in range(len(programs))]
        found = {name: i for i, name in programs_of(os.getpid()).items()}
        yield {found[f"empty{number}"]: program for number, program in enumerate(programs)}
    finally:
        for link in links:
            lib.c.bpf_link__destroy(link)
        opened.close()


@contextmanager
def _statistics() -> Iterator[None]:
    """The kernel times every run of a BPF program meanwhile, which costs some ns itself."""
    before = STATS.read_text()
    STATS.write_text("1")
    try:
        yield
    finally:
        STATS.write_text(before)


def timed(work: Callable[[], float], ids: Sequence[int]) -> dict[int, tuple[float, float]]:
    """Of these programs that ran: (ns a run, runs for each of what `work` returns that it did)."""
    with _statistics():
        first = shown()
        done = work()
        second = shown()
    found = {}
    for i in ids:
        runs = _grown(first[i], second[i], "run_cnt")
        if runs:
            found[i] = _grown(first[i], second[i], "run_time_ns") / runs, runs / done
    return found


def _grown(first: dict[str, Any], second: dict[str, Any], name: str) -> int:
    return int(second.get(name, 0)) - int(first.get(name, 0))
