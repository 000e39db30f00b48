# SPDX-License-Identifier: Apache-2.0
"""Routes of gorilla/mux, chi, gin and echo: in spans and in the key of metrics, exact in number, one hit a request."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from go_builds import talk
from running import ROOT, Agent

from instrumenter.binaries.tls_libraries import Files
from instrumenter.discovery.tls_points import points_of
from kernel.go_talk import Go
from kernel.harness import Wire

pytestmark = pytest.mark.kernel

START = Callable[..., Agent]
BUILDS = [
    ("goroutes", "tls"),
    *(
        pytest.param(build, how, marks=pytest.mark.builds)
        for build, how in (
            ("goroutes", "plain"),
            ("goroutes-stripped", "tls"),
            ("goroutes-1.21", "tls"),
            ("goroutes-1.21-stripped", "plain"),
        )
    ),
]
CLIENTS, EACH = 4, 3  # connections at once, requests on each
SMALL, LARGE = 10, 20_000  # bytes of a response that is written when the handler is over, and of one before that
ROUTES = {
    "/mux/items/7": "/mux/items/{id:[0-9]+}",
    "/mux/api/users/ann": "/mux/api/users/{name}",
    "/chi/items/7": "/chi/items/{id}",
    "/chi/api/v1/users/ann": "/chi/api/v1/users/{name}",
    "/chi/api/v1/": "/chi/api/v1",
    "/chi/api/files/a/b": "/chi/api/files/*",
    "/gin/items/7": "/gin/items/:id",
    "/gin/api/files/a/b": "/gin/api/files/*path",
    "/echo/items/7": "/echo/items/:id",
    "/echo/api/files/a/b": "/echo/api/files/*",
}
UNKNOWN, NOT_FOUND = "/gin/none/7", len("404 page not found")


@contextmanager
def serving(build: str, how: str) -> Iterator[tuple[int, int]]:
    """(pid, port) of a server."""
    with TemporaryDirectory() as folder:  # see go_talk.py
        program = Path(shutil.copy(ROOT / "build" / "programs" / build, folder))
        pipe = subprocess.PIPE
        with subprocess.Popen([program, how], stdin=pipe, stdout=pipe, text=True) as server:
            assert server.stdout is not None
            yield server.pid, int(server.stdout.readline())
            server.communicate(timeout=20)


@contextmanager
def asking(how: str) -> Iterator[Go]:
    go = Go(talk(""), f"-tls={str(how == 'tls').lower()}")
    try:
        yield go
    finally:
        go.close()


def names(agent: Agent) -> Counter[str]:
    spans = [json.loads(line) for line in agent.stdout if '"span_id"' in line]
    return Counter(span["name"] for span in spans)


def counted(agent: Agent) -> Counter[str]:
    """By route, of the last metrics."""
    points = {}
    for line in agent.stdout:
        if '"http.server.request.duration"' in line:
            said = json.loads(line)
            points[json.dumps(said["attributes"], sort_keys=True)] = said
    total: Counter[str] = Counter()
    for said in points.values():
        total[said["attributes"]["http.route"]] += said["count"]
    return total


@pytest.mark.parametrize(("build", "how"), BUILDS)
def test_routes(stingless: START, build: str, how: str) -> None:
    """Whether the response is written in the handler or after it. What a router does not know has the pattern that led
    to it, where Go has those."""
    with serving(build, how) as (pid, port), asking(how) as clients:
        agent = stingless("--pid", str(pid), "--console")
        for path in (*ROUTES, UNKNOWN):
            for down in (SMALL, LARGE) if path in ROUTES else (NOT_FOUND,):
                clients.run(Port=port, Connections=CLIENTS, Requests=EACH, Path=path, Down=down)
        agent.stop()
    expected = Counter(dict.fromkeys(ROUTES.values(), 2 * CLIENTS * EACH))
    expected["/gin/none/*" if "1.21" in build else "/gin/"] = CLIENTS * EACH
    assert names(agent) == Counter({f"GET {route}": n for route, n in expected.items()})
    assert counted(agent) == expected


@pytest.mark.builds
def test_many_at_once(stingless: START) -> None:
    """Structs go from request to request; a connection has one route after another."""
    with serving("goroutes", "plain") as (pid, port), asking("plain") as clients:
        agent = stingless("--pid", str(pid), "--console")
        for path in ROUTES:
            clients.run(Port=port, Connections=1, Keep=True, Requests=3, Path=path, Down=SMALL)
            clients.run(Port=port, Connections=60, Requests=8, Path=path, Down=SMALL)
        agent.stop()
    assert counted(agent) == Counter(dict.fromkeys(ROUTES.values(), 3 + 60 * 8))


@pytest.mark.parametrize(
    "path", ["/mux/items/7", *(pytest.param(p, marks=pytest.mark.builds) for p in ROUTES if p != "/mux/items/7")]
)
def test_hits(wire: Wire, path: str) -> None:
    """One a request, and one where a connection begins: Go opens another where its write ended late (50 ms)."""
    with serving("goroutes", "plain") as (pid, port), asking("plain") as clients:
        (library,) = Files().tls(pid).libraries
        uprobes = wire.program.uprobes()
        assert uprobes is not None, wire.program.refused
        with closing(uprobes.attach(library.path, points_of(library))):
            wire.watch(pid)
            assert wire.program.enable_stats()
            before = wire.program.stats()["tls_call"].run_cnt
            clients.run(Port=port, Connections=2, Requests=20, Path=path, Down=SMALL)
            hits = wire.program.stats()["tls_call"].run_cnt - before
    assert hits == 2 * (1 + 20)
