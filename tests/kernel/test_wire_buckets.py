# SPDX-License-Identifier: Apache-2.0
"""Histograms of the kernel: each value in its bucket, whatever came before. kernel.harness compares every test's."""

from __future__ import annotations

import pytest

from instrumenter.histogram import exponential_size_bounds
from kernel.harness import Wire
from kernel.http1 import answer, head
from kernel.seen import Row

pytestmark = pytest.mark.kernel


def test_sizes_in_any_order(wire: Wire) -> None:
    """The place of the last size is tried first: next to it, on its bounds and far from it are all to be right."""
    bounds = exponential_size_bounds()[:24].tolist()
    sizes = [size for bound in bounds for size in (bound, bound, bound + 1, 3000 - bound)]
    talk = wire.talk()
    for size in sizes:
        talk = talk.client(head("GET", "/")).server(answer(200, b"x" * size))
    wire.run(talk.close())
    wire.check([Row("GET", "/", 200, 0, size) for size in sizes])
