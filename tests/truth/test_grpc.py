# SPDX-License-Identifier: Apache-2.0
"""gRPC between C++ (grpcio), Go and Node, each as server of each other: every call is one span on both sides, exactly.

A round is: One (unary), Down, Up and Both (streams of the server, the client, both), One that answers NOT_FOUND and a
method that there is not; after the rounds a hundred calls of One at once on one connection.
"""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest
from running import ROOT

from truth.conftest import Watch
from truth.launch import HERE, Running, Service, clean_environment, program
from truth.ledger import CLIENT, SERVER, Ledger, Seen

pytestmark = pytest.mark.kernel

PEERS: Final = ROOT / "build" / "peers"
ROUNDS: Final = 5
AT_ONCE: Final = 100
OK, NOT_FOUND, UNIMPLEMENTED = 0, 5, 12
CALLS: Final = Counter({
    ("One", OK): ROUNDS + AT_ONCE, ("Down", OK): ROUNDS, ("Up", OK): ROUNDS, ("Both", OK): ROUNDS,
    ("One", NOT_FOUND): ROUNDS, ("Nothing", UNIMPLEMENTED): ROUNDS,
})  # fmt: skip
MESSAGES: Final = {"One": (1, 1), "Down": (1, 5), "Up": (3, 1), "Both": (4, 4)}
TIMEOUT_S: Final = 120


def command(peer: str, *arguments: object) -> list[str]:
    folder = HERE / "peers"
    start = {
        "python": [sys.executable, str(folder / "pygrpc.py")],
        "go": [str(PEERS / "gopeer")],
        "node": [program("node"), str(PEERS / "node" / "peer.js")],
    }[peer]
    return [*start, *map(str, arguments)]


PEER_NAMES: Final = ("python", "go", "node")


@dataclass(frozen=True)
class Outcome:
    servers: Mapping[str, int]  # pids
    clients: Mapping[tuple[str, str], int]  # by client and server
    ledger: Ledger


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Outcome]:
    subprocess.run([ROOT / "scripts" / "peers.sh"], check=True)
    (PEERS / "node" / "peer.js").write_text((HERE / "peers" / "nodepeer" / "peer.js").read_text())
    folder: Path = tmp_path_factory.mktemp("grpc")
    with ExitStack() as stack:
        watching = Watch("--exe", "*/python*", "--exe", "*/gopeer", "--exe", "*/node")
        stack.callback(watching.close)
        watching.agent.ready()
        servers, clients = {}, {}
        for name in PEER_NAMES:
            service = Service(name, name, lambda port, _, name=name: command(name, "server", port), {})  # type: ignore[misc]
            servers[name] = stack.enter_context(Running(service, folder / name)).listening()
        for name in PEER_NAMES:
            for server in PEER_NAMES:
                asking = subprocess.Popen(
                    command(name, "client", servers[server].port, ROUNDS), env=clean_environment()
                )
                clients[name, server] = asking.pid
                assert asking.wait(TIMEOUT_S) == 0
        yield Outcome({name: running.pid for name, running in servers.items()}, clients, watching.ledger())


def calls(spans: list[Seen]) -> Counter[tuple[str, int]]:
    return Counter((s.attributes["rpc.method"], s.attributes["rpc.grpc.status_code"]) for s in spans)


def counted(outcome: Outcome, pid: int, side: str) -> Counter[tuple[str, int]]:
    by = ("process.pid", "rpc.method", "rpc.grpc.status_code")
    totals = outcome.ledger.totals(f"rpc.{side}.duration", *by)
    return Counter({(method, code): int(n) for (owner, method, code), n in totals.items() if owner == pid})


@pytest.mark.parametrize("name", PEER_NAMES)
def test_a_server_has_every_call(outcome: Outcome, name: str) -> None:
    pid = outcome.servers[name]
    expected = Counter({call: n * len(PEER_NAMES) for call, n in CALLS.items()})
    assert calls(outcome.ledger.of(pid, SERVER)) == expected
    assert counted(outcome, pid, "server") == expected


@pytest.mark.parametrize("server", PEER_NAMES)
@pytest.mark.parametrize("client", PEER_NAMES)
def test_a_client_has_every_call(outcome: Outcome, client: str, server: str) -> None:
    pid = outcome.clients[client, server]
    assert calls(outcome.ledger.of(pid, CLIENT)) == CALLS
    assert counted(outcome, pid, "client") == CALLS


def every_span(outcome: Outcome) -> Iterator[Seen]:
    pids = {*outcome.servers.values(), *outcome.clients.values()}
    yield from (s for s in outcome.ledger.spans if s.resource.get("process.pid") in pids)


def test_attributes_are_the_conventions(outcome: Outcome) -> None:
    error = 2
    for seen in every_span(outcome):
        said = seen.attributes
        assert seen.span.name == f"shop.v1.Basket/{said['rpc.method']}"
        assert (said["rpc.system"], said["rpc.service"]) == ("grpc", "shop.v1.Basket")
        assert said["server.address"] == "127.0.0.1"
        failed = said["rpc.grpc.status_code"] in (UNIMPLEMENTED, *([NOT_FOUND] if seen.span.kind == CLIENT else []))
        assert (seen.span.status.code == error) == failed == ("error.type" in said), said
        assert not {key for key in said if key.startswith(("http.", "url."))}


def test_messages_are_counted_each_way(outcome: Outcome) -> None:
    wrong: list[dict[str, Any]] = []
    for seen in every_span(outcome):
        said = seen.attributes
        found = said.get("stingless.rpc.request.messages"), said.get("stingless.rpc.response.messages")
        if said["rpc.grpc.status_code"] == OK and found != MESSAGES[said["rpc.method"]]:
            wrong.append(said)
    assert wrong == []
