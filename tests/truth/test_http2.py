# SPDX-License-Identifier: Apache-2.0
"""HTTP/2 without TLS between real servers and clients: at any number of streams at once, every request is one span.

By prior knowledge (RFC 9113, 3.3), and by upgrade from HTTP/1.1 (RFC 7540, 3.2).
"""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest
from running import ROOT

from truth.conftest import Watch
from truth.launch import BIN, HERE, Running, Service, clean_environment, free_port, program
from truth.ledger import CLIENT, SERVER, Count, Ledger, by_span

pytestmark = pytest.mark.kernel

PEERS: Final = HERE / "peers"
GO: Final = str(ROOT / "build" / "peers" / "gopeer")
ITEMS: Final = 100  # of each client: /items/1 to /items/100
STREAMS: Final = (1, 2, 10, 100)  # of h2load, on each of two connections
LOAD: Final = 1000  # its requests at each
TIMEOUT_S: Final = 120
ITEM: Final = ("GET", "/items/*", 200)


def _nginx(port: int, folder: Path) -> list[str]:
    (folder / "files").mkdir(parents=True)
    (folder / "files" / "large").write_bytes(b"x" * 300_000)
    text = (HERE / "services" / "h2.conf").read_text()
    (folder / "h2.conf").write_text(text.replace("PORT", str(port)).replace("FOLDER", str(folder)))
    return [program("nginx"), "-p", str(folder), "-c", str(folder / "h2.conf")]


def _hypercorn(port: int, _: Path) -> list[str]:
    options = ["--workers", "0", "--bind", f"127.0.0.1:{port}", "--log-level", "error"]
    return [str(BIN / "hypercorn"), *options, f"{PEERS / 'h2app'}:app"]


SERVERS: Final[Mapping[str, Callable[[int, Path], list[str]]]] = {
    "nginx": _nginx,
    "hypercorn": _hypercorn,
    "node": lambda port, _: [program("node"), str(PEERS / "nodepeer" / "h2.js"), "server", str(port)],
    "go": lambda port, _: [GO, "h2c", str(port)],
}
CLIENTS: Final[Mapping[str, Callable[[str], list[str]]]] = {
    "httpx": lambda url: [sys.executable, str(PEERS / "pyhttpx.py"), url, str(ITEMS)],
    "node": lambda url: [program("node"), str(PEERS / "nodepeer" / "h2.js"), "client", url, str(ITEMS)],
    "go": lambda url: [GO, "h2c-client", url, str(ITEMS)],
    "nghttp": lambda url: [program("nghttp"), "-n", *(f"{url}/items/{i}" for i in range(1, ITEMS + 1))],
}  # fmt: skip


def h2load(url: str, streams: int) -> list[str]:
    counts = ["-n", str(LOAD), "-c", "2", "-m", str(streams)]
    return [program("h2load"), *counts, f"{url}/items/1", f"{url}/missing"]


@dataclass(frozen=True)
class Outcome:
    servers: Mapping[str, int]  # pids
    clients: Mapping[tuple[str, str], int]  # by client and server
    sent: Mapping[str, Count]  # by server
    ledger: Ledger


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Outcome]:
    subprocess.run([ROOT / "scripts" / "peers.sh"], check=True)
    folder = tmp_path_factory.mktemp("h2")
    sent: dict[str, Count] = {name: Counter() for name in SERVERS}
    clients: dict[tuple[str, str], int] = {}

    def run(client: str, server: str, command: list[str], expected: Count) -> None:
        asking = subprocess.Popen(command, env=clean_environment(), stdout=subprocess.DEVNULL)
        assert asking.wait(TIMEOUT_S) == 0, command
        clients[client, server] = asking.pid
        sent[server] += expected

    with ExitStack() as stack:
        # The clients are known by their names, the servers by their ports: no other process is anybody's business.
        ports = {name: free_port() for name in SERVERS}
        wanted = ("*/curl", "*/nghttp", "*/h2load", "*/gopeer", "*/node", "*/python*")
        flags = [flag for exe in wanted for flag in ("--exe", exe)]
        watching = Watch("--port", ",".join(map(str, ports.values())), *flags)
        stack.callback(watching.close)
        watching.agent.ready()
        running = {
            name: stack.enter_context(Running(Service(name, name, command, {}), folder / name, ports[name])).listening()
            for name, command in SERVERS.items()
        }
        for server in SERVERS:
            for client, command in CLIENTS.items():
                run(client, server, command(running[server].url("")), Counter({ITEM: ITEMS}))
            for streams in STREAMS:
                expected = Counter({ITEM: LOAD // 2, ("GET", "/missing", 404): LOAD // 2})
                run(f"h2load {streams}", server, h2load(running[server].url(""), streams), expected)
        large = running["nginx"].url("/files/large")
        run("large", "nginx", [program("curl"), "-sS", "--http2-prior-knowledge", "-o", "/dev/null", large],
            Counter({("GET", "/files/large", 200): 1}))  # fmt: skip
        url = running["hypercorn"].url("/upgraded")
        run("upgrade", "hypercorn", [program("curl"), "-sS", "--http2", "-o", "/dev/null", url],
            Counter({("GET", "/upgraded", 200): 1}))  # fmt: skip
        yield Outcome({name: r.pid for name, r in running.items()}, clients, sent, watching.ledger())


@pytest.mark.parametrize("server", list(SERVERS))
def test_a_server_has_every_request(outcome: Outcome, server: str) -> None:
    pid = outcome.servers[server]
    spans = outcome.ledger.of(pid, SERVER)
    assert by_span(spans) == outcome.ledger.counted(pid, SERVER) == outcome.sent[server]
    assert {s.attributes["network.protocol.version"] for s in spans} == {"2"}


@pytest.mark.parametrize("server", list(SERVERS))
@pytest.mark.parametrize("client", list(CLIENTS))
def test_a_client_has_every_request(outcome: Outcome, client: str, server: str) -> None:
    pid = outcome.clients[client, server]
    spans = outcome.ledger.of(pid, CLIENT)
    numbers = Counter(int(s.attributes["url.full"].rpartition("/")[2]) for s in spans)
    assert numbers == Counter(range(1, ITEMS + 1))
    assert outcome.ledger.counted(pid, CLIENT) == Counter({ITEM: ITEMS})


@pytest.mark.parametrize("server", list(SERVERS))
@pytest.mark.parametrize("streams", STREAMS)
def test_h2load_has_every_request(outcome: Outcome, streams: int, server: str) -> None:
    pid = outcome.clients[f"h2load {streams}", server]
    spans = outcome.ledger.of(pid, CLIENT)
    expected = Counter({ITEM: LOAD // 2, ("GET", "/missing", 404): LOAD // 2})
    assert by_span(spans) == outcome.ledger.counted(pid, CLIENT) == expected


def test_bodies_by_their_sizes(outcome: Outcome) -> None:
    """Through flow control, in frames of any size, by sendfile."""
    pid = outcome.servers["nginx"]
    large = [s for s in outcome.ledger.of(pid, SERVER) if s.attributes["url.path"] == "/files/large"]
    assert [s.attributes["http.response.body.size"] for s in large] == [300_000]


def test_an_upgrade_is_one_request(outcome: Outcome) -> None:
    """On both sides it is HTTP/2's, with the status that its stream was answered with, not 101."""
    server, client = outcome.servers["hypercorn"], outcome.clients["upgrade", "hypercorn"]
    served = [s for s in outcome.ledger.of(server, SERVER) if s.attributes["url.path"] == "/upgraded"]
    wanted = ("http.response.status_code", "network.protocol.version", "http.response.body.size")
    for spans in (served, outcome.ledger.of(client, CLIENT)):
        assert [tuple(s.attributes[name] for name in wanted) for s in spans] == [(200, "2", 9)]


def test_a_server_is_within_its_client(outcome: Outcome) -> None:
    """A pair's spans have the same path."""
    for server in SERVERS:
        asked = outcome.ledger.of(outcome.clients["nghttp", server], CLIENT)
        port = asked[0].attributes["network.peer.port"]
        served = {
            s.attributes["url.path"]: s
            for s in outcome.ledger.of(outcome.servers[server], SERVER)
            if s.attributes.get("user_agent.original", "").startswith("nghttp2/")
            and s.attributes["server.port"] == port
        }
        assert len(served) == ITEMS
        for span in asked:
            other = served["/" + span.attributes["url.full"].split("/", 3)[3]]
            assert span.start <= other.start
            assert other.end <= span.end + 1_000_000
