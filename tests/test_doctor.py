# SPDX-License-Identifier: Apache-2.0
"""Each check of `stingless doctor` against a tree of files as such a machine has it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from instrumenter import doctor
from instrumenter.bpf.choose import HELPERS, Trial
from instrumenter.bpf.libbpf import library
from instrumenter.doctor import Check, Machine
from instrumenter.errors import CannotStart


def capeff(mask: int) -> str:
    return f"Name:\tx\nCapEff:\t{mask:016x}\nSeccomp:\t0\n"


def bits(*numbers: int) -> int:
    return sum(1 << n for n in numbers)


BPF, PERFMON, PTRACE, READ, ADMIN = 39, 38, 19, 2, 21


@pytest.mark.parametrize(
    ("mask", "state", "says"),
    [
        (bits(BPF, PERFMON, PTRACE, READ), "ok", "CAP_BPF"),
        (bits(ADMIN, PTRACE, READ), "ok", "CAP_BPF"),
        (bits(BPF, PERFMON), "degraded", "CAP_SYS_PTRACE"),
        (bits(PERFMON, PTRACE, READ), "missing", "lacks CAP_BPF to load"),
        (bits(BPF, PTRACE, READ), "missing", "lacks CAP_PERFMON to attach"),
        (0, "missing", "CAP_BPF"),
    ],
)
def test_capabilities(tmp_path: Path, mask: int, state: str, says: str) -> None:
    (tmp_path / "self").mkdir()
    (tmp_path / "self" / "status").write_text(capeff(mask))
    check = doctor.capabilities(Machine(proc=tmp_path))
    assert check.state == state
    assert says in check.found
    assert bool(check.remedy) == (state != "ok")


@pytest.mark.parametrize(
    ("release", "state"),
    [
        ("6.1.0-13-amd64", "ok"),
        ("5.17.0", "ok"),
        ("5.15.0-91-generic", "degraded"),
        ("5.14.0-427.el9", "degraded"),
        ("5.8.0", "degraded"),
        ("4.18.0-513.el8", "degraded"),
    ],
)
def test_kernel(release: str, state: str) -> None:
    """A version is only a hint: what it lacks is found by asking for it, below."""
    check = doctor.kernel(Machine(release=release))
    assert check.state == state
    assert ("older than 5.17" in check.found) == bool(check.remedy) == (state != "ok")


def test_btf(tmp_path: Path) -> None:
    assert "mount -t sysfs" in doctor.btf(Machine(sys=tmp_path)).remedy
    (tmp_path / "kernel" / "btf").mkdir(parents=True)
    assert "CONFIG_DEBUG_INFO_BTF" in doctor.btf(Machine(sys=tmp_path)).remedy
    (tmp_path / "kernel" / "btf" / "vmlinux").touch()
    assert doctor.btf(Machine(sys=tmp_path)).state == "ok"


@pytest.mark.parametrize(
    ("text", "state"),
    [
        (None, "ok"),
        ("[none] integrity confidentiality", "ok"),
        ("none [integrity] confidentiality", "ok"),
        ("none integrity [confidentiality]", "missing"),
    ],
)
def test_lockdown(tmp_path: Path, text: str | None, state: str) -> None:
    if text is not None:
        (tmp_path / "kernel" / "security").mkdir(parents=True)
        (tmp_path / "kernel" / "security" / "lockdown").write_text(text + "\n")
    assert doctor.lockdown(Machine(sys=tmp_path)).state == state


def test_objects(tmp_path: Path) -> None:
    assert "make bpf" in doctor.objects(Machine(objects=tmp_path / "none")).remedy
    (tmp_path / "probes.aarch64.bpf.o").touch()
    other = doctor.objects(Machine(objects=tmp_path, arch="x86_64"))
    assert other.state == "missing"
    assert "probes.aarch64.bpf.o" in other.found
    assert doctor.objects(Machine(objects=tmp_path, arch="aarch64")).state == "ok"


def test_pid_namespace_of_a_container(tmp_path: Path) -> None:
    (tmp_path / "self" / "ns").mkdir(parents=True)
    (tmp_path / "self" / "ns" / "pid").touch()  # any other inode than the host's
    check = doctor.pid_namespace(Machine(proc=tmp_path))
    assert check.state == "missing"
    assert "hostPID" in check.remedy


@pytest.mark.parametrize(("controllers", "state"), [(True, "ok"), (False, "degraded")])
def test_cgroups(tmp_path: Path, controllers: bool, state: str) -> None:
    (tmp_path / "fs" / "cgroup").mkdir(parents=True)
    if controllers:
        (tmp_path / "fs" / "cgroup" / "cgroup.controllers").touch()
    assert doctor.cgroups(Machine(sys=tmp_path)).state == state


@pytest.mark.parametrize(("comm", "state"), [("beyla", "degraded"), ("coroot-node-agent", "degraded"), ("nginx", "ok")])
def test_other_agents(tmp_path: Path, comm: str, state: str) -> None:
    (tmp_path / "99").mkdir()
    (tmp_path / "99" / "comm").write_text(comm + "\n")
    check = doctor.others(Machine(proc=tmp_path))
    assert check.state == state
    assert (f"{comm} (pid 99)" in check.found) == (state == "degraded")


@pytest.mark.parametrize(("states", "can"), [(["ok", "degraded"], True), (["ok", "missing"], False)])
def test_report(states: list[doctor.State], can: bool) -> None:
    checks = [Check(f"check{i}", state, "found", "" if state == "ok" else "do this") for i, state in enumerate(states)]
    assert doctor.can_run(checks) == can
    report = json.loads(doctor.render(checks, as_json=True))
    assert report["can_run"] == can
    assert [c["state"] for c in report["checks"]] == states
    text = doctor.render(checks, as_json=False)
    assert "-> do this" in text
    assert text.endswith("stingless can run here" if can else "stingless cannot run here")


@pytest.mark.kernel
def test_this_machine() -> None:
    checks = {check.name: check for check in doctor.examine()}
    assert checks["bpf"].state == "ok"
    assert checks["bpf helpers"].state == "ok"
    assert checks["attach"].state == "ok"
    assert checks["loading"].state == "ok"
    modes = {f"attach {mode}" for mode in ("fentry", "kprobe", "socket", "tracepoint")}
    assert {"kernel", "btf", "libbpf", "libatomic", *modes} <= set(checks)


@pytest.mark.kernel
def test_a_helper_that_the_kernel_lacks_is_named_with_the_remedy() -> None:
    trial = Trial(library(), {})
    try:
        trial.complete()
        with pytest.raises(CannotStart, match=r"^this kernel's BPF has no bpf_of_tomorrow: use Linux 5\.17 or newer"):
            trial.complete(HELPERS | {"bpf_of_tomorrow": 65_000})
    finally:
        trial.close()
