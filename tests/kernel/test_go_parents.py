# SPDX-License-Identifier: Apache-2.0
"""Parents inside of Go programs: a call has the request that it is made for as its parent, or none; never another."""

from __future__ import annotations

import json
import socket
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest
from go_builds import NEXT, OLDER, OLDEST, PIE, STRIPPED, parents
from running import Agent, until

from kernel.go_talk import Go

pytestmark = pytest.mark.kernel

Spans = list[dict[str, Any]]
Told = Callable[..., tuple[Agent, Go]]
BUILDS = [("", ()), *(pytest.param(*b, marks=pytest.mark.builds) for b in ((OLDEST, ()), (OLDER, STRIPPED)))]
BUILDS += [pytest.param(*b, marks=pytest.mark.builds) for b in (("1.24.11", (*PIE, *STRIPPED)), (NEXT, ()))]
MANY = {"Connections": 24, "Requests": 5}


@pytest.fixture
def told(stingless: Callable[..., Agent]) -> Iterator[Told]:
    """The agent, and a build of tests/go_parents with these flags."""
    running: list[Go] = []

    def begin(version: str = "", build: tuple[str, ...] = (), *flags: str) -> tuple[Agent, Go]:
        running.append(Go(parents(version, *build), *flags))
        env = {"STINGLESS_DEBUG_PARENTS": "true"}
        return stingless("--pid", str(running[0].process.pid), "--console", env=env), running[0]

    yield begin
    for go in running:
        go.close()


def spans_of(agent: Agent) -> Spans:
    return [json.loads(line) for line in list(agent.stdout) if '"span_id"' in line]


def path(span: dict[str, Any]) -> list[str]:
    said = span["attributes"]
    return str(said.get("url.path") or urlsplit(said["url.full"]).path).split("/")[1:]


def calls(spans: Spans) -> Counter[tuple[str, str, str]]:
    """(what asked for it, "right", "none" or "WRONG", the rule) of the front's calls."""
    found: Counter[tuple[str, str, str]] = Counter()
    servers = {span["span_id"]: path(span) for span in spans if span["kind"] == "server"}
    ways = {number: way for way, number in servers.values() if way != "leaf"}
    for span in spans:
        what, number = path(span)
        if span["kind"] == "client" and what == "leaf":
            parent = span["parent_id"]
            right = servers.get(parent, ["", ""])[1] == number
            rule = span["attributes"]["stingless.parent.rule"]
            found[ways.get(number, ""), "none" if not parent else "right" if right else "WRONG", rule] += 1
    return found


def learn(agent: Agent, go: Go, way: str) -> int:
    """Asks until a call has a parent: then the stacks of this way are known. How many were made."""
    made = 0

    def known() -> bool:
        nonlocal made
        made += go.run(Ways=[way], Connections=1, Requests=1)
        return calls(spans_of(agent))[way, "right", "goroutine"] > 0

    until(known, f"a parent of what {way} calls", every_s=0.2)
    return made


@pytest.mark.parametrize("secure", [False, pytest.param(True, marks=pytest.mark.builds)], ids=["plain", "tls"])
@pytest.mark.parametrize(("version", "build"), BUILDS)
def test_builds(told: Told, version: str, build: tuple[str, ...], secure: bool) -> None:
    """In the handler's goroutine, four below it, and in both at once."""
    agent, go = told(version, build, f"-tls={str(secure).lower()}")
    before = {way: learn(agent, go, way) for way in ("own", "deep", "both")}
    for way in before:
        go.run(Ways=[way], **MANY)
    agent.stop()
    found = calls(spans_of(agent))
    assert not any(verdict == "WRONG" for _, verdict, _ in found)
    assert found["own", "right", "goroutine"] == before["own"] + 120
    assert found["deep", "right", "goroutine"] >= 121
    assert found["both", "right", "goroutine"] >= 2 * 120 + before["both"]


@pytest.mark.builds
def test_a_connection_for_each_call(told: Told) -> None:
    """The goroutine that dials is another one's, perhaps."""
    agent, go = told("", (), "-close")
    learn(agent, go, "deep")
    go.run(Ways=["deep"], **MANY)
    agent.stop()
    found = calls(spans_of(agent))
    assert found["deep", "right", "goroutine"] >= 121
    assert not any(verdict == "WRONG" for _, verdict, _ in found)


@pytest.mark.builds
@pytest.mark.parametrize("way", ["pool", "again", "lazy"])
def test_goroutines_that_go_on(told: Told, way: str) -> None:
    """With the next one's, perhaps: of what they call nothing is said, also where it would be right."""
    agent, go = told()
    learn(agent, go, "deep")
    for _ in range(3):
        go.run(Ways=[way], **MANY)
    agent.stop()
    found = {(verdict, rule) for (by, verdict, rule) in calls(spans_of(agent)) if by == way}
    assert found <= {("none", "none"), ("none", "ambiguous")}
    assert ("none", "ambiguous") in found


def test_a_worker_takes_what_another_one_wants(told: Told) -> None:
    """While the request that it was begun in is in hand."""
    agent, go = told()
    learn(agent, go, "deep")
    go.run(Ways=["opens"], Connections=1, Requests=1, Stay=True)
    until(lambda: lazily(agent, go)["lazy", "none", "ambiguous"] > 3, "calls of which nothing is said")
    go.run(Ways=["go on"])
    agent.stop()
    assert not any(by == "lazy" and verdict != "none" for by, verdict, _ in calls(spans_of(agent)))


def lazily(agent: Agent, go: Go) -> Counter[tuple[str, str, str]]:
    go.run(Ways=["lazy"], Connections=2, Requests=2)
    return calls(spans_of(agent))


@pytest.mark.builds
def test_after_the_answer(told: Told) -> None:
    """A goroutine that stays behind has no request any more, whatever its connection carries by then."""
    agent, go = told()
    learn(agent, go, "deep")
    go.run(Ways=["after", "opens"], Connections=1, Requests=2, Stay=True)
    go.run(Ways=["late"])
    go.run(Ways=["go on"])
    agent.stop()
    found = {(verdict, rule): n for (by, verdict, rule), n in calls(spans_of(agent)).items() if by == "after"}
    assert found == {("none", "none"): 1}


@pytest.mark.builds
def test_pipelined(told: Told) -> None:
    """Which of two requests that were read at once is worked for is not certain, nor for the second one afterwards."""
    agent, go = told()
    made = learn(agent, go, "own")
    first, second = (f"GET /own/{number} HTTP/1.1\r\nHost: a\r\n" for number in (901, 902))
    with socket.create_connection(("127.0.0.1", go.port)) as client:
        client.sendall(f"{first}\r\n{second}Connection: close\r\n\r\n".encode())
        while client.recv(65536):
            pass
    agent.stop()
    found = calls(spans_of(agent))
    assert found["own", "right", "goroutine"] == made
    assert found["own", "none", "ambiguous"] + found["own", "none", "none"] == 2
