# SPDX-License-Identifier: Apache-2.0
"""Reading /proc: the checked-in tree, and a real child process."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from proc_tree import add_process, python_child

from instrumenter.discovery.procfs import Facts, ProcFS, Stat

TREE = Path(__file__).parent / "proc"
SERVER = "import socket; s = socket.create_server(('{host}', 0), family=socket.{family}); print(s.getsockname()[1])"


def test_pids() -> None:
    assert ProcFS(TREE).pids() == [1, 2, 3, 100, 101, 102, 200, 201, 202, 300, 310, 400, 500, 600]


def test_facts() -> None:
    facts = ProcFS(TREE).facts(400)
    assert facts is not None
    assert (facts.pid, facts.ppid, facts.start_ticks) == (400, 1, 400)
    assert (facts.exe, facts.comm) == ("/usr/bin/python3.11", "python3.11")
    assert facts.cmdline == ("python3", "-m", "http.server", "9000")
    assert facts.environ == {
        "OTEL_SERVICE_NAME": "files",
        "OTEL_RESOURCE_ATTRIBUTES": "service.namespace=web,service.version=1.2%2Bdev,service.name=ignored",
    }
    assert not facts.partial


def test_only_known_variables_are_kept() -> None:
    facts = ProcFS(TREE).facts(300)
    assert facts is not None
    assert facts.environ == {"HOSTNAME": "5f0c5d3b8c0a"}
    assert "hunter2" not in repr(facts)


@pytest.mark.parametrize("pid", [600, 999999], ids=["zombie", "vanished"])
def test_gone(pid: int) -> None:
    procfs = ProcFS(TREE)
    assert procfs.facts(pid) is None
    assert procfs.ports(pid) == frozenset()
    assert procfs.exe(pid) == procfs.cwd(999999) == procfs.cgroup(999999) == ""
    assert procfs.lineage(999999) == []
    assert procfs.file(pid, "/etc/passwd") == b""


def test_unreadable_files_leave_fields_empty(tmp_path: Path) -> None:
    (tmp_path / "7").mkdir()
    (tmp_path / "7" / "stat").write_text("7 (a) b) () S 1 7 7 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 4711 0 0\n")
    facts = ProcFS(tmp_path).facts(7)
    assert facts == Facts(7, 1, 4711, comm="a) b) (", uid=os.getuid())
    (tmp_path / "7" / "stat").write_text("garbage")
    assert ProcFS(tmp_path).facts(7) is None


def test_first_of_equal_variables_counts(tmp_path: Path) -> None:
    add_process(tmp_path, 7, "a", environ={"OTEL_SERVICE_NAME": "first\0OTEL_SERVICE_NAME=second"})
    facts = ProcFS(tmp_path).facts(7)
    assert facts is not None
    assert facts.environ == {"OTEL_SERVICE_NAME": "first"}


def test_kernel_threads() -> None:
    procfs = ProcFS(TREE)
    found = [pid for pid in procfs.pids() if (facts := procfs.facts(pid)) is not None and facts.kernel_thread]
    assert found == [2, 3]


@pytest.mark.parametrize(("pid", "ports"), [(100, {80, 443}), (101, {80, 443}), (300, {8080}), (1, set())])
def test_ports_of_the_tree(pid: int, ports: set[int]) -> None:
    """300 has its listener in tcp6 only, and a connection of its own in tcp."""
    assert ProcFS(TREE).ports(pid) == ports


def test_lineage_and_files() -> None:
    procfs = ProcFS(TREE)
    assert procfs.lineage(202) == [200, 1]
    assert procfs.stat(202) == Stat(200, "S", 202)
    assert b"@acme/cart" in procfs.file(310, "/srv/cart/package.json")
    assert procfs.cwd(310) == "/srv/cart"
    assert procfs.boot_id() == "2b0a9c7e-1f53-4f3e-9a55-7d1e1f0c8a11"


@pytest.mark.parametrize(("host", "family"), [("127.0.0.1", "AF_INET"), ("::", "AF_INET6")])
def test_real_child(host: str, family: str) -> None:
    if family == "AF_INET6" and not socket.has_dualstack_ipv6():
        pytest.skip("no IPv6 here")
    procfs = ProcFS()
    code = SERVER.format(host=host, family=family)
    with python_child(code, OTEL_SERVICE_NAME="child", SECRET="x") as (pid, port):
        facts = procfs.facts(pid)
        assert facts is not None
        assert facts.ppid == os.getpid()
        assert facts.exe == str(Path(f"/proc/{pid}/exe").readlink())
        assert facts.cmdline[:3] == (sys.executable, "-u", "-c")
        assert facts.environ["OTEL_SERVICE_NAME"] == "child"
        assert "SECRET" not in facts.environ
        assert facts.uid == os.getuid()
        assert procfs.ports(pid) == {int(port)}
        assert procfs.cwd(pid) == str(Path.cwd())
        assert procfs.lineage(pid)[0] == os.getpid()
    assert procfs.facts(pid) is None


def test_long_command_line_is_read_whole() -> None:
    with python_child("print()", *(f"--argument-number-{n}" for n in range(3000)), "--last") as (pid, _):
        facts = ProcFS().facts(pid)
    assert facts is not None
    assert facts.cmdline[-1] == "--last"


def test_mark_is_another_after_exec() -> None:
    """Also of the same program again: only its stack lies elsewhere."""
    procfs = ProcFS()
    command = ["sh", "-c", "echo; read x; exec sh -c 'echo; read x; :'"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdout.readline()
        facts, before = procfs.facts(child.pid), procfs.mark(child.pid)
        assert facts is not None
        assert facts.mark == before
        child.stdin.write(b"\n")
        child.stdout.readline()
        after = procfs.mark(child.pid)
        child.stdin.write(b"\n")
    assert before is not None
    assert after is not None
    assert (after[0], after[2]) == (before[0], before[2])
    assert after[1] != before[1]
    assert procfs.mark(child.pid) is None
