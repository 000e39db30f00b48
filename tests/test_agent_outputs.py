# SPDX-License-Identifier: Apache-2.0
"""The whole agent with every set of exporters: the account closes, a receiver may come and go."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from collector import Collector
from running import Agent, until
from test_agent import free_port, get

pytestmark = pytest.mark.kernel
N = 40


SERVICE = """
from http.server import ThreadingHTTPServer
from test_agent import Handler
server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
print(server.server_address[1], flush=True)
server.serve_forever()
"""


@pytest.fixture
def service() -> Iterator[int]:
    """Port of an HTTP service in a process of its own: the receiver in this one is not to be watched."""
    command = [sys.executable, "-c", SERVICE]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parent) as process:
        assert process.stdout is not None
        yield int(process.stdout.readline())
        process.kill()


def ask(port: int, times: int = N) -> None:
    for i in range(times):
        get(port, f"/items/{i}" if i % 4 else "/missing")


def openmetrics(endpoint: int) -> str:
    request = urllib.request.Request(
        f"http://127.0.0.1:{endpoint}/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0"}
    )
    with urllib.request.urlopen(request, timeout=10) as response:
        return str(response.read().decode())


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (("--console",), f"console: {N} exported, 0 sampled out, 0 lost of {N}"),
        (("--console", "--sampler", "always_off"), f"console: 0 exported, {N} sampled out, 0 lost of {N}"),
        (("--console", "--no-metrics"), f"console: {N} exported, 0 sampled out, 0 lost of {N}"),
        (("--console", "--no-traces"), f"{N} counted, none exported (no exporter of spans), 0 lost of {N}"),
        (("--prometheus", "127.0.0.1:0"), f"{N} counted, none exported (no exporter of spans), 0 lost of {N}"),
        ((), f"{N} counted, none exported (no exporter of spans), 0 lost of {N}"),
    ],
    ids=["console", "sampled out", "traces only", "metrics only", "prometheus only", "live only"],
)
def test_the_account_closes(
    stingless: Callable[..., Agent], service: int, flags: tuple[str, ...], expected: str
) -> None:
    agent = stingless("--port", str(service), *flags)
    ask(service)
    assert agent.stop() == 0
    said = "\n".join(agent.stderr)
    assert expected in said
    assert "does not close" not in said


def test_the_account_closes_at_two_exporters(
    stingless: Callable[..., Agent], service: int, collector: Collector
) -> None:
    agent = stingless("--port", str(service), "--console", "--otlp", collector.http_url)
    ask(service)
    assert agent.stop() == 0
    assert collector.span_count == N
    line = f"{N} exported, 0 sampled out, 0 lost of {N}"
    assert f"console: {line}; otlp: {line}" in "\n".join(agent.stderr)


@pytest.mark.parametrize(("filter_", "there"), [("trace_based", True), ("always_on", True), ("always_off", False)])
def test_exemplars(
    stingless: Callable[..., Agent], service: int, collector: Collector, filter_: str, there: bool
) -> None:
    """In OTLP as in OpenMetrics, of traces that were exported."""
    endpoint = free_port()
    flags = ("--port", str(service), "--otlp", collector.http_url, "--prometheus", f"127.0.0.1:{endpoint}")
    agent = stingless(*flags, env={"OTEL_METRICS_EXEMPLAR_FILTER": filter_})
    ask(service)
    until(lambda: f" {N - N // 4}.0\n" in openmetrics(endpoint), "the exchanges are counted")
    shown = set(re.findall(r'# \{.*trace_id="(\w+)"', openmetrics(endpoint)))
    assert agent.stop() == 0
    points = collector.points("http.server.request.duration")
    sent = {exemplar.trace_id.hex() for _, _, point in points for exemplar in point.exemplars}
    assert points
    traces = {span.trace_id.hex() for span in collector.spans()}
    assert bool(shown) == bool(sent) == there
    assert shown | sent <= traces


@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
def test_a_receiver_that_restarts_loses_nothing(stingless: Callable[..., Agent], service: int, protocol: str) -> None:
    ports = {"grpc": free_port(), "http/protobuf": free_port()}
    url = f"http://127.0.0.1:{ports[protocol]}"
    # Nobody is there at the start either.
    endpoint = free_port()
    flags = ("--otlp", url, "--otlp-protocol", protocol, "--prometheus", f"127.0.0.1:{endpoint}")
    agent = stingless("--port", str(service), *flags)

    def exported() -> float:
        """What the agent has been told of; the receiver itself knows earlier."""
        lines = get(endpoint, "/metrics")[1].splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith("stingless_spans_exported_"))

    def told() -> int:
        return sum("traces: cannot deliver" in line for line in agent.stderr)

    got = 0
    for i in (1, 2):
        ask(service)
        until(lambda lines=i: told() == lines, "the receiver is missed")  # type: ignore[misc]
        with Collector(ports["grpc"], ports["http/protobuf"]) as collector:
            ask(service)
            until(lambda wanted=2 * N * i: exported() >= wanted, "all spans are delivered", 40.0)  # type: ignore[misc]
            got += collector.span_count
    assert agent.stop() == 0
    assert got == 4 * N
    said = "\n".join(agent.stderr)
    assert f"otlp: {4 * N} exported, 0 sampled out, 0 lost of {4 * N}" in said
    assert "Traceback" not in said
    assert told() == 2  # one line for each time it was away


def test_without_terminal_and_exporter_a_plain_table_and_ctrl_c(stingless: Callable[..., Agent], service: int) -> None:
    agent = stingless("--port", str(service), "--service-name", "shop")
    ask(service)
    until(lambda: any("GET /items/*" in line and "shop" in line for line in agent.stdout), "the table")
    assert agent.stop(signal.SIGINT) == 0
    assert not any("\x1b" in line for line in agent.stdout)
    assert "Traceback" not in "\n".join(agent.stderr)
    assert "attach=" in agent.stdout[-1]
