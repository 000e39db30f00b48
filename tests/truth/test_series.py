# SPDX-License-Identifier: Apache-2.0
"""A fuzzer of URLs that no template fits: series stay as many as configured, and the rest is counted under `_OTHER`."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import pytest

from truth import senders
from truth.conftest import Watch
from truth.launch import Running
from truth.ledger import SERVER, by_span, truth
from truth.senders import Sent

pytestmark = pytest.mark.kernel

SERIES = 100
PATHS = 5000


def fuzz(nginx: Running, folder: Path) -> tuple[Sent, ...]:
    """One request of each of PATHS paths."""
    words = ("".join(letters) for letters in itertools.product("ghijklmnop", repeat=4))
    asks = [senders.ask(nginx, f"/some/{word}", 200) for word in itertools.islice(words, PATHS)]
    return senders.aiohttp_client(folder, asks, 16).sent


def test_series_of_a_service_are_bounded(watch: Callable[..., Watch], nginx: Running, tmp_path: Path) -> None:
    watching = watch("--port", str(nginx.port), "--set", f"ebpf.series_per_service={SERIES}")
    sent = fuzz(nginx, tmp_path)
    ledger = watching.ledger()
    counted = ledger.counted(nginx.pid, SERVER)
    other = counted.pop(("GET", "_OTHER", 200))
    assert len(counted) == SERIES
    assert counted <= truth(sent)
    assert sum(counted.values()) + other == PATHS
    assert ledger.own("stingless.exchanges.lost", "nginx") == other  # reason series_folded, which loses nothing
    spans = by_span(ledger.of(nginx.pid, SERVER))
    assert spans.pop(("GET", "", 200)) == other  # a span that is counted under `_OTHER` has no route
    assert spans == counted
    assert watching.account == (PATHS, 0, 0, PATHS)


def test_many_new_series_at_once_are_all_counted(watch: Callable[..., Watch], nginx: Running, tmp_path: Path) -> None:
    """Also when the kernel has no per-CPU memory at hand as fast as they come."""
    watching = watch("--port", str(nginx.port), "--set", f"ebpf.series_per_service={2 * PATHS}")
    sent = fuzz(nginx, tmp_path)
    ledger = watching.ledger()
    assert ledger.counted(nginx.pid, SERVER) == truth(sent)
    assert ledger.own("stingless.exchanges.lost", "nginx") == 0
