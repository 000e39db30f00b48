# SPDX-License-Identifier: Apache-2.0
"""A ring of frames that overflows: lost records are counted, nothing wrong is said, and what follows is whole."""

from __future__ import annotations

import os
from collections import Counter
from contextlib import closing
from dataclasses import replace

import pytest

from instrumenter.bpf.abi import Direction, Loss, Verdict
from instrumenter.bpf.program import Program
from instrumenter.config import Settings
from instrumenter.sizes import Sizes, kernel_settings, make_histograms
from kernel.conftest import MAPS
from kernel.harness import Peer, Wire
from kernel.http2 import ACK, SETTINGS, START, Side

pytestmark = pytest.mark.kernel

ASKED = 60  # on one connection: far more than one page holds


def test_a_ring_that_overflows() -> None:
    maps = replace(MAPS, frames=4096)
    settings = Settings()
    record = kernel_settings(
        settings, make_histograms(settings), Sizes(maps, series=2000, series_per_service=1000), True, 0
    )
    record["default_verdict"] = Verdict.IGNORE
    with Peer() as peer, closing(Program.load(record, maps, os.environ.get("STINGLESS_ATTACH"))) as program:
        program.attach()
        with closing(program.source()) as source, closing(Wire(program, source, peer, record)) as wire:
            wire.begin()
            client, server = Side(), Side()
            talk = wire.talk().client(START).server(SETTINGS, ACK).client(ACK)
            for stream in range(1, 2 * ASKED, 2):
                talk.client(client.ask(stream, f"/n{stream}")).server(server.answer(stream, 204))
            again = wire.talk(name="-again").client(START).server(SETTINGS, ACK).client(ACK)
            other, answer = Side(), Side()
            again.client(other.ask(1, "/whole")).server(answer.answer(1, 201))
            wire.run(talk)
            found = wire.collect()
            assert wire.losses()[Loss.FRAMES_FULL] > 0
            last = 2 * ASKED + 1
            later = wire.talk(name="-later")
            later.c, later.s = talk.c, talk.s
            later.ops = []
            later.client(client.ask(last, "/later")).server(server.answer(last, 204)).close()
            wire.run(again.close(), later)
            found += wire.collect()
    rows = [each.row for each in found if each.direction == Direction.SERVER]
    assert 0 < len(rows) <= ASKED + 2
    targets = Counter(row.target for row in rows)
    assert targets["/whole"] == targets["/later"] == 1
    assert all(row.target in ("", "/whole", "/later") or row.target.startswith("/n") for row in rows)
    assert max(n for target, n in targets.items() if target) == 1
    assert {row.status for row in rows} <= {0, 201, 204}
