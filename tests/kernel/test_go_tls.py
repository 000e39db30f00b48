# SPDX-License-Identifier: Apache-2.0
"""Go's crypto/tls: exchanges of net/http on both sides, exact in number and size, whatever built the program."""

from __future__ import annotations

import http.client
import socket
import ssl
import struct
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from go_builds import NEXT, OLDER, OLDEST, PIE, STRIPPED, talk
from running import until

from instrumenter.binaries.tls_libraries import Files
from instrumenter.bpf.abi import Direction, Flag, Outcome, Verdict
from instrumenter.discovery.tls_points import points_of
from kernel.go_talk import Go
from kernel.harness import Wire
from kernel.seen import NONE, Row, Seen

pytestmark = pytest.mark.kernel

BUILDS = [
    (OLDEST, ()),
    (OLDER, STRIPPED),
    ("1.24.11", (*PIE, *STRIPPED)),
    (NEXT, STRIPPED),
    ("", ()),
    ("", (*PIE, *STRIPPED)),
]
HUGE, UNSENT = 24_000_000, 10_000_000  # bytes of a response, and more than the sockets between hold of it

Start = Callable[..., Go]


@pytest.fixture
def start(wire: Wire) -> Iterator[Start]:
    """Starts a build, watched under this test's service, its plaintext probed."""
    running: list[Any] = []

    def begin(version: str, *flags: str, run: Sequence[str] = ()) -> Go:
        go = Go(talk(version, *flags), *run)
        running.append(go)
        (library,) = Files().tls(go.process.pid).libraries
        uprobes = wire.program.uprobes()
        assert uprobes is not None, wire.program.refused
        running.append(uprobes.attach(library.path, points_of(library)))
        wire.watch(go.process.pid)
        return go

    yield begin
    for each in reversed(running):
        each.close()


def of(found: list[Seen], direction: Direction) -> Counter[Row]:
    return Counter(each.row for each in found if each.direction == direction)


def check(wire: Wire, go: Go, expected: dict[Row, int]) -> None:
    go.close()  # its last call has returned then
    found = wire.collect()
    assert wire.losses() == {}
    assert of(found, Direction.SERVER) == expected
    assert of(found, Direction.CLIENT) == expected
    assert all(each.x["key"]["tls"] == 1 for each in found)
    ends = {(each.local, each.remote) for each in found if each.direction == Direction.SERVER}
    assert ends == {(each.remote, each.local) for each in found if each.direction == Direction.CLIENT}
    assert {local[1] for local, _ in ends} == {go.port}


def row(go: Go, target: str, status: int, up: int, down: int, flags: Flag = NONE) -> Row:
    host, agent = f"127.0.0.1:{go.port}", "Go-http-client/1.1"
    return Row("POST" if up else "GET", target, status, up, down, flags=flags, host=host, agent=agent)


@pytest.mark.parametrize(("version", "flags"), BUILDS, ids=lambda value: "".join(value) or "newest")
def test_builds(wire: Wire, start: Start, version: str, flags: tuple[str, ...]) -> None:
    go = start(version, *flags)
    go.run(Connections=3, Requests=5, Path="/a", Down=100)
    check(wire, go, {row(go, "/a?down=100", 200, 0, 100): 15})


def test_large_bodies(wire: Wire, start: Start) -> None:
    go = start("")
    go.run(Connections=2, Requests=3, Path="/b", Up=200_000, Down=300_000)
    go.run(Connections=2, Requests=3, Path="/c", Up=70_000, Down=30_000, Chunked=True)
    expected = {row(go, "/b?down=300000", 200, 200_000, 300_000): 6}
    expected[row(go, "/c?down=30000&chunked=1", 201, 70_000, 30_000, Flag.CHUNKED_RESPONSE)] = 6
    check(wire, go, expected)


def test_many_goroutines(wire: Wire, start: Start) -> None:
    go = start("")
    go.run(Connections=60, Requests=8, Path="/many", Down=10)
    check(wire, go, {row(go, "/many?down=10", 200, 0, 10): 480})


@pytest.mark.builds
@pytest.mark.parametrize("at_once", [1, 20])
def test_http2_begins_in_two_goroutines(wire: Wire, start: Start, at_once: int) -> None:
    """The server reads the client's preface in one, while it writes its own SETTINGS in another: many times, as which
    of them meet is chance."""
    go = start("", run=["-http2"])
    exact = Counter({("/two?down=10", 200, 10): 2 * 40})
    for _ in range(25):
        for _ in range(40 // at_once):
            go.run(Connections=at_once, Requests=2, Path="/two", Down=10, HTTP2=True)
        found = wire.collect()
        assert wire.losses() == {}
        for direction in (Direction.SERVER, Direction.CLIENT):
            rows = (each.row for each in found if each.direction == direction)
            assert Counter((row.target, row.status, row.response_bytes) for row in rows) == exact


def test_wrapped_connection(wire: Wire, start: Start) -> None:
    go = start("")
    go.run(Connections=2, Requests=2, Path="/w", Down=7, Wrap=True)
    check(wire, go, {row(go, "/w?down=7", 200, 0, 7): 4})


def test_hits(wire: Wire, start: Start) -> None:
    """Two a request on each side: one for what is read, one for what is written; and the client's, for whom it is.

    And one more where the server's read in the background, while the handler works, meets the next request's first
    byte.
    """
    go = start("")
    assert wire.program.enable_stats()
    runs = []
    for requests in (100, 300):
        before = wire.program.stats()["tls_call"].run_cnt
        go.run(Connections=1, Requests=requests, Path="/hits", Down=10)
        runs.append(wire.program.stats()["tls_call"].run_cnt - before)
    check(wire, go, {row(go, "/hits?down=10", 200, 0, 10): 400})
    assert runs[0] >= (2 * 2 + 1) * 100
    assert runs[1] >= (2 * 2 + 1) * 300
    assert runs[1] - runs[0] < (2.5 * 2 + 1) * 200


@contextmanager
def asking(go: Go, target: str) -> Iterator[http.client.HTTPResponse]:
    """The response as it comes, to a client whose socket takes little at once."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with socket.socket() as plain:
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # RST at its end
        plain.connect(("127.0.0.1", go.port))
        with context.wrap_socket(plain) as secure:
            connection = http.client.HTTPConnection("h")
            connection.sock = secure
            connection.request("GET", target)
            with connection.getresponse() as response:
                yield response


def test_a_slow_client(wire: Wire, start: Start) -> None:
    """A response that one Write gave ends when its last record is sent, not when the Write began."""
    go = start("")
    with asking(go, f"/slow?down={HUGE}") as response:
        response.read(HUGE - UNSENT)
        then = time.monotonic_ns()
        assert len(response.read()) == UNSENT
    go.close()
    (seen,) = wire.collect()
    assert seen.row == Row("GET", f"/slow?down={HUGE}", 200, 0, HUGE)
    assert seen.first_ns < then < seen.end_ns


def connected(port: int) -> bool:
    """Whether a server's connection is established (proc_net_tcp.txt: local address, remote address, state)."""
    rows = [line.split()[1:4] for line in Path("/proc/net/tcp").read_text().splitlines()]
    return any(local.endswith(f":{port:04X}") and state == "01" for local, _, state in rows)


def test_a_client_that_goes(wire: Wire, start: Start) -> None:
    """What of a Write did not reach the socket is not in the response."""
    go = start("")
    with asking(go, f"/gone?down={HUGE}") as response:
        response.read(UNSENT)
    until(lambda: not connected(go.port), "the reset arrives")  # before the server's own end
    go.close()
    (seen,) = wire.collect()
    assert (seen.row.status, seen.row.outcome) == (200, Outcome.RESET)
    assert UNSENT <= seen.row.response_bytes < HUGE


def test_write_on_a_closed_connection(wire: Wire, start: Start) -> None:
    """It fails, and is no plaintext that was lost."""
    go = start("")
    go.run(Connections=3, Requests=1, Path="/late", Down=10, Late=True)
    check(wire, go, {Row("GET", "/late?down=10", 200, 0, 10, host="h"): 3})


def test_connection_from_before(wire: Wire, start: Start) -> None:
    """No handshake is needed to know whose plaintext it is."""
    go = start("")
    wire.program.set_process(go.process.pid, wire.svc, Verdict.IGNORE)
    go.keep(Requests=2, Path="/before", Down=10)
    wire.watch(go.process.pid)
    go.keep(Requests=3, Path="/after", Down=10)
    check(wire, go, {row(go, "/after?down=10", 200, 0, 10): 3})
