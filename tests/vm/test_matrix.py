# SPDX-License-Identifier: Apache-2.0
"""Stock kernels in virtual machines: the kernel tests, once for each way to attach; real programs. Never skipped."""

from __future__ import annotations

import os
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pytest

from vm.guest import ROOT, Finished, Machine, boot, find

KERNELS = ("6.1", "6.12")
ATTACH = ("fentry", "kprobe", "tracepoint")
TESTS = {
    "kernel": "-m 'kernel and not builds' tests/kernel tests/test_program.py",  # what depends on it and on the mode
    "programs": "tests/truth/test_programs.py",  # those of truth.matrix.IN_GUESTS
}
TIMEOUT_S = 1500.0


class Place(NamedTuple):
    """Which tests run on which kernel, attached in which way."""

    tests: str
    series: str
    attach: str

    @property
    def results(self) -> Path:
        return ROOT / "build" / "vm" / f"{self}"

    def __str__(self) -> str:
        return "-".join(self)

    @property
    def cpus(self) -> int:
        """Two once for each kernel; else one, which waits for no other and costs less."""
        return 2 if self.attach == "fentry" else 1


def run_guest(place: Place) -> Finished:
    (place.results / "junit.xml").unlink(missing_ok=True)
    command = (
        f"STINGLESS_ATTACH={place.attach} .venv/bin/python -m pytest -p no:cacheprovider"
        f" --durations=20 --junit-xml=/run/results/junit.xml {TESTS[place.tests]}; status=$?;"
        " cp -r build/truth/matrix /run/results/ 2>/dev/null; (exit $status)"
    )
    return boot(find(place.series), command, place.results, Machine(cpus=place.cpus), TIMEOUT_S)


PLACES = [Place("kernel", series, attach) for series in KERNELS for attach in ATTACH]
PLACES += [Place("programs", "6.12", "fentry")]


@pytest.fixture(scope="module")
def guests(request: pytest.FixtureRequest) -> Iterator[dict[Place, Future[Finished]]]:
    """Boots every selected place, the longest first, as many at a time as there are CPUs."""
    items = [item for item in request.session.items if isinstance(item, pytest.Function)]
    selected = {item.callspec.id for item in items if item.originalname == test_passes_in_guest.__name__}
    chosen = sorted((p for p in PLACES if str(p) in selected), key=lambda place: place.cpus, reverse=True)
    pool = ThreadPoolExecutor(os.cpu_count())
    try:
        yield {place: pool.submit(run_guest, place) for place in chosen}
    finally:
        pool.shutdown(cancel_futures=True)


@pytest.mark.vm
@pytest.mark.parametrize("place", PLACES, ids=str)
def test_passes_in_guest(guests: dict[Place, Future[Finished]], place: Place) -> None:
    done = guests[place].result()
    print(done.output)
    print(f"{place}: {done.seconds:.0f} s")
    assert done.exit_code == 0, f"pytest in the guest ended with {done.exit_code}"
    passed, skipped = _counts(place.results / "junit.xml")
    assert passed > 0
    assert skipped == 0, "a test skipped itself in the guest"


def _counts(report: Path) -> tuple[int, int]:
    suites = list(ET.parse(report).getroot().iter("testsuite"))
    total, skipped = (sum(int(suite.get(name, 0)) for suite in suites) for name in ("tests", "skipped"))
    return total - skipped, skipped
