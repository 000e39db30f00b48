# SPDX-License-Identifier: Apache-2.0
"""`wire`: the probes, loaded once in the mode that the run forces or the best, and a watched process to talk with."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from instrumenter.bpf.abi import Verdict
from instrumenter.bpf.maps import MapSizes
from instrumenter.bpf.program import Program
from instrumenter.config import Settings
from instrumenter.sizes import Sizes, kernel_settings, make_histograms

pytest.register_assert_rewrite("kernel.harness")  # before its import: its assertions are the tests' own

from kernel.harness import Peer, Wire  # noqa: E402
from kernel.secure import WAYS, Way, attach, library_of, older_peer  # noqa: E402
from kernel.tls import certificate  # noqa: E402

MAPS = MapSizes(exchanges=1 << 20, long_exchanges=1 << 20, events=1 << 18, procs=4096, conns=4096, red=2048)


@pytest.fixture(scope="session")
def loaded_wire() -> Iterator[Wire]:
    # What nobody decided on is left alone, so that only the peer is watched, whatever else runs on this machine.
    settings = Settings()
    sizes = Sizes(MAPS, series=2000, series_per_service=1000)
    record = kernel_settings(settings, make_histograms(settings), sizes, spans=True, self_tgid=0)
    record["default_verdict"] = Verdict.IGNORE
    with Peer() as peer, closing(Program.load(record, MAPS, os.environ.get("STINGLESS_ATTACH"))) as program:
        program.attach()
        with closing(program.source()) as source, closing(Wire(program, source, peer, record)) as made:
            yield made


@pytest.fixture(scope="session")
def pem(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return certificate(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module", params=["", "OpenSSL 1.1.1"])
def tls_wire(request: pytest.FixtureRequest, loaded_wire: Wire) -> Iterator[Wire]:
    """A process whose library has probes: this machine's Python, and one on an older OpenSSL."""
    with ExitStack() as stack:
        made = loaded_wire
        if request.param:
            made = stack.enter_context(closing(made.beside(stack.enter_context(older_peer()))))
        assert str(library_of(made)).startswith(request.param or "OpenSSL 3")
        stack.enter_context(closing(attach(made)))
        yield made


@pytest.fixture(params=WAYS, ids=lambda way: "-".join(way))
def tls_way(request: pytest.FixtureRequest, pem: Path) -> Way:
    how, version = request.param
    return how, version, str(pem)


@pytest.fixture
def wire(loaded_wire: Wire) -> Wire:
    loaded_wire.begin()
    return loaded_wire
