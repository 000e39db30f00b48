# SPDX-License-Identifier: Apache-2.0
"""The kernel tests again, on stock kernels in virtual machines, once for each way to attach. Never skipped."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from vm.guest import ROOT, Machine, boot, find

KERNELS = ("6.1", "6.12")
ATTACH = ("fentry", "kprobe", "tracepoint")
TIMEOUT_S = 900.0


@pytest.mark.vm
@pytest.mark.parametrize("attach", ATTACH)
@pytest.mark.parametrize("series", KERNELS)
def test_kernel_tests_pass_in_guest(series: str, attach: str) -> None:
    results = ROOT / "build" / "vm" / f"{series}-{attach}"
    pytest_command = (
        f"STINGLESS_ATTACH={attach} .venv/bin/python -m pytest -m kernel -p no:cacheprovider --durations=5"
        " --junit-xml=/run/results/junit.xml tests"
    )
    (results / "junit.xml").unlink(missing_ok=True)
    done = boot(find(series), pytest_command, results, Machine(), TIMEOUT_S)
    print(done.output)
    print(f"{series} {attach}: {done.seconds:.0f} s")
    assert done.exit_code == 0, f"pytest in the guest ended with {done.exit_code}"
    passed, skipped = _counts(results / "junit.xml")
    assert passed > 0
    assert skipped == 0, "a kernel test skipped itself in the guest"


def _counts(report: Path) -> tuple[int, int]:
    suites = list(ET.parse(report).getroot().iter("testsuite"))
    total, skipped = (sum(int(suite.get(name, 0)) for suite in suites) for name in ("tests", "skipped"))
    return total - skipped, skipped
