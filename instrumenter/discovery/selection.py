# SPDX-License-Identifier: Apache-2.0
"""Which processes are watched: a pure function of a process's facts and the user's selection.

In: `Facts`, the service's name. Out: WATCH or IGNORE. The rules, in this order:

1. A kernel thread is never watched, the agent itself (`self_pid`) neither.
2. What matches any exclusion is not watched, whatever else it matches.
3. With one or more of ports, exe, cmd, pids: a process is watched if ANY of them matches.
4. With `all`: every process. With nothing: every process but the known agents (known_agents.py).
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable
from dataclasses import dataclass

from instrumenter.bpf.abi import Verdict
from instrumenter.discovery.known_agents import is_known_agent
from instrumenter.discovery.procfs import Facts
from instrumenter.enrich.runtime import NATIVE, base_name, runtime
from instrumenter.errors import ConfigError

PortRanges = tuple[tuple[int, int], ...]  # inclusive (first, last) pairs


@dataclass(frozen=True, slots=True)
class Selection:
    """What the user asked for. Empty: every process but known agents.

    exe globs match the executable's path, or its base name where the glob has no slash. cmd globs match the command
    line, joined by spaces; one without `*`, `?` or `[` matches anywhere in it. pids include descendants.
    exclude_services: globs of service names.
    """

    ports: PortRanges = ()
    exe: tuple[str, ...] = ()
    cmd: tuple[str, ...] = ()
    pids: tuple[int, ...] = ()
    all: bool = False
    exclude_ports: PortRanges = ()
    exclude_exe: tuple[str, ...] = ()
    exclude_cmd: tuple[str, ...] = ()
    exclude_pids: tuple[int, ...] = ()
    exclude_services: tuple[str, ...] = ()

    @property
    def explicit(self) -> bool:
        """Whether anything was asked for by name."""
        return bool(self.ports or self.exe or self.cmd or self.pids)

    @property
    def needs_ports(self) -> bool:
        return bool(self.ports or self.exclude_ports)

    def watched_ports(self) -> list[int]:
        """For the kernel's bitmap: a process that begins to listen on one of these is watched at once."""
        wanted = {port for first, last in self.ports for port in range(first, last + 1)}
        return sorted(port for port in wanted if not within(port, self.exclude_ports))


def parse_ports(text: str) -> PortRanges:
    """`80,8000-8100` as inclusive (first, last) pairs. ConfigError names the part that is wrong."""
    ranges: list[tuple[int, int]] = []
    for part in filter(None, (p.strip() for p in text.split(","))):
        first, dash, last = (p.strip() for p in part.partition("-"))
        low, high = _port(first, part), _port(last if dash else first, part)
        if low > high:
            raise ConfigError(f"port range {part!r} is empty: write the lower port first, {high}-{low}")
        ranges.append((low, high))
    if not ranges:
        raise ConfigError(f"no port in {text!r}: expected ports and ranges from 1 to 65535, such as 80,8000-8100")
    return tuple(ranges)


def _port(text: str, part: str) -> int:
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= 65535):
        raise ConfigError(f"bad port {part!r}: expected ports and ranges from 1 to 65535, such as 80,8000-8100")
    return int(text)


def within(port: int, ranges: PortRanges) -> bool:
    return any(first <= port <= last for first, last in ranges)


def decide(
    facts: Facts, selection: Selection, *, self_pid: int = 0, service: str = "", lineage: Iterable[int] = ()
) -> Verdict:
    """The verdict on one process.

    service: its name, needed only if services are excluded. lineage: its ancestors, needed only if pids are selected
    or excluded. `facts.ports` is needed only if ports are selected or excluded.
    """
    if facts.kernel_thread or facts.pid == self_pid or _excluded(facts, selection, service, lineage):
        return Verdict.IGNORE
    if selection.all:
        return Verdict.WATCH
    wanted = _asked_for(facts, selection, lineage) if selection.explicit else not known_agent(facts)
    return Verdict.WATCH if wanted else Verdict.IGNORE


def _excluded(facts: Facts, selection: Selection, service: str, lineage: Iterable[int]) -> bool:
    return (
        _exe_matches(facts, selection.exclude_exe)
        or _cmd_matches(facts, selection.exclude_cmd)
        or _pid_matches(facts, selection.exclude_pids, lineage)
        or any(within(port, selection.exclude_ports) for port in facts.ports)
        or _matches(service, selection.exclude_services)
    )


def _asked_for(facts: Facts, selection: Selection, lineage: Iterable[int]) -> bool:
    return (
        _exe_matches(facts, selection.exe)
        or _cmd_matches(facts, selection.cmd)
        or _pid_matches(facts, selection.pids, lineage)
        or any(within(port, selection.ports) for port in facts.ports)
    )


def known_agent(facts: Facts) -> bool:
    """Whether it is in the table of known agents, by its executable or, for an interpreter, its script."""
    argv = facts.cmdline
    path = facts.exe or (argv[0] if argv else facts.comm)
    if is_known_agent(base_name(path)):
        return True
    if len(argv) < 2 or runtime(facts.exe, argv[0]) is NATIVE:
        return False
    return is_known_agent(base_name(next((arg for arg in argv[1:] if not arg.startswith("-")), "")))


def _exe_matches(facts: Facts, globs: tuple[str, ...]) -> bool:
    if not globs:
        return False
    path = facts.exe or (facts.cmdline[0] if facts.cmdline else facts.comm)
    base = base_name(path)
    return any(_match(path if "/" in glob else base, glob) for glob in globs)


def _cmd_matches(facts: Facts, globs: tuple[str, ...]) -> bool:
    if not globs:
        return False
    line = " ".join(facts.cmdline) or facts.comm
    return any(_match(line, glob) if re.search(r"[*?[]", glob) else glob in line for glob in globs)


def _pid_matches(facts: Facts, pids: tuple[int, ...], lineage: Iterable[int]) -> bool:
    return bool(pids) and (facts.pid in pids or any(pid in pids for pid in lineage))


def _matches(name: str, globs: tuple[str, ...]) -> bool:
    return bool(name) and any(_match(name, glob) for glob in globs)


def _match(text: str, glob: str) -> bool:
    return fnmatch.fnmatchcase(text, glob)
