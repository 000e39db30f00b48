# SPDX-License-Identifier: Apache-2.0
"""The kernel tests again, on stock kernels in virtual machines, once for each way to attach. Never skipped."""

from __future__ import annotations

import os
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from vm.guest import ROOT, Finished, Machine, boot, find

KERNELS = ("6.1", "6.12")
ATTACH = ("fentry", "kprobe", "tracepoint")
TESTS = "tests/kernel tests/test_program.py"  # what depends on the kernel and on how the probes are attached
TIMEOUT_S = 1500.0


Place = tuple[str, str]  # series of the kernel, way to attach


@pytest.fixture(scope="module")
def guests(request: pytest.FixtureRequest) -> Iterator[dict[Place, Future[Finished]]]:
    """Boots every selected place, as many at a time as there are CPUs: a guest keeps hardly more than one busy."""
    chosen = [
        (str(item.callspec.params["series"]), str(item.callspec.params["attach"]))
        for item in request.session.items
        if isinstance(item, pytest.Function) and item.originalname == test_kernel_tests_pass_in_guest.__name__
    ]
    pool = ThreadPoolExecutor(os.cpu_count())
    try:
        yield {place: pool.submit(run_guest, *place) for place in chosen}
    finally:
        pool.shutdown(cancel_futures=True)


def results_of(series: str, attach: str) -> Path:
    return ROOT / "build" / "vm" / f"{series}-{attach}"


def run_guest(series: str, attach: str) -> Finished:
    results = results_of(series, attach)
    (results / "junit.xml").unlink(missing_ok=True)
    command = (
        f"STINGLESS_ATTACH={attach} .venv/bin/python -m pytest -m 'kernel and not builds' -p no:cacheprovider"
        f" --durations=5 --junit-xml=/run/results/junit.xml {TESTS}"
    )
    return boot(find(series), command, results, Machine(), TIMEOUT_S)


PLACES = [(series, attach) for series in KERNELS for attach in ATTACH]


@pytest.mark.vm
@pytest.mark.parametrize(("series", "attach"), PLACES)
def test_kernel_tests_pass_in_guest(guests: dict[Place, Future[Finished]], series: str, attach: str) -> None:
    done = guests[series, attach].result()
    print(done.output)
    print(f"{series} {attach}: {done.seconds:.0f} s")
    assert done.exit_code == 0, f"pytest in the guest ended with {done.exit_code}"
    passed, skipped = _counts(results_of(series, attach) / "junit.xml")
    assert passed > 0
    assert skipped == 0, "a kernel test skipped itself in the guest"


def _counts(report: Path) -> tuple[int, int]:
    suites = list(ET.parse(report).getroot().iter("testsuite"))
    total, skipped = (sum(int(suite.get(name, 0)) for suite in suites) for name in ("tests", "skipped"))
    return total - skipped, skipped
