# SPDX-License-Identifier: Apache-2.0
"""The whole agent on this machine's kernel, next to an unmodified service."""

from __future__ import annotations

import json
import signal
import socket
import threading
import urllib.request
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from running import READY, Agent, until

pytestmark = pytest.mark.kernel


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        body = b"hello"
        self.send_response(404 if self.path.startswith("/missing") else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None: ...


@pytest.fixture
def port() -> Iterator[int]:
    """Of an HTTP service in this very process."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield server.server_address[1]
    server.shutdown()
    server.server_close()
    thread.join()


def get(port: int, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def free_port() -> int:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        return int(held.getsockname()[1])


def bpf_programs() -> set[str]:
    """Descriptors of BPF programs that any process holds, by their ids: other agents may run."""
    ids = set()
    for info in Path("/proc").glob("[0-9]*/fdinfo/*"):
        try:
            text = info.read_text()
        except OSError:
            continue
        ids |= {line.split()[1] for line in text.splitlines() if line.startswith("prog_id:")}
    return ids


def test_requests_come_out_and_sigterm_ends_cleanly(stingless: Callable[..., Agent], port: int) -> None:
    agent = stingless("--console", "--port", str(port), "--service-name", "shop")
    for _ in range(3):
        assert get(port, "/items/42") == (200, "hello")
    assert get(port, "/missing")[0] == 404
    assert agent.stop() == 0
    lines = [json.loads(line) for line in agent.stdout]
    spans = [s for s in lines if s.get("kind") == "server" and s["service"] == "shop"]
    assert sorted(s["name"] for s in spans) == ["GET /items/*"] * 3 + ["GET /missing"]
    counts = {
        m["attributes"]["http.response.status_code"]: m["count"]
        for m in lines
        if m.get("metric") == "http.server.request.duration" and m["service"] == "shop"
    }
    assert counts == {200: 3, 404: 1}


def test_ready_line_and_health(stingless: Callable[..., Agent], port: int) -> None:
    endpoint = free_port()
    agent = stingless("--prometheus", f"127.0.0.1:{endpoint}", "--port", str(port))
    assert READY.match(agent.stderr[0])
    assert get(endpoint, "/healthz") == (200, "ok\n")
    assert get(endpoint, "/readyz") == (200, "ready\n")
    get(port, "/items/1")
    until(lambda: 'http_route="/items/*"' in get(endpoint, "/metrics")[1], "the request among the metrics")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_nothing_stays_in_the_kernel(stingless: Callable[..., Agent], port: int, number: signal.Signals) -> None:
    agent = stingless("--console", "--port", str(port))
    held = {
        line.split()[1]
        for info in Path(f"/proc/{agent.pid}/fdinfo").iterdir()
        for line in info.read_text().splitlines()
        if line.startswith("prog_id:")
    }
    assert held
    assert agent.stop(number) == (0 if number == signal.SIGTERM else -signal.SIGKILL)
    until(lambda: not held & bpf_programs(), "the kernel has let go of the probes")


def test_sd_notify(tmp_path: Path, stingless: Callable[..., Agent]) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(20)
        agent = stingless("--console", env={"NOTIFY_SOCKET": str(tmp_path / "notify")})
        assert manager.recv(64) == b"READY=1"
        agent.stop()
        assert manager.recv(64) == b"STOPPING=1"


def test_a_taken_port_is_one_line(stingless: Callable[..., Agent], port: int) -> None:
    agent = stingless("--prometheus", f"127.0.0.1:{port}", ready=False)
    agent.process.wait(30)
    assert agent.stop() == 2
    assert len(agent.stderr) == 1
    assert "address already in use" in agent.stderr[0]


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("/nonexistent/x", "stingless: cannot write the recording /nonexistent/x: No such file or directory; choose"),
        ("/dev/full", "stingless: the recording /dev/full cannot be continued: No space left on device; what is there"),
    ],
)
def test_a_recording_that_cannot_be_written_is_one_line(
    stingless: Callable[..., Agent], path: str, message: str
) -> None:
    agent = stingless(path, command="record", ready=False)
    agent.process.wait(30)
    assert agent.stop() == 1
    assert len(agent.stderr) == 1, agent.said()
    assert agent.stderr[0].startswith(message)


def test_a_pid_that_is_nobodys_is_said(stingless: Callable[..., Agent]) -> None:
    agent = stingless("--console", "--pid", "4194305")  # above the largest that Linux gives
    assert agent.stop() == 0
    assert "stingless: warning: --pid 4194305: there is no such process, so nothing is watched for it" in agent.stderr


def test_duration(stingless: Callable[..., Agent]) -> None:
    agent = stingless("--console", "--duration", "200ms")
    assert agent.process.wait(30) == 0
