# SPDX-License-Identifier: Apache-2.0
"""The clients: what each is asked to send, and what it says it sent and got. Every request has a number in its query.

In: `Ask`s. Out: `Sent`s, by the client's own account and clock. The rule it protects: a client that fails, or says
nothing about one of its requests, fails the test: the truth is never guessed.
"""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from truth.certificates import trust
from truth.launch import HERE, IN_VM, NOT_ASKED, USERS, Running, clean_environment, program

CLIENT_WITHIN_S: Final = 480.0 if IN_VM else 120.0

Held = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class Ask:
    """One request. route: the template that it must be counted under; status: the answer that it must get."""

    number: int
    service: Running
    method: str
    path: str
    route: str
    status: int
    size: int = 0
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def url(self) -> str:
        return self.service.url(f"{self.path}?n={self.number}")

    def line(self) -> list[object]:
        """Of a plan."""
        return [self.number, self.method, self.url, self.size, dict(self.headers)]


class Call(Ask):
    """One call of gRPC. method: POST; route: service and method; status: its code; size: messages sent."""

    __slots__ = ()

    def line(self) -> list[object]:
        return [self.number, f"127.0.0.1:{self.service.port}", self.path.rpartition("/")[2], self.size]


@dataclass(frozen=True, slots=True)
class Sent:
    """What a client says of one request. start_ns: since the epoch, 0 if it has no clock; took_ns: its own time.

    least_ns, most_ns: where the client knows them, bounds that its own clock leaves no gap in; else 0, and the exchange
    took at most took_ns.
    """

    ask: Ask
    status: int
    start_ns: int = 0
    took_ns: int = 0
    least_ns: int = 0
    most_ns: int = 0


@dataclass(frozen=True, slots=True)
class Sender:
    """A client that ran. pid: of the process; name: the service.name expected; also: pids of others of the same."""

    label: str
    name: str
    pid: int
    sent: tuple[Sent, ...]
    also: tuple[int, ...] = ()


_NUMBERS: Final = itertools.count(1)

# (method, path, route, status), and how often for each service and client; `#` is a user.
_ROUTES: Final = (
    ("GET", "/hello", "/hello", 200, 6),
    ("GET", "/users/#", "/users/*", 200, 20),
    ("POST", "/echo", "/echo", 200, 5),
    ("GET", "/missing", "/missing", 404, 4),
    ("GET", "/boom", "/boom", 500, 3),
    ("GET", "/slow", "/slow", 200, 3),
    ("GET", "/stream", "/stream", 200, 3),
    ("HEAD", "/hello", "/hello", 200, 3),
)


def every_route(services: Sequence[Running], without: Collection[str] = (), most: int = 20) -> list[Ask]:
    """Every route of every service, in turns. without: methods that the client does not send. most: times of each."""
    asks = []
    for turn, (method, path, route, status, times) in itertools.product(range(most), _ROUTES):
        if turn < times and method not in without:
            for running in services:
                expected = running.service.odd.get((method, path), status)
                size = 3000 if method == "POST" else 0
                if expected != NOT_ASKED:
                    asks.append(ask(running, path.replace("#", str(turn % USERS + 1)), expected, route, method, size))
    return asks


# Method of shop.Shop, its messages, the code that it ends with, how often; Nothing is not there.
_CALLS: Final = (
    ("Unary", 1, 0, 12), ("Many", 1, 0, 4), ("Gather", 5, 0, 4), ("Echo", 5, 0, 4), ("Missing", 1, 5, 3),
    ("Boom", 1, 13, 3), ("Nothing", 1, 12, 2),
)  # fmt: skip


def every_call(services: Sequence[Running]) -> list[Call]:
    """Every method of every service, in turns."""
    return [
        Call(next(_NUMBERS), running, "POST", f"/shop.Shop/{method}", f"shop.Shop/{method}", code, messages)
        for turn, (method, messages, code, times) in itertools.product(range(20), _CALLS)
        if turn < times
        for running in services
    ]


def every_socket(services: Sequence[Running]) -> list[Ask]:
    """Connections of WebSocket."""
    return [ask(running, "/socket", 101) for _ in range(8) for running in services]


def ask(
    service: Running, path: str, status: int, route: str = "", method: str = "GET", size: int = 0,
    headers: Mapping[str, str] | None = None,
) -> Ask:  # fmt: skip
    return Ask(next(_NUMBERS), service, method, path, route or path, status, size, headers or {})


def requests_session(folder: Path, asks: Sequence[Ask]) -> Sender:
    """Kept-alive connections."""
    return python("requests_client", folder, asks, "session")


def requests_oneshot(folder: Path, asks: Sequence[Ask]) -> Sender:
    """A connection for each request."""
    return python("requests_client", folder, asks, "oneshot")


def aiohttp_client(folder: Path, asks: Sequence[Ask], concurrency: int = 8) -> Sender:
    """Many at once, over a pool of connections."""
    return python("aiohttp_client", folder, asks, str(concurrency))


def socket_client(folder: Path, asks: Sequence[Ask]) -> Sender:
    """Nothing between its clock and the kernel; a connection for each request."""
    return python("socket_client", folder, asks, "-")


def python(name: str, folder: Path, asks: Sequence[Ask], how: str, held: Held | None = None) -> Sender:
    """A program of clients/ by this Python."""
    return planned([sys.executable, str(HERE / "clients" / f"{name}.py")], name, folder, asks, how, held)


def planned(
    command: Sequence[str], name: str, folder: Path, asks: Sequence[Ask], how: str, held: Held | None = None,
    begin: Held | None = None,
) -> Sender:  # fmt: skip
    """A program that takes a plan (a JSON line for each request) and says what became of each.

    begin: called before it gets the plan.
    """
    lines = "".join(json.dumps(a.line()) + "\n" for a in asks)
    if begin:
        pid, output = run([*command, "/dev/stdin", how], begin=begin, given=lines)
    else:
        plan = folder / f"plan-{asks[0].number}"
        plan.write_text(lines)
        pid, output = run([*command, str(plan), how], lines=len(asks) if held else 0, held=held)
    said = {number: rest for number, *rest in map(json.loads, output.splitlines())}
    return Sender(f"{name} {how}", name, pid, tuple(Sent(a, *said.pop(a.number)) for a in asks))


def curl(folder: Path, asks: Sequence[Ask], version: str = "--http1.1") -> Sender:
    """One curl for all, which keeps connections as it likes. Its own clock: from the connection to the last byte."""
    config = folder / f"curl-{asks[0].number}"
    config.write_text("\nnext\n".join("\n".join(_curl_lines(a, version)) for a in asks) + "\n")
    pid, output = run([program("curl"), "-sS", "--no-progress-meter", "-K", str(config)])
    said = {int(n): (int(status), took) for n, status, *took in map(str.split, output.splitlines())}
    return Sender(f"curl {version}", "curl", pid, tuple(_curl_sent(a, *said.pop(a.number)) for a in asks))


def _curl_lines(a: Ask, version: str) -> Iterator[str]:
    yield f'url = "{a.url}"'
    yield version.removeprefix("--")
    yield 'output = "/dev/null"'
    yield f'write-out = "{a.number} %{{http_code}} %{{time_connect}} %{{time_total}}\\n"'
    if a.method == "HEAD":
        yield "head"
    if a.size:
        yield f'data = "{"b" * a.size}"'


def _curl_sent(a: Ask, status: int, took: Sequence[str]) -> Sent:
    before, total = (round(float(seconds) * 1e9) for seconds in took)
    return Sent(a, status, 0, total - before)


def wrk(service: Running, path: str, seconds: int, connections: int) -> tuple[int, int]:
    """Its pid and the responses that it counts itself. It leaves up to `connections` requests unanswered at its end."""
    pid, output = run(
        [program("wrk"), "-t1", f"-c{connections}", f"-d{seconds}", service.url(path)], CLIENT_WITHIN_S + seconds
    )
    line = next(line for line in output.splitlines() if " requests in " in line)
    assert "Socket errors" not in output, output
    return pid, int(line.split()[0])


def run(
    command: Sequence[str], within_s: float = CLIENT_WITHIN_S, lines: int = 0, held: Held | None = None,
    codes: Collection[int] = (0,), begin: Held | None = None, given: str = "",
) -> tuple[int, str]:  # fmt: skip
    """Pid and output of a client.

    held: called when it has said so many lines, before it is told to end. codes: with which it may end. begin: called
    when it runs, before it reads anything from standard input, where it is given that text.
    """
    started = time.monotonic()
    with subprocess.Popen(
        command, env=clean_environment() | trust(), stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True,
    ) as client:  # fmt: skip
        assert client.stdout is not None
        try:
            if begin:
                begin(client.pid)
            said = "".join(client.stdout.readline() for _ in range(lines))
            if held:
                held(client.pid)
            output, errors = client.communicate(given, timeout=within_s)
        finally:
            client.kill()
    took = time.monotonic() - started
    assert client.returncode in codes, f"{command[:3]} ended with {client.returncode} after {took:.1f} s: {errors}"
    return client.pid, said + output
