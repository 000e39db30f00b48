# SPDX-License-Identifier: Apache-2.0
"""Encrypted connections that are older than the probes on their library."""

from __future__ import annotations

from contextlib import closing

import pytest

from instrumenter.bpf.abi import Loss
from kernel.harness import Wire
from kernel.http1 import answer, head
from kernel.secure import Way, attach, more, secure
from kernel.seen import Row

pytestmark = pytest.mark.kernel


def test_connection_older_than_the_probes(wire: Wire, tls_way: Way) -> None:
    """On sockets the next call tells whose it is; through memory the next two: one exchange is lost, and counted."""
    wire.run(secure(wire, tls_way).client(head("GET", "/before")).server(answer(200)))
    rows = [Row("GET", f"/{i}", 200, 0, i) for i in range(3)]
    with closing(attach(wire)):
        for i in range(3):
            wire.run(more().client(head("GET", f"/{i}")).server(answer(200, b"x" * i)))
        wire.run(more().close())
        if tls_way[0] == "on_sockets":
            wire.check(rows)
        else:
            wire.check(rows[1:], losses={Loss.TLS_UNLINKED: 2})
