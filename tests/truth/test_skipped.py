# SPDX-License-Identifier: Apache-2.0
"""Libraries that tell nothing are counted by the agent, each once for a file, whoever maps it."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from contextlib import ExitStack

import pytest
from go_builds import STRIPPED, WORK, go

from instrumenter.binaries.go_offsets import build
from instrumenter.binaries.go_wanted import CHI
from truth.conftest import Watch

pytestmark = pytest.mark.kernel


def test_a_router_of_an_unknown_layout(watch: Callable[..., Watch]) -> None:
    program = build(go(), CHI, "v5.0.2", WORK, *STRIPPED)
    with ExitStack() as stack:
        for _ in range(2):
            stack.callback(stack.enter_context(subprocess.Popen([program])).kill)
        watching = watch("--exe", str(program))
        totals = watching.ledger().totals("stingless.libraries.skipped", "library", "reason")
    assert totals == {("chi", "unknown_layout"): 1}
