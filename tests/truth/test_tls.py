# SPDX-License-Identifier: Apache-2.0
"""Services and clients over TLS: spans and metrics equal what was sent, as without it.

Half of the services run before the agent, half start after it; clients are new processes each.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import pytest

from truth import senders
from truth.conftest import Watch
from truth.launch import Running, Service
from truth.ledger import CLIENT, SERVER, Ledger, by_span, truth
from truth.senders import Sender
from truth.tls_services import SERVICES

pytestmark = pytest.mark.kernel

CLIENTS = {
    "curl": senders.curl,
    "requests session": senders.requests_session,
    "requests oneshot": senders.requests_oneshot,
    "aiohttp": senders.aiohttp_client,
    "node": senders.node_client,
}


@dataclass(frozen=True, slots=True)
class Outcome:
    services: dict[str, Running]
    clients: dict[str, Sender]
    ledger: Ledger


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Outcome]:
    folder = tmp_path_factory.mktemp("services")
    with ExitStack() as stack:
        before = [stack.enter_context(Running(s, folder / s.name)).listening() for s in SERVICES[::2]]
        watching = Watch("--log-level", "debug")
        stack.callback(watching.close)
        watching.agent.ready()
        after = [stack.enter_context(Running(s, folder / s.name)).listening() for s in SERVICES[1::2]]
        services = before + after
        clients = {name: send(folder, senders.every_route(services)) for name, send in CLIENTS.items()}
        yield Outcome({r.service.label: r for r in services}, clients, watching.ledger())


def test_clients_got_what_the_routes_answer(outcome: Outcome) -> None:
    wrong = [s for client in outcome.clients.values() for s in client.sent if s.status != s.ask.status]
    assert wrong == []


def test_nothing_was_lost(outcome: Outcome) -> None:
    assert outcome.ledger.totals("stingless.exchanges.lost", "stingless.service", "reason") == {}


@pytest.mark.parametrize("service", SERVICES, ids=lambda s: s.label)
def test_server_spans_and_metrics_are_the_requests(outcome: Outcome, service: Service) -> None:
    running = outcome.services[service.label]
    sent = [s for client in outcome.clients.values() for s in client.sent if s.ask.service is running]
    spans = outcome.ledger.of(running.pid, SERVER)
    assert by_span(spans) == outcome.ledger.counted(running.pid, SERVER) == truth(sent)
    assert sorted(s.number for s in spans) == sorted(s.ask.number for s in sent)
    assert {s.attributes["url.scheme"] for s in spans} == {"https"}
    assert {s.attributes["server.port"] for s in spans} == {running.port}


@pytest.mark.parametrize("label", CLIENTS)
def test_client_spans_and_metrics_are_the_requests(outcome: Outcome, label: str) -> None:
    client = outcome.clients[label]
    spans = outcome.ledger.of(client.pid, CLIENT)
    assert by_span(spans) == outcome.ledger.counted(client.pid, CLIENT) == truth(client.sent)
    assert sorted(s.number for s in spans) == sorted(s.ask.number for s in client.sent)
    assert all(s.attributes["url.full"].startswith("https://") for s in spans)
