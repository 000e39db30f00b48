# SPDX-License-Identifier: Apache-2.0
"""Patterns of Go's http.ServeMux name the routes of what it served, in spans and metrics alike."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from go_builds import NEXT, OLDER, OLDEST, PIE, STRIPPED, talk
from running import Agent

from kernel.go_talk import Go

pytestmark = pytest.mark.kernel

START = Callable[..., Agent]
ASKED = ("/items/7/parts/a/b", "/items/8/parts/c", "/files/x/y", "/none/5")
NAMED = {"GET /items/{id}/parts/{part...}": 12, "GET /files/": 6, "GET /none/*": 6}
BY_PATH = {"GET /items/*/parts/a/b": 6, "GET /items/*/parts/c": 6, "GET /files/x/y": 6, "GET /none/*": 6}


@contextmanager
def running(version: str, *flags: str, secure: bool) -> Iterator[Go]:
    go = Go(talk(version, *flags), f"-tls={str(secure).lower()}", "-patterns")
    try:
        yield go
    finally:
        go.close()


def names(agent: Agent, kind: str) -> Counter[str]:
    spans = [json.loads(line) for line in agent.stdout if '"span_id"' in line]
    return Counter(span["name"] for span in spans if span["kind"] == kind)


@pytest.mark.parametrize("secure", [False, True], ids=["plain", "tls"])
@pytest.mark.parametrize(
    ("version", "flags"),
    [
        ("", ()),
        *(
            pytest.param(*build, marks=pytest.mark.builds)
            for build in ((NEXT, ()), ("1.24.11", (*PIE, *STRIPPED)), ("1.22.10", STRIPPED))
        ),
    ],
)
def test_patterns(stingless: START, version: str, flags: tuple[str, ...], secure: bool) -> None:
    """A pattern that takes every path ("/") is none. Clients, who know no patterns, go by the path."""
    with running(version, *flags, secure=secure) as go:
        agent = stingless("--pid", str(go.process.pid), "--console")
        for path in ASKED:
            go.run(Connections=2, Requests=3, Path=path, Down=10)
        agent.stop()
    assert names(agent, "server") == NAMED
    assert names(agent, "client") == BY_PATH
    points = {line for line in agent.stdout if "http.server.request.duration" in line}
    assert any("/items/{id}/parts/{part...}" in line for line in points)
    assert not any("/items/*" in line for line in points)


@pytest.mark.parametrize(
    "version",
    ["", *(pytest.param(other, marks=pytest.mark.builds) for other in (OLDEST, OLDER, "1.22.10", "1.24.11", NEXT))],
)
def test_http2_over_tls(stingless: START, version: str) -> None:
    """The same plaintext, in frames. Routes are by the path: a connection serves many requests at once."""
    go = Go(talk(version), "-http2")
    agent = stingless("--pid", str(go.process.pid), "--console")
    go.run(Connections=3, Requests=5, Path="/two", Down=20_000, Up=20_000, HTTP2=True)
    agent.stop()
    go.close()
    spans = [json.loads(line) for line in agent.stdout if '"span_id"' in line]
    assert {(s["attributes"]["network.protocol.version"], s["attributes"]["url.scheme"]) for s in spans} == {
        ("2", "https")
    }
    assert names(agent, "server") == names(agent, "client") == {"POST /two": 15}
    sizes = {s["attributes"]["http.request.body.size"] for s in spans} | {
        s["attributes"]["http.response.body.size"] for s in spans
    }
    assert sizes == {20_000}


@pytest.mark.builds
def test_before_patterns(stingless: START) -> None:
    with running(OLDER, secure=False) as go:
        agent = stingless("--pid", str(go.process.pid), "--console")
        go.run(Connections=2, Requests=3, Path="/items/7/parts/c", Down=10)
        agent.stop()
    assert names(agent, "server") == {"GET /items/*/parts/c": 6}


def test_a_connection_from_before(stingless: START) -> None:
    """What serves it is not known, so its routes are by the path."""
    with running("", secure=False) as go:
        go.keep(Requests=1, Path="/items/7/parts/c", Down=10)
        agent = stingless("--pid", str(go.process.pid), "--console")
        go.keep(Requests=3, Path="/items/7/parts/c", Down=10)
        agent.stop()
    assert names(agent, "server") == {"GET /items/*/parts/c": 3}
