# SPDX-License-Identifier: Apache-2.0
"""Conversations over TLS, and probes on the library that the watched process speaks it by."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from tempfile import TemporaryDirectory
from typing import Final

import pytest
from running import ROOT

from instrumenter.binaries.tls_libraries import Files, TlsLibrary
from instrumenter.bpf.uprobes import Attached
from instrumenter.discovery.tls_points import points_of
from kernel.harness import Peer, Talk, Wire

Way = tuple[str, str, str]  # how, version, certificate: as kernel.tls has them
OLDER: Final = ROOT / "build" / "openssl-1.1"
WAYS = [(how, version) for how in ("on_sockets", "through_memory") for version in ("TLSv1_2", "TLSv1_3")]


def library_of(wire: Wire) -> TlsLibrary:
    """The peer's OpenSSL, which it loads late."""
    wire.peer.run([["load", "ssl"]])
    (library,) = Files().tls(wire.peer.pid).libraries
    return library


def attach(wire: Wire) -> Attached:
    """Probes on the peer's OpenSSL."""
    library = library_of(wire)
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


@contextmanager
def older_peer() -> Iterator[Peer]:
    """A process on OpenSSL 1.1. Its libraries are in a directory of their own: a guest has build/ on an overlay, where
    files have other inodes than maps say."""
    if not (OLDER / "bin" / "python3.9").exists():
        raise pytest.UsageError(f"{OLDER} is missing: run scripts/openssl11.sh")
    (libraries,) = OLDER.glob("lib/*-linux-gnu")
    with TemporaryDirectory() as folder:
        for name in ("libssl.so.1.1", "libcrypto.so.1.1", "libffi.so.7"):
            shutil.copy(libraries / name, folder)
        env = {"PYTHONHOME": str(OLDER), "LD_LIBRARY_PATH": folder, "PYTHONDONTWRITEBYTECODE": "1"}
        with Peer(str(OLDER / "bin" / "python3.9"), env) as peer:
            yield peer
