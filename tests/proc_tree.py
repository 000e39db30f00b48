# SPDX-License-Identifier: Apache-2.0
"""Processes for tests of discovery: written into a directory as /proc shows them, or really running."""

from __future__ import annotations

import os
import select
import shlex
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

TCP_HEAD = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"


def add_process(
    root: Path,
    pid: int,
    command: str | Iterable[str],
    *,
    ppid: int = 1,
    exe: str = "",
    cwd: str = "/",
    environ: Mapping[str, str] | None = None,
    cgroup: str = "0::/\n",
    start: int = 0,
    stack: int = 0,
    state: str = "S",
    files: Mapping[str, str] | None = None,
    listens: Mapping[int, int] | None = None,
) -> None:
    """command: a shell's line, or argv. files: path within the process's root -> text. listens: port -> inode."""
    argv = shlex.split(command) if isinstance(command, str) else list(command)
    process = root / str(pid)
    (process / "fd").mkdir(parents=True)
    (process / "net").mkdir()
    comm = (exe or (argv[0] if argv else "kworker")).rpartition("/")[2][:15]
    (process / "comm").write_text(comm + "\n")
    (process / "stat").write_text(
        f"{pid} ({comm}) {state} {ppid} {pid} {pid} 0 -1 4194560 0 0 0 0 1 2 0 0 20 0 1 0 {start or pid}"
        f" 0 0 0 0 0 {stack}\n"
    )
    (process / "cmdline").write_bytes("".join(arg + "\0" for arg in argv).encode())
    (process / "environ").write_bytes("".join(f"{k}={v}\0" for k, v in (environ or {}).items()).encode())
    (process / "cgroup").write_text(cgroup)
    (process / "cwd").symlink_to(cwd)
    if exe:
        (process / "exe").symlink_to(exe)
    for path, text in (files or {}).items():
        target = process / "root" / path.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
    (process / "fd" / "0").symlink_to("/dev/null")
    rows = []
    for i, (port, inode) in enumerate((listens or {}).items()):
        (process / "fd" / str(3 + i)).symlink_to(f"socket:[{inode}]")
        address = f"00000000:{port:04X} 00000000:0000"
        rows.append(f"{i:4}: {address} 0A 00000000:00000000 00:00000000 00000000 0 0 {inode} 1\n")
    (process / "net" / "tcp").write_text(TCP_HEAD + "".join(rows))


@contextmanager
def python_child(code: str, *args: str, **environ: str) -> Iterator[tuple[int, str]]:
    """A child that runs `code`, which prints one line: its pid and that line. It lives until the block ends."""
    command = [sys.executable, "-u", "-c", code + "; input()", *args]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=os.environ | environ) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        try:
            # Not before it runs: while it is being executed, its command line and environment are empty.
            assert select.select([child.stdout], [], [], 20)[0], "the child does not start"
            yield child.pid, child.stdout.readline().decode()
        finally:
            child.stdin.write(b"\n")
