# SPDX-License-Identifier: Apache-2.0
"""Encrypted connections that are older than the probes on their library."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import pytest

from instrumenter.bpf.abi import Loss
from kernel.harness import Peer, Wire
from kernel.http1 import answer, head
from kernel.secure import Way, attach, more, secure
from kernel.seen import Row

pytestmark = pytest.mark.kernel


@pytest.fixture
def wire(loaded_wire: Wire) -> Iterator[Wire]:
    """A process of which nothing was seen before."""
    with Peer() as peer, closing(loaded_wire.beside(peer)) as made:
        made.begin()
        yield made


def test_connection_older_than_the_probes(wire: Wire, tls_way: Way) -> None:
    """On sockets the next call tells whose it is; through memory the next two, so the client's first request is lost,
    and counted. The server's is not: of two ends of one process that have the same random only it is left."""
    wire.run(secure(wire, tls_way).client(head("GET", "/before")).server(answer(200)))
    rows = [Row("GET", f"/{i}", 200, 0, i) for i in range(3)]
    with closing(attach(wire)):
        for i in range(3):
            wire.run(more().client(head("GET", f"/{i}")).server(answer(200, b"x" * i)))
        wire.run(more().close())
        if tls_way[0] == "on_sockets":
            wire.check(rows)
        else:
            wire.check(rows, rows[1:], losses={Loss.TLS_UNLINKED: 1})
