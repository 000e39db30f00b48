# SPDX-License-Identifier: Apache-2.0
"""Machines on which the agent cannot run, made by namespaces: one line with the remedy, and doctor says the same."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
from running import STINGLESS

pytestmark = pytest.mark.kernel

CASES = {
    "btf": (
        ["unshare", "--mount", "sh", "-c", 'mount -t tmpfs none /sys/kernel && exec "$@"', "sh"],
        "this kernel has no BTF: /sys/kernel/btf/vmlinux is needed; use a kernel built with CONFIG_DEBUG_INFO_BTF=y",
        "CONFIG_DEBUG_INFO_BTF=y",
    ),
    "bpf": (
        ["unshare", "--mount", "sh", "-c", 'mount -t tmpfs none /sys && exec "$@"', "sh"],
        "counting possible CPUs: No such file or directory: /sys is needed; mount it: mount -t sysfs sys /sys",
        "see the checks above",
    ),
    "pid namespace": (
        ["unshare", "--pid", "--fork", "--mount-proc"],
        "not in the host's PID namespace but a container's: process numbers are not the kernel's; docker run",
        "docker run --pid=host",
    ),
}


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("STINGLESS_", "OTEL_"))}
    return subprocess.run(command, env=clean, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.parametrize("check", CASES)
def test_one_line_with_the_remedy(check: str) -> None:
    within, line, _ = CASES[check]
    done = run(*within, STINGLESS, "run", "--console", "--duration", "10ms")
    assert (done.returncode, done.stdout) == (1, ""), done.stderr
    assert done.stderr.startswith(f"stingless: {line}")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("check", CASES)
def test_doctor_has_it_as_missing(check: str) -> None:
    within, _, remedy = CASES[check]
    done = run(*within, STINGLESS, "doctor", "--json")
    report = json.loads(done.stdout)
    found = {each["name"]: each for each in report["checks"]}[check]
    assert (done.returncode, report["can_run"], found["state"]) == (1, False, "missing")
    assert remedy in found["remedy"]
