# SPDX-License-Identifier: Apache-2.0
"""Fixtures of all tests, and what `@pytest.mark.kernel` means: root and BPF, else skipped with the reason.

In the virtual machines of tests/vm (STINGLESS_VM=1) the reason is an error: there nothing may be missing.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import os
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import pytest
from collector import Collector
from running import ROOT, Agent

SYS_BPF = {"x86_64": 321, "aarch64": 280}
BPF_MAP_CREATE = 0
BPF_MAP_TYPE_ARRAY = 2


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("kernel") is None:
        return
    reason = bpf_refusal()
    if reason and os.environ.get("STINGLESS_VM") == "1":
        pytest.fail(f"a kernel test cannot run in the guest: {reason}")
    if reason:
        pytest.skip(reason)


@functools.cache
def bpf_refusal() -> str:
    """Why this machine takes no BPF programs from us; empty if it does."""
    if os.geteuid() != 0:
        return "needs root"
    if not Path("/sys/kernel/btf/vmlinux").exists():
        return "this kernel has no BTF (/sys/kernel/btf/vmlinux)"
    error = _create_map()
    if error:
        return f"bpf() refused: {errno.errorcode.get(error, error)}"
    objects = ROOT / "instrumenter" / "objects" / f"probes.{platform.machine()}.bpf.o"
    if not objects.exists():
        raise pytest.UsageError(f"{objects} is missing: run `make bpf`")
    return ""


def _create_map() -> int:
    """errno of making a one-element array map; 0 if it was made."""
    libc = ctypes.CDLL(None, use_errno=True)
    attr = (ctypes.c_uint32 * 32)(BPF_MAP_TYPE_ARRAY, 4, 8, 1)
    fd = libc.syscall(SYS_BPF[platform.machine()], BPF_MAP_CREATE, ctypes.byref(attr), ctypes.sizeof(attr))
    if fd < 0:
        return ctypes.get_errno()
    os.close(fd)
    return 0


@pytest.fixture
def stingless() -> Iterator[Callable[..., Agent]]:
    """`stingless(*flags, env={}, ready=True)` starts the agent; all are stopped at the end of the test."""
    agents: list[Agent] = []

    def start(*flags: str, env: Mapping[str, str] | None = None, ready: bool = True, command: str = "run") -> Agent:
        agents.append(Agent(flags, env, command))
        return agents[-1].ready() if ready else agents[-1]

    yield start
    for agent in agents:
        agent.stop()


@pytest.fixture
def collector() -> Iterator[Collector]:
    """A real OTLP receiver on loopback; `collector.grpc_url`, `collector.http_url`."""
    with Collector() as running:
        yield running


@pytest.fixture
def attach_modes() -> Sequence[str]:
    """The way to attach that this run forces, or all."""
    forced = os.environ.get("STINGLESS_ATTACH")
    return [forced] if forced else ["fentry", "kprobe", "socket", "tracepoint"]
