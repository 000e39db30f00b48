# SPDX-License-Identifier: Apache-2.0
"""Conversations over TLS, and probes on the library that the watched process speaks it by."""

from __future__ import annotations

from instrumenter.binaries.tls_libraries import Files
from instrumenter.bpf.uprobes import Attached
from instrumenter.discovery.tls import points_of
from kernel.harness import Talk, Wire

Way = tuple[str, str, str]  # how, version, certificate: as kernel.tls has them
WAYS = [(how, version) for how in ("on_sockets", "through_memory") for version in ("TLSv1_2", "TLSv1_3")]


def attach(wire: Wire) -> Attached:
    """Probes on the peer's OpenSSL, which it loads late."""
    wire.peer.run([["load", "ssl"]])
    (library,) = Files().tls(wire.peer.pid).libraries
    uprobes = wire.program.uprobes()
    assert uprobes is not None, wire.program.refused
    return uprobes.attach(library.path, points_of(library))


def secure(wire: Wire, way: Way, name: str = "") -> Talk:
    talk = wire.talk(name=name)
    return talk.op("tls", talk.c, talk.s, *way)


def more(name: str = "") -> Talk:
    """A conversation that goes on."""
    talk = Talk(0, name=name)
    talk.ops.clear()
    return talk
