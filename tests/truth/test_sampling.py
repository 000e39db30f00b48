# SPDX-License-Identifier: Apache-2.0
"""Samplers: metrics count every request whatever is sampled, and every missing span is counted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from truth import senders
from truth.conftest import Watch
from truth.launch import Running
from truth.ledger import SERVER, Ledger, by_span, truth
from truth.senders import Ask, Sender

pytestmark = pytest.mark.kernel

N = 1000
FLAGS = {  # flags of the agent -> how many of N successes' and of N / 10 failures' spans come out, from and to
    "traceidratio": (["--sampler", "traceidratio", "--sampler-arg", "0.1"], (50, 160), (0, 35)),
    "always_off": (["--sampler", "always_off"], (0, 0), (0, 0)),
    "keep-errors": (["--sampler", "always_off", "--keep-errors"], (0, 0), (N // 10, N // 10)),
    "always_on": (["--sampler", "always_on"], (N, N), (N // 10, N // 10)),
}


def send(folder: Path, asks: Sequence[Ask]) -> Sender:
    return senders.aiohttp_client(folder, asks, 16)


def balanced(watching: Watch, ledger: Ledger, sent: int) -> None:
    """seen = exported + sampled out + lost, by the closing line, by the receiver and by the agent's own metrics."""
    exported, sampled_out, lost, seen = watching.account
    assert (seen, lost) == (sent, 0)
    assert exported + sampled_out == seen
    assert exported == len(ledger.spans)
    assert ledger.own("stingless.exchanges.seen", "nginx") == sent
    assert ledger.own("stingless.exchanges.sampled_out", "nginx") == sampled_out
    under_way = ("stingless.spans.exported", "stingless.spans.in_flight")  # when the metrics were read
    by_agent = sum(watching.collector.metric_totals(name).get((), 0) for name in under_way)
    assert by_agent == exported


@pytest.mark.parametrize("name", FLAGS)
def test_sampler(watch: Callable[..., Watch], nginx: Running, tmp_path: Path, name: str) -> None:
    flags, good, bad = FLAGS[name]
    watching = watch("--port", str(nginx.port), *flags)
    asks = [senders.ask(nginx, "/hello", 200) for _ in range(N)]
    asks += [senders.ask(nginx, "/boom", 500) for _ in range(N // 10)]
    sent = send(tmp_path, asks).sent
    ledger = watching.ledger()
    assert (
        ledger.counted(nginx.pid, SERVER) == truth(sent) == {("GET", "/hello", 200): N, ("GET", "/boom", 500): N // 10}
    )
    spans = by_span(ledger.of(nginx.pid, SERVER))
    assert good[0] <= spans["GET", "/hello", 200] <= good[1]
    assert bad[0] <= spans["GET", "/boom", 500] <= bad[1]
    balanced(watching, ledger, len(asks))


def test_parents_decision_is_followed(watch: Callable[..., Watch], nginx: Running, tmp_path: Path) -> None:
    """Of requests with a traceparent the flag decides; of the others parentbased_always_off takes none."""
    watching = watch("--port", str(nginx.port), "--sampler", "parentbased_always_off")
    asks = [senders.ask(nginx, "/hello", 200) for _ in range(30)]
    for number in range(1, 91):
        parent = f"00-{number:032x}-{number:016x}-{number % 3 == 0:02x}"
        asks.append(senders.ask(nginx, "/hello", 200, headers={"traceparent": parent}))
    send(tmp_path, asks)
    ledger = watching.ledger()
    spans = ledger.of(nginx.pid, SERVER)
    wanted = sorted((number.to_bytes(16), number.to_bytes(8)) for number in range(3, 91, 3))
    assert sorted((s.span.trace_id, s.span.parent_span_id) for s in spans) == wanted
    assert ledger.counted(nginx.pid, SERVER) == {("GET", "/hello", 200): 120}
    balanced(watching, ledger, len(asks))
