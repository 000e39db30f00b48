# SPDX-License-Identifier: Apache-2.0
"""Real programs over TLS, HTTP/2, gRPC and WebSocket, each against all that speak the same: each row says what is seen.

A row is a program, one protocol, one side. What is seen is exact, in spans and in metrics; or nothing at all, and the
agent says why. What ran becomes docs/support-matrix.md (truth/matrix.py).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from truth import matrix, senders
from truth.callers import Caller
from truth.conftest import Watch
from truth.launch import Running
from truth.ledger import CLIENT, SERVER, Count, Ledger, Seen, by_call, by_span, truth
from truth.matrix import CALLERS, Row
from truth.senders import Ask, Sender, Sent

pytestmark = [pytest.mark.kernel, pytest.mark.matrix, pytest.mark.vm_truth]

TIMES = 3


def _routes(services: Sequence[Running], caller: Caller) -> list[Ask]:
    """One service after the other, so that connections are kept."""
    return [ask for one in services for ask in senders.every_route([one], caller.without, TIMES)]


ASKS: dict[str, Callable[[Sequence[Running], Caller], Sequence[Ask]]] = {
    "HTTP/1": _routes,
    "HTTP/2": _routes,
    "WebSocket": lambda services, _: senders.every_socket(services),
    "gRPC": lambda services, _: senders.every_call(services),
}
VERSIONS = {"HTTP/1": ("1.0", "1.1"), "HTTP/2": ("2",), "WebSocket": ("1.1",), "gRPC": ("2",)}
SERVERS = [row for row in matrix.rows() if row.side == "server"]
CLIENTS = [row for row in matrix.rows() if row.side == "client"]
NO_LOG = {("gnutls-serv", "GnuTLS"), ("nginx", "")}  # it writes none; it is told so, for load tests


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run left: by number of the row in its table, and what the agent said of the hidden."""

    services: Sequence[Running]
    senders: Sequence[Sender]
    views: dict[int, str]  # by pid
    ledger: Ledger
    account: tuple[int, int, int, int]
    attach: str

    def sent_to(self, row: Row) -> list[Sent]:
        """By clients of the row's protocol."""
        running = self.services[row.number]
        clients = [s for c, s in zip(CALLERS, self.senders, strict=True) if c.protocol == row.protocol]
        return [s for client in clients for s in client.sent if s.ask.service is running]

    def seen(self, row: Row) -> tuple[list[Seen], Count]:
        """Spans and counts of the row's program, over its protocol."""
        kind = SERVER if row.side == "server" else CLIENT
        spans: list[Seen] = []
        counted: Count = Count()
        for pid in self.pids(row):
            spans += [s for s in self.ledger.of(pid, kind) if spoken(s) == row.protocol or row.protocol == "WebSocket"]
            rpc = row.protocol == "gRPC"
            counted += self.ledger.called(pid, kind) if rpc else self.ledger.counted(pid, kind, VERSIONS[row.protocol])
        return spans, counted

    def pids(self, row: Row) -> tuple[int, ...]:
        if row.side == "server":
            return (self.services[row.number].pid,)
        sender = self.senders[row.number]
        return (sender.pid, *sender.also)

    def explain(self, row: Row, spans: Sequence[Seen]) -> None:
        """Prints, for a test that fails: whose requests have no span there, and what the agent lost."""
        found = {s.number for s in spans}
        unseen = Counter(
            f"{caller.label} over {caller.library or 'TCP'} to {s.ask.service.service.label}"
            for caller, sender in zip(CALLERS, self.senders, strict=True)
            for s in sender.sent
            if caller.protocol == row.protocol != "gRPC" and s.ask.number not in found  # a span of gRPC has no number
            if (s.ask.service is self.services[row.number] if row.side == "server" else caller is CALLERS[row.number])
        )
        kinds = Counter(
            (s.span.kind, spoken(s)) for s in self.ledger.spans if s.resource.get("process.pid") in self.pids(row)
        )
        print("unseen:", dict(unseen), "spans by kind and protocol:", dict(kinds), "lost:", self.ledger.lost, sep="\n")


def spoken(span: Seen) -> str:
    if "rpc.system" in span.attributes:
        return "gRPC"
    return "HTTP/2" if span.attributes["network.protocol.version"] == "2" else "HTTP/1"


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Outcome]:
    folder = tmp_path_factory.mktemp("programs")
    with ExitStack() as stack:

        def start(after: int) -> dict[int, Running]:
            chosen = list(enumerate(matrix.PROGRAMS))[after::2]
            return {n: stack.enter_context(Running(service, folder / str(n))) for n, service in chosen}

        running = start(0)
        for one in running.values():
            one.listening()
        watching = Watch("--log-level", "debug")
        stack.callback(watching.close)
        watching.agent.ready()
        running |= start(1)
        services = [running[n].listening() for n in range(len(matrix.PROGRAMS))]
        views: dict[int, str] = {}
        sent = [
            send(folder / f"client{n}", caller, services, views, watching.looked_at) for n, caller in enumerate(CALLERS)
        ]
        for service in services:
            if service.service.hidden:
                views[service.pid] = matrix.tls_view(service.pid)
        yield Outcome(services, sent, views, watching.ledger(), watching.account, watching.attach)


def send(
    folder: Path, caller: Caller, services: Sequence[Running], views: dict[int, str], looked_at: Callable[[int], None]
) -> Sender:
    folder.mkdir()
    asks = ASKS[caller.protocol]([r for r in services if caller.suits(r)], caller)
    assert asks, caller.label
    held = partial(look, views) if caller.hidden else None
    return caller.run(folder, asks, held, None if held else looked_at)


def look(views: dict[int, str], pid: int) -> None:
    views[pid] = matrix.tls_view(pid)


@pytest.mark.parametrize("row", CLIENTS, ids=str)
def test_client_got_what_the_routes_answer(outcome: Outcome, row: Row) -> None:
    sent = outcome.senders[row.number].sent
    assert [s for s in sent if s.status != s.ask.status] == []


@pytest.mark.parametrize("row", SERVERS, ids=str)
def test_server_logged_what_clients_say(outcome: Outcome, row: Row) -> None:
    """The truth itself: each request arrived once, over the protocol that the row is about."""
    running = outcome.services[row.number]
    sent = [s for s in outcome.sent_to(row) if not s.ask.path.endswith("/Nothing")]
    assert sent
    if (row.program, row.library) not in NO_LOG:
        said = re.findall(r'"(\w+) \S*[?&]n=(\d+) (?:HTTP/)?([12])', running.log.read_text())
        version = "1" if row.protocol in ("HTTP/1", "WebSocket") else "2"
        assert sorted((method, int(n)) for method, n, of in said if of == version) == sorted(
            (s.ask.method, s.ask.number) for s in sent
        )


@pytest.mark.parametrize("row", [*SERVERS, *CLIENTS], ids=str)
def test_row(outcome: Outcome, row: Row, record_row: Callable[[str, Row, str], None]) -> None:
    sent = outcome.sent_to(row) if row.side == "server" else outcome.senders[row.number].sent
    spans, counted = outcome.seen(row)
    if row.hidden:
        (view,) = (outcome.views[pid] for pid in outcome.pids(row))
        record_row(
            outcome.attach, row, f"{len(spans)} spans, {counted.total()} counted, where none was expected; said: {view}"
        )
        assert not spans
        assert not counted
        why = re.fullmatch(rf"no \((.*{row.hidden}.*)\)|yes \(.*\); not seen: (.*{row.hidden}.*)", view)
        assert why, view
        record_row(outcome.attach, row, f"not visible: {why[1] or why[2]}")
        return
    if row.side == "client" and CALLERS[row.number].retries:
        spans, counted = without_retries(spans, counted)
    outcome.explain(row, spans)
    record_row(outcome.attach, row, f"{len(spans)} of {len(sent)} spans, {counted.total()} of {len(sent)} counted")
    counts = by_call(spans) if row.protocol == "gRPC" else by_span(spans)
    assert counts == truth(sent)
    assert counted == truth(sent)
    if row.protocol != "gRPC":
        assert sorted(s.number for s in spans) == sorted(s.ask.number for s in sent)
        assert {s.attributes["url.scheme"] for s in spans} == {"https" if row.library else "http"}
    known = {"1.2", "1.3"} if row.library else {None}
    assert {s.attributes.get("tls.protocol.version") for s in spans} <= known
    ports = {s.ask.service.port for s in sent}
    assert {s.attributes["server.port"] for s in spans} == ports
    record_row(outcome.attach, row, "exact")


def without_retries(spans: list[Seen], counted: Count) -> tuple[list[Seen], Count]:
    """Without requests that nobody answered and the client sent again: they were on the wire, and are seen as that."""
    again = [s for s in spans if "http.response.status_code" not in s.attributes]
    answered = [s for s in spans if "http.response.status_code" in s.attributes]
    assert {s.number for s in again} <= {s.number for s in answered}
    assert by_span(again) == Count({key: n for key, n in counted.items() if key[2] == 0})
    return answered, Count({key: n for key, n in counted.items() if key[2] != 0})


def test_account_closes(outcome: Outcome) -> None:
    """Also of what else runs on this machine, which is watched too."""
    exported, sampled_out, lost, seen = outcome.account
    assert exported + sampled_out + lost == seen
    assert exported == len(outcome.ledger.spans)
