# SPDX-License-Identifier: Apache-2.0
"""grpc-go over TLS with itself: unary calls and streams, eight at once on a connection, each exactly on both sides."""

from __future__ import annotations

import json
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pytest

from truth.certificates import certificate, trust
from truth.conftest import Watch
from truth.launch import Running, Service, built, clean_environment
from truth.ledger import CLIENT, SERVER, Seen

pytestmark = pytest.mark.kernel

# method -> (gRPC status, messages that the client sends, that it gets)
METHODS: Final = {
    "Unary": (0, 1, 1), "Missing": (5, 1, 0), "Boom": (13, 1, 0),
    "Echo": (0, 4, 4), "Many": (0, 1, 5), "Gather": (0, 6, 1),
}  # fmt: skip
ROUNDS: Final = 60
CALLS: Final = Counter({(method, code): ROUNDS for method, (code, _, _) in METHODS.items()})
TIMEOUT_S: Final = 120


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Running]:
    made = certificate()
    command = lambda port, _: [built("gogrpc"), "serve", str(port), *made.pair]  # noqa: E731
    with Running(Service("grpc-go", "gogrpc", command, library="Go crypto/tls"), tmp_path / "server") as running:
        yield running.listening()


def plan(folder: Path, port: int) -> Path:
    rows = [(method, sent) for _ in range(ROUNDS) for method, (_, sent, _) in METHODS.items()]
    path = folder / "plan"
    lines = [json.dumps([number, f"127.0.0.1:{port}", method, sent]) for number, (method, sent) in enumerate(rows)]
    path.write_text("\n".join(lines) + "\n")
    return path


def calls(spans: list[Seen]) -> Counter[tuple[str, int]]:
    return Counter((s.attributes["rpc.method"], s.attributes["rpc.grpc.status_code"]) for s in spans)


def test_every_call(watch: Callable[..., Watch], server: Running, tmp_path: Path) -> None:
    watching = watch("--exe", "*/gogrpc")
    command = [built("gogrpc"), "call", str(plan(tmp_path, server.port)), "tls"]
    with subprocess.Popen(command, env=clean_environment() | trust(), stdout=subprocess.PIPE, text=True) as client:
        said, _ = client.communicate(timeout=TIMEOUT_S)
    assert Counter(json.loads(line)[1] for line in said.splitlines()) == Counter(
        code for (_, code), n in CALLS.items() for _ in range(n)
    )
    ledger = watching.ledger()
    for pid, kind, side in ((server.pid, SERVER, "server"), (client.pid, CLIENT, "client")):
        spans = ledger.of(pid, kind)
        assert calls(spans) == CALLS
        totals = ledger.totals(f"rpc.{side}.duration", "process.pid", "rpc.method", "rpc.grpc.status_code")
        assert {(method, code): n for (owner, method, code), n in totals.items() if owner == pid} == CALLS
        wrong = [s.attributes for s in spans if messages(s) != METHODS[str(s.attributes["rpc.method"])][1:]]
        assert wrong == []


def messages(seen: Seen) -> tuple[object, object]:
    said = seen.attributes
    return said.get("stingless.rpc.request.messages"), said.get("stingless.rpc.response.messages")
