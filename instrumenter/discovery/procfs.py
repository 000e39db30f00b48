# SPDX-License-Identifier: Apache-2.0
"""/proc, read with as few system calls as a short-lived process allows.

In: process ids. Out: `Facts`, frozen, about one process image. The rule this file protects: a process may vanish, or
be another user's, at any moment; that gives None or an empty field, never an exception, and one read never mixes two
processes (all files are opened relative to the same /proc/PID directory). Formats: proc(5), proc_net_tcp(5).
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, NamedTuple

# All that is ever kept of another process's environment, which may hold secrets.
ENVIRONMENT: Final[tuple[str, ...]] = ("HOSTNAME", "OTEL_RESOURCE_ATTRIBUTES", "OTEL_SERVICE_NAME", "RELEASE_NAME")

_READ_MAX: Final = 256 * 1024  # longest file read whole; a Java class path may fill an argument of 128 KiB
_SHORT: Final = 2048  # bytes
_LISTEN: Final = "0A"  # TCP_LISTEN in the column `st` of net/tcp
_TAKEN: Final = frozenset(ENVIRONMENT)


class Stat(NamedTuple):
    """Of /proc/PID/stat. start_ticks: clock ticks (sysconf(_SC_CLK_TCK)) since boot. stack: its address; 0: hidden."""

    ppid: int
    state: str
    start_ticks: int
    stack: int = 0


Mark = tuple[int, int, str]  # start_ticks, stack, comm: another after each exec, and for another process of that pid


@dataclass(frozen=True, slots=True)
class Facts:
    """One process image as /proc shows it. What could not be read is empty.

    exe: path of the executable within the process's own mount namespace. cmdline: argv, without trailing empty
    strings. environ: only the variables in ENVIRONMENT. uid: effective user id, -1 if unknown. ports: TCP ports that
    it listens on, only filled when asked for. partial: it vanished, and all this came with the kernel's event.
    """

    pid: int
    ppid: int = 0
    start_ticks: int = 0
    exe: str = ""
    cmdline: tuple[str, ...] = ()
    comm: str = ""
    cgroup: str = ""
    uid: int = -1
    environ: dict[str, str] = field(default_factory=dict)
    ports: frozenset[int] = frozenset()
    partial: bool = False
    stack: int = 0

    @property
    def mark(self) -> Mark:
        return self.start_ticks, self.stack, self.comm

    @property
    def kernel_thread(self) -> bool:
        return not self.partial and not self.cmdline and not self.exe and (self.pid == 2 or self.ppid == 2)

    def with_ports(self, ports: Iterable[int]) -> Facts:
        return replace(self, ports=self.ports | frozenset(ports))


class ProcFS:
    """A /proc file system, or a tree of files that looks like one."""

    def __init__(self, root: str | Path = "/proc") -> None:
        self.root = str(root)

    def pids(self) -> list[int]:
        """All process ids (thread group leaders), ascending."""
        return sorted(int(name) for name in _list(self.root) if name.isdigit())

    def facts(self, pid: int) -> Facts | None:
        """All of `Facts` but the ports; None if the process is gone or a zombie."""
        try:
            directory = os.open(f"{self.root}/{pid}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            text = _read(directory, "stat")
            stat = _stat(text)
            if stat is None or stat.state in "ZX":
                return None
            return Facts(
                pid,
                stat.ppid,
                stat.start_ticks,
                _link(directory, "exe").removesuffix(" (deleted)"),
                _arguments(_read(directory, "cmdline")),
                _comm(text),
                _text(_read(directory, "cgroup")),
                os.fstat(directory).st_uid,
                _environment(_read(directory, "environ")),
                stack=stat.stack,
            )
        except OSError:
            return None
        finally:
            os.close(directory)

    def stat(self, pid: int) -> Stat | None:
        return _stat(_read(None, f"{self.root}/{pid}/stat"))

    def mark(self, pid: int) -> Mark | None:
        """By one read, which image the process runs; None if it is gone or a zombie."""
        text = _read(None, f"{self.root}/{pid}/stat")
        stat = _stat(text)
        return None if stat is None or stat.state in "ZX" else (stat.start_ticks, stat.stack, _comm(text))

    def exe(self, pid: int) -> str:
        """Path of the executable, "" if unknown."""
        return _link(None, f"{self.root}/{pid}/exe").removesuffix(" (deleted)")

    def cgroup(self, pid: int) -> str:
        """Content of /proc/PID/cgroup, "" if unknown."""
        return _text(_read(None, f"{self.root}/{pid}/cgroup"))

    def cwd(self, pid: int) -> str:
        """Working directory, "" if unknown."""
        return _link(None, f"{self.root}/{pid}/cwd")

    def lineage(self, pid: int, limit: int = 64) -> list[int]:
        """Parent, its parent and so on up to pid 1, as far as they live."""
        found: list[int] = []
        while len(found) < limit and (stat := self.stat(pid)) is not None and stat.ppid > 0:
            pid = stat.ppid
            found.append(pid)
        return found

    def ports(self, pid: int) -> frozenset[int]:
        """TCP ports that the process listens on, in its own network namespace. Costs the more the more files it has."""
        directory = f"{self.root}/{pid}/fd"
        sockets = set()
        for name in _list(directory):
            link = _link(None, f"{directory}/{name}")
            if link.startswith("socket:["):
                sockets.add(link[8:-1])
        if not sockets:
            return frozenset()
        listeners = self._listeners(pid)
        return frozenset(listeners[inode] for inode in sockets & listeners.keys())

    def file(self, pid: int, path: str, limit: int = 64 * 1024) -> bytes:
        """The head of a file as the process sees it (its root and mounts), b"" if it cannot be read."""
        return _read(None, f"{self.root}/{pid}/root{path}", limit) if path.startswith("/") else b""

    def boot_id(self) -> str:
        return _text(_read(None, f"{self.root}/sys/kernel/random/boot_id")).strip()

    def _listeners(self, pid: int) -> dict[str, int]:
        """Inode -> port of every listening socket in the process's network namespace.

        The kernel lists listeners before all other sockets, so a table of 100,000 connections is not read to the end.
        """
        found: dict[str, int] = {}
        for name in ("tcp", "tcp6"):
            try:
                with Path(f"{self.root}/{pid}/net/{name}").open(encoding="ascii", errors="replace") as lines:
                    next(lines, None)
                    for line in lines:
                        columns = line.split()
                        if len(columns) < 10 or columns[3] != _LISTEN:
                            break
                        found[columns[9]] = int(columns[1].rpartition(":")[2], 16)
            except (OSError, ValueError):
                continue
        return found


def _stat(text: bytes) -> Stat | None:
    """proc_pid_stat(5): the command is in parentheses and may hold any character, so count from the last one."""
    columns = text[text.rfind(b")") + 2 :].split()
    if len(columns) < 20 or not (columns[1].isdigit() and columns[19].isdigit()):
        return None
    stack = int(columns[25]) if len(columns) > 25 and columns[25].isdigit() else 0
    return Stat(int(columns[1]), chr(columns[0][0]), int(columns[19]), stack)


def _comm(text: bytes) -> str:
    return _text(text[text.find(b"(") + 1 : text.rfind(b")")])


def _arguments(text: bytes) -> tuple[str, ...]:
    """argv; a title written over it (setproctitle(3)) is one argument, maybe padded with NULs or spaces."""
    text = text.rstrip(b"\0 ")
    return tuple(_text(text).split("\0")) if text else ()


def _environment(text: bytes) -> dict[str, str]:
    if b"OTEL_" not in text and b"HOSTNAME=" not in text and b"RELEASE_NAME=" not in text:
        return {}
    found: dict[str, str] = {}
    for entry in text.split(b"\0"):
        name, _, value = entry.partition(b"=")
        if name.decode("ascii", "replace") in _TAKEN:
            found.setdefault(name.decode("ascii"), _text(value))  # getenv(3) finds the first, too
    return found


def _text(value: bytes) -> str:
    return value.decode("utf-8", "replace")


def _list(path: str) -> list[str]:
    try:
        return os.listdir(path)  # noqa: PTH208 - names are all that is needed, thousands of them
    except OSError:
        return []


def _link(directory: int | None, path: str) -> str:
    try:
        return os.fsencode(os.readlink(path, dir_fd=directory)).decode("utf-8", "replace")
    except OSError:
        return ""


def _read(directory: int | None, path: str, limit: int = _READ_MAX) -> bytes:
    """The file's first `limit` bytes. procfs may give less than asked for before the end, but never less than a page's
    half: its own buffer is at least a page, and no record in these files is longer than the other half."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK, dir_fd=directory)
    except OSError:
        return b""
    parts: list[bytes] = []
    try:
        while limit > 0 and (part := os.read(file, min(limit, 16384))):
            parts.append(part)
            limit -= len(part)
            if len(part) < _SHORT:
                break
    except OSError:
        pass  # ESRCH: it ended meanwhile
    finally:
        os.close(file)
    return b"".join(parts)
