# SPDX-License-Identifier: Apache-2.0
"""Under wrk: counts against nginx's own (stub_status) and wrk's, with room in the ring and without."""

from __future__ import annotations

import ssl
import subprocess
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from running import until

from truth import senders
from truth.certificates import certificate
from truth.conftest import Watch
from truth.launch import SERVICES, Running, clean_environment, free_port, program
from truth.ledger import CLIENT, SERVER
from truth.secured import SECURED

pytestmark = pytest.mark.kernel

CONNECTIONS = 16
OK = ("GET", "/hello", 200)


def taken(nginx: Running) -> tuple[int, int]:
    """Requests that nginx took, this function's own among them; connections that it has now."""
    trusting = ssl.create_default_context(cafile=certificate().cert) if nginx.service.library else None
    with urllib.request.urlopen(nginx.url("/count"), timeout=20, context=trusting) as answer:
        words = answer.read().split()  # Active connections: N server accepts handled requests A H REQUESTS ...
    return int(words[9]), int(words[2])


def taken_by(nginx: Running) -> tuple[int, int]:
    """Requests that nginx took of others, and of `taken`, once nobody else is connected any more."""
    asked, total = 0, 0

    def alone() -> bool:
        nonlocal asked, total
        asked, (total, connections) = asked + 1, taken(nginx)
        return connections == 1

    until(alone, "nginx has closed all connections")
    return total - asked, asked


@pytest.fixture(params=[SERVICES[0], SECURED[0]], ids=["plain", "TLS"])
def either(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Running]:
    """nginx, in plain and over TLS."""
    with Running(request.param, tmp_path / "nginx") as running:
        yield running.listening()


def test_wrk_is_counted_to_the_last_request(watch: Callable[..., Watch], either: Running) -> None:
    """wrk hangs up on what is under way when its time is over: those have no status, or one that it never read."""
    nginx = either
    watching = watch("--exe", "*/nginx", "--exe", "*/wrk")
    pid, completed = senders.wrk(nginx, "/hello", 2, CONNECTIONS)
    requests, _ = taken_by(nginx)
    ledger = watching.ledger()
    server, client = ledger.counted(nginx.pid, SERVER), ledger.counted(pid, CLIENT)
    assert sum(n for (_, route, _), n in server.items() if route == "/hello") == requests
    assert client[OK] == completed
    assert requests - completed <= CONNECTIONS
    assert 0 <= sum(client.values()) - completed <= CONNECTIONS
    exported, sampled_out, lost, seen = watching.account
    assert exported + lost == seen
    assert sampled_out == 0
    assert exported == len(ledger.spans)
    assert seen >= sum(server.values()) + sum(client.values())


def test_full_ring_loses_spans_and_counts_each(watch: Callable[..., Watch], nginx: Running) -> None:
    watching = watch("--port", str(nginx.port), "--set", "ebpf.ring_bytes=4096")
    senders.wrk(nginx, "/hello", 2, CONNECTIONS)
    requests = sum(taken_by(nginx))
    ledger = watching.ledger()
    exported, sampled_out, lost, seen = watching.account
    assert sum(ledger.counted(nginx.pid, SERVER).values()) == seen == requests
    assert lost > 0
    assert sampled_out == 0
    assert exported + lost == seen
    assert exported == len(ledger.spans)
    assert ledger.own("stingless.exchanges.seen", "nginx") == requests
    assert ledger.own("stingless.exchanges.lost", "nginx") == lost


def test_busy_services_that_are_not_selected_are_left_alone_from_the_start(
    watch: Callable[..., Watch], nginx: Running
) -> None:
    """They are decided on before the probes are attached: none of their exchanges takes a place in the ring."""
    command = [program("wrk"), "-t1", f"-c{CONNECTIONS}", "-d120", nginx.url("/hello")]
    with subprocess.Popen(command, env=clean_environment(), stdout=subprocess.DEVNULL) as wrk:
        try:
            before, _ = taken(nginx)
            until(lambda: taken(nginx)[0] > before + 100, "there is load")
            watching = watch("--port", str(free_port()))
            before, _ = taken(nginx)
            until(lambda: taken(nginx)[0] > before + 100, "there is load after the start")
            ledger = watching.ledger()
        finally:
            wrk.kill()
    assert ledger.spans == []
    assert not [line for line in watching.agent.stderr if "not selected" in line], watching.agent.said()
    assert ledger.own("stingless.exchanges.seen", "") == 0
