# SPDX-License-Identifier: Apache-2.0
"""The rows of docs/support-matrix.md: which there are by the tables, and what a run says of each.

In: the tables of services and clients. Out: `Row`s; a line for each that ran, in build/truth/matrix, from which
scripts/support_matrix.py writes the page. The rule it protects: the page has every row of the tables and no other, and
every result is of a run.
"""

from __future__ import annotations

import functools
import json
import re
import subprocess
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from running import ROOT, STINGLESS

from truth import callers, launch
from truth.callers import Caller
from truth.launch import IN_VM, SERVICES, Service, clean_environment
from truth.secured import SECURED

RESULTS: Final = ROOT / "build" / "truth" / "matrix"
GUESTS: Final = ROOT / "build" / "vm"  # in a folder of each, its RESULTS
PAGE: Final = ROOT / "docs" / "support-matrix.md"

# Under emulation, by their TLS: servers, then clients. Of each library and each runtime one on each side.
IN_GUESTS: Final[Mapping[str, Collection[str]]] = {
    "": {"nginx", "nginx h2c", "grpcio", "curl", "Java HttpClient", "h2load", "grpcio client"},
    "OpenSSL": {
        *("nginx", "http.server", "node http2", "websockets"),
        *("curl", "requests", "Node fetch", "Node http2 client", "ws client"),
    },
    "GnuTLS": {"gnutls-serv", "pycurl"},
    "Go crypto/tls": {"go", "grpc-go", "Go http.Client", "grpc-go client"},
    "rustls": {"axum"},
    "JSSE": {"Java HttpsServer", "Java HttpClient"},
}


def _runs(row: Service | Caller) -> bool:
    return not IN_VM or row.label in IN_GUESTS.get(row.library, ())


PROGRAMS: Final = tuple(s for s in (*SERVICES, *SECURED) if _runs(s))
CALLERS: Final = tuple(c for c in callers.CALLERS if _runs(c))


@dataclass(frozen=True, slots=True)
class Row:
    """number: in its table. library: its TLS. hidden: why it is not seen, "" if it is; version: a command."""

    number: int
    program: str
    side: str
    protocol: str
    library: str
    hidden: str
    version: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.program}, {self.side}, {self.protocol}{' over ' if self.library else ''}{self.library}"

    @property
    def key(self) -> tuple[str, str, str, str]:
        return (self.program, self.side, self.protocol, self.library)


def rows() -> Iterator[Row]:
    """All that the tables have; in a guest, all that runs there."""
    for n, s in enumerate(PROGRAMS):
        for protocol in s.speaks:
            yield Row(n, s.label, "server", protocol, s.library, s.hidden, s.version)
    for n, c in enumerate(CALLERS):
        yield Row(n, c.label, "client", c.protocol, c.library, c.hidden, c.version)


@functools.cache
def version(command: tuple[str, ...]) -> str:
    """What a program says of itself, without a word before or after."""
    line = [launch.program(command[0]), *command[1:]]
    said = subprocess.run(line, capture_output=True, text=True, env=clean_environment(), check=True)
    found = re.search(r"(?<![-\d.])\d+\.\d+[\w.]*", said.stdout + said.stderr)
    assert found, f"{command}: {said}"
    return found[0]


def tls_view(pid: int) -> str:
    """What follows "TLS visible: " in what the agent says of a process; all that it says where it does not."""
    said = subprocess.run([STINGLESS, "doctor", "--pid", str(pid)], capture_output=True, text=True, check=False)
    found = re.search(r"TLS visible:? +(.*)", said.stdout)
    return found[1] if found else said.stdout + said.stderr


def write(kernel: str, attach: str, results: Mapping[Row, str]) -> None:
    """One JSON line for each row, in the run's own file."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    with (RESULTS / f"{kernel}-{attach}.jsonl").open("w") as file:
        for row, result in results.items():
            line = [*row.key, version(row.version), kernel, attach, " ".join(result.split())]
            file.write(json.dumps(line) + "\n")


def page(results: Iterable[Sequence[str]]) -> str:
    """The page, of lines as `write` writes them: rows in the order of the tables, without one for what did not run."""
    said: dict[tuple[str, ...], dict[str, list[str]]] = {}
    versions: dict[tuple[str, ...], str] = {}
    for program, side, protocol, library, made, kernel, attach, result in results:
        key = (program, side, protocol, library)
        versions[key] = made
        series = ".".join(kernel.split(".")[:2])
        said.setdefault(key, {}).setdefault(result, []).append(f"{series} {attach}")
    lines = [INTRODUCTION]
    for side, title in (("server", "Servers"), ("client", "Clients")):
        lines += [f"\n## {title}\n", "| program | version | protocol | TLS | result | kernel, attach mode |", RULE]
        for row in rows():
            for result, where in said.get(row.key, {}).items() if row.side == side else ():
                cells = (row.program, versions[row.key], row.protocol, row.library or "none", result, ", ".join(where))
                lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


RULE: Final = "|---|---|---|---|---|---|"
INTRODUCTION: Final = """# Support matrix

Made by `scripts/support_matrix.py` of what `tests/truth/test_programs.py` ran; nothing here is written by hand. Every
program talks to every other that speaks the same, half of the servers are older than the agent, and every request has a
number.

- *exact*: spans and metrics are the requests that were sent, one for one, by method, route and status (for gRPC by
  service, method and code), over the right port and scheme.
- *not visible*: nothing is seen, and `stingless doctor --pid` says so, with this reason.
- anything else is a failed test: how many came out of how many that were sent.

A client in Go, whose TLS is in its own file, asks when the agent has put its probes on that: what such a program says
before is not seen, and not counted."""
