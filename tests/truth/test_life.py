# SPDX-License-Identifier: Apache-2.0
"""Beginnings and ends: of services, of clients that live a moment, of connections, of the agent."""

from __future__ import annotations

import json
import os
import re
import select
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from running import until

from truth import senders
from truth.conftest import Watch
from truth.launch import HERE, IN_VM, SERVICES, Running, program
from truth.ledger import CLIENT, SERVER, by_span

pytestmark = pytest.mark.kernel

HTTP_SERVER = SERVICES[1]
GET = b"GET /%b?n=1 HTTP/1.1\r\nHost: me\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


@pytest.mark.vm_truth
def test_first_request_of_a_new_service_is_never_missed(watch: Callable[..., Watch], tmp_path: Path) -> None:
    """The very first connection that is accepted carries it."""
    watching = watch()
    pids = []
    with ExitStack() as stack:
        for number in range(2 if IN_VM else 10):
            running = stack.enter_context(Running(HTTP_SERVER, tmp_path / str(number)))
            pids.append(running.pid)
            with first_connection(running) as connection:
                connection.sendall(GET % b"hello")
                assert connection.recv(12) == b"HTTP/1.0 200"
                while connection.recv(65536):
                    pass
    ledger = watching.ledger()
    for pid in pids:
        expected = {("GET", "/hello", 200): 1}
        assert by_span(ledger.of(pid, SERVER)) == ledger.counted(pid, SERVER) == expected
        assert ledger.names(pid) == {"http.server"}


def first_connection(running: Running) -> socket.socket:
    connections: list[socket.socket] = []

    def connect() -> bool:
        assert running.process.poll() is None, running.log.read_text()
        try:
            connections.append(socket.create_connection(("127.0.0.1", running.port), 60))
        except ConnectionRefusedError:
            return False
        return True

    until(connect, "the port accepts", 60, every_s=0.001)
    return connections[0]


def test_program_that_lives_a_moment(watch: Callable[..., Watch], nginx: Running) -> None:
    watching = watch()
    pid, output = senders.run([sys.executable, str(HERE / "clients" / "blink.py"), str(nginx.port), "/hello?n=1"])
    assert output == "200\n"
    ledger = watching.ledger()
    assert by_span(ledger.of(pid, CLIENT)) == ledger.counted(pid, CLIENT) == {("GET", "/hello", 200): 1}
    assert ledger.names(pid) == {"blink"}


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Both ends of a connection, client's first, in this very process."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname(), 20)
        server, _ = listener.accept()
    with client, server:
        server.settimeout(20)
        yield client, server


def reset(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def over(connection: socket.socket) -> None:
    """Waits for the other end's reset or end, reading nothing."""
    poll = select.poll()
    poll.register(connection, select.POLLRDHUP | select.POLLHUP)
    assert poll.poll(20_000)


@pytest.mark.vm_truth
def test_what_is_read_after_the_connection_is_over_counts(
    watch: Callable[..., Watch], pair: tuple[socket.socket, socket.socket]
) -> None:
    """A response that came before the reset, and is read after it, is a response."""
    client, server = pair
    watching = watch("--pid", str(os.getpid()))
    client.sendall(GET % b"answered")
    assert server.recv(4096)
    server.sendall(OK)
    reset(server)
    over(client)
    assert client.recv(4096) == OK
    client.close()
    ledger = watching.ledger()
    (span,) = [s for s in ledger.of(os.getpid(), CLIENT) if "answered" in s.attributes["url.full"]]
    assert span.attributes["http.response.status_code"] == 200
    assert "stingless.outcome" not in span.attributes
    assert ledger.counted(os.getpid(), CLIENT)["GET", "/answered", 200] == 1
    assert ledger.counted(os.getpid(), SERVER)["GET", "/answered", 200] == 1


def test_request_that_is_read_after_the_reset_is_an_exchange(
    watch: Callable[..., Watch], pair: tuple[socket.socket, socket.socket]
) -> None:
    """Nobody can be answered any more: it has no status, and is not lost."""
    client, server = pair
    watching = watch("--pid", str(os.getpid()))
    client.sendall(GET % b"gone")
    reset(client)
    over(server)
    assert server.recv(4096)
    with pytest.raises(OSError, match=r"reset|Broken"):
        server.sendall(OK)
    server.close()
    ledger = watching.ledger()
    assert ledger.counted(os.getpid(), SERVER)["GET", "/gone", 0] == 1
    (span,) = [s for s in ledger.of(os.getpid(), SERVER) if s.attributes["url.path"] == "/gone"]
    assert span.attributes["stingless.outcome"] == "connection_reset"


def test_answer_read_after_both_ends_are_closed(
    watch: Callable[..., Watch], pair: tuple[socket.socket, socket.socket]
) -> None:
    """A client that says it will send no more, as `nc -N`, and reads when all is over."""
    client, server = pair
    watching = watch("--pid", str(os.getpid()))
    client.sendall(GET % b"half")
    client.shutdown(socket.SHUT_WR)
    assert server.recv(4096)
    server.sendall(OK)
    server.close()
    over(client)
    assert client.recv(4096) == OK
    client.close()
    ledger = watching.ledger()
    assert ledger.counted(os.getpid(), CLIENT)["GET", "/half", 200] == 1
    assert ledger.counted(os.getpid(), SERVER)["GET", "/half", 200] == 1


def held_by(pid: int) -> set[int]:
    """Ids of the BPF programs that a process holds."""
    ids = set()
    for info in Path(f"/proc/{pid}/fdinfo").iterdir():
        if found := re.search(r"^prog_id:\s*(\d+)$", info.read_text(), re.M):
            ids.add(int(found[1]))
    return ids


def in_kernel(what: str) -> set[int]:
    """Ids of all BPF programs ("id") or of the programs of all links ("prog_id")."""
    command = [program("bpftool"), "--json", "link" if what == "prog_id" else "prog", "show"]
    shown = json.loads(subprocess.run(command, capture_output=True, check=True).stdout or "[]")
    return {entry[what] for entry in shown if what in entry}


@pytest.mark.vm_truth
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_nothing_stays_in_the_kernel(watch: Callable[..., Watch], number: signal.Signals) -> None:
    watching = watch()
    agent = watching.agent
    mine = held_by(agent.pid)
    assert len(mine) >= 6
    assert mine <= in_kernel("id")
    assert mine <= in_kernel("prog_id")
    assert agent.stop(number) == (0 if number == signal.SIGTERM else -number)
    until(lambda: not mine & (in_kernel("id") | in_kernel("prog_id")), "programs and links are gone", every_s=0.2)
