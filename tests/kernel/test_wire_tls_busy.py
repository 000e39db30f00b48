# SPDX-License-Identifier: Apache-2.0
"""Calls of a TLS library that find the probes' work space of their CPU in use, as by threads that were preempted there.

The space is marked as they mark it, from outside, while the conversation goes on.
"""

from __future__ import annotations

import platform
from collections.abc import Iterator
from contextlib import closing, contextmanager

import numpy as np
import pytest
from btf import Btf

from instrumenter.bpf.abi import Flag, Loss, Outcome
from instrumenter.bpf.libbpf import OBJECTS
from instrumenter.bpf.maps import Map
from kernel.harness import Wire
from kernel.http1 import answer, chunks, head, response_head
from kernel.secure import Way, attach, more, secure
from kernel.seen import Row

pytestmark = pytest.mark.kernel


@pytest.fixture(scope="module")
def probed(loaded_wire: Wire) -> Iterator[None]:
    with closing(attach(loaded_wire)):
        yield


@pytest.fixture
def way(tls_way: Way, probed: None) -> Way:
    return tls_way


@contextmanager
def nothing_free(wire: Wire) -> Iterator[None]:
    """All work space is in use."""
    size, fields = Btf(OBJECTS / f"probes.{platform.machine()}.bpf.o").struct("scratch")
    value = np.dtype({"names": ["busy"], "formats": ["<u4"], "offsets": [fields["busy"][0]], "itemsize": size})
    space = wire.program.map("scratch", np.dtype("<u4"), value)
    mark(space, 1)
    yield
    mark(space, 0)


def mark(space: Map, busy: int) -> None:
    for slot in range(space.max_entries):
        values = space.lookup(slot)
        assert values is not None
        values["busy"] = busy
        space.update(slot, values)


def test_request_passes(wire: Wire, way: Way) -> None:
    """Each end's loss is counted; its response belongs to nothing, and what follows is right."""
    wire.run(secure(wire, way).client(head("GET", "/a")).server(answer(200)))
    with nothing_free(wire):
        wire.run(more().client(head("GET", "/lost")))
    wire.run(more().server(answer(201)).client(head("GET", "/b")).server(answer(202)).close())
    losses = {Loss.TLS_PREEMPTED: 2, Loss.UNANSWERED_RESPONSE: 2}
    wire.check([Row("GET", "/a", 200), Row("GET", "/b", 202)], losses=losses)


def test_response_passes(wire: Wire, way: Way) -> None:
    """The next response is not taken for it: what was asked meanwhile has no answer that is known."""
    wire.run(secure(wire, way).client(head("GET", "/a")))
    with nothing_free(wire):
        wire.run(more().server(answer(200)))
    wire.run(more().client(head("GET", "/b")).server(answer(201)))
    wire.run(more().client(head("GET", "/c")).server(answer(202)).close())
    unknown = [Row("GET", target, 0, outcome=Outcome.UNREADABLE) for target in ("/a", "/b")]
    losses = {Loss.TLS_PREEMPTED: 2, Loss.GAP: 2}
    wire.check([*unknown, Row("GET", "/c", 202)], losses=losses)


def test_body_passes(wire: Wire, way: Way) -> None:
    """Of that nothing was to be read."""
    body = b"b" * 50_000
    talk = secure(wire, way).client(head()).server(response_head(200, f"Content-Length: {2 * len(body)}"), body)
    wire.run(talk)
    with nothing_free(wire):
        wire.run(more().server(body))
    wire.run(more().client(head("GET", "/b")).server(answer(201)).close())
    wire.check([Row("GET", "/", 200, 0, 2 * len(body)), Row("GET", "/b", 201)])


def test_chunks_pass(wire: Wire, way: Way) -> None:
    """Where a chunk begins is not known any more."""
    pieces = chunks(b"x" * 1000), chunks(b"y" * 500)
    talk = secure(wire, way).client(head()).server(response_head(200, "Transfer-Encoding: chunked"))
    wire.run(talk)
    with nothing_free(wire):
        wire.run(more().server(pieces[0].removesuffix(b"0\r\n\r\n")))
    wire.run(more().server(pieces[1]).client(head("GET", "/b")).server(answer(201)).close())
    cut = Row("GET", "/", 200, outcome=Outcome.UNREADABLE, flags=Flag.CHUNKED_RESPONSE)
    losses = {Loss.TLS_PREEMPTED: 2, Loss.GAP: 2}
    wire.check([cut, Row("GET", "/b", 201)], losses=losses)
