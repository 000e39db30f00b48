# SPDX-License-Identifier: Apache-2.0
"""The name of the service that a process is, as the people who run it would say it.

In: `Facts`, and files near the program (through `ProcFS`). Out: a name, never empty, never only an interpreter's. The
first of these that gives one:

1. the agent's own setting (`--service-name`)
2. OTEL_SERVICE_NAME of the process, then `service.name` in its OTEL_RESOURCE_ATTRIBUTES
3. what the service was told to be called: -Dotel.service.name, spring.application.name, gunicorn --name, puma --tag,
   node --title, a php-fpm pool, an application's name in a process title
4. an interpreter's script, module, jar, main class or served application, unless generic (`app.py`, `Main`)
5. the project around a generic one: `name` in package.json, else the nearest directory with a name of its own
6. the systemd unit, for the unit's main process (a unit such as cron or supervisor runs many services)
7. the container: HOSTNAME in a container, unless it is the container's id; a pod's without the hashes of its replica
8. the executable; for a generic native one (`/opt/cart/bin/server`) first the directory, as in 5
9. `unknown_service:` + executable, the specification's fallback

Native executables take 6, then 8, 7 only if theirs is generic: a pod's name would also be its sidecars'.
"""

from __future__ import annotations

import json
import posixpath
import re
from typing import Final

from instrumenter.discovery.commands import describe
from instrumenter.discovery.generic import is_generic, is_generic_directory
from instrumenter.discovery.otel_env import resource_attributes
from instrumenter.discovery.procfs import Facts, ProcFS
from instrumenter.discovery.words import Guess
from instrumenter.enrich.cgroup import container_id, pod_uid, systemd_unit
from instrumenter.enrich.runtime import Runtime, base_name, runtime

_CLIMB: Final = 6  # how many directories up a project is looked for
_PEOPLE: Final = ("/home", "/Users")  # what lies in them is named after a person, not a service
_DEPTH: Final = 3  # how many parents of helper processes are followed
# Letters of Kubernetes' random suffixes: no vowels, 0, 1 or 3 (apimachinery, util/rand).
_REPLICA: Final = re.compile(r"(-[bcdfghjklmnpqrstvwxz2456789]{6,10})?-[bcdfghjklmnpqrstvwxz2456789]{5}$|-\d{1,4}$")
_HEX: Final = re.compile(r"[0-9a-f]{12,64}")


class ServiceNamer:
    """Names processes; `override` (may be empty) names them all."""

    def __init__(self, procfs: ProcFS, override: str = "") -> None:
        self._procfs = procfs
        self._override = override

    def name(self, facts: Facts, depth: int = 0) -> str:
        """The service's name. Reads files only where the command line says too little."""
        if given := self._override or explicit_name(facts):
            return given
        kind = runtime(facts.exe, facts.cmdline[0] if facts.cmdline else facts.comm)
        guess = describe(facts.cmdline, kind)
        if guess.parent and depth < _DEPTH and (parent := self._procfs.facts(facts.ppid)) is not None:
            return self.name(parent, depth + 1)
        if guess.name and (guess.declared or not is_generic(guess.name)):
            return guess.name
        if kind.family not in ("", "shell") or guess.project:
            return self._interpreted(facts, guess, kind)
        return self._native(facts, guess)

    def _interpreted(self, facts: Facts, guess: Guess, kind: Runtime) -> str:
        return (
            self._project(facts, guess.project)
            or self._unit(facts)
            or _container(facts)
            or guess.name
            or _release(facts, kind)
            or f"unknown_service:{_executable(facts)}"
        )

    def _native(self, facts: Facts, guess: Guess) -> str:
        if unit := self._unit(facts):
            return unit
        name = _executable(facts)
        if is_generic(name):
            home = self._project(facts, posixpath.dirname(facts.exe)) if facts.exe else ""
            return home or _container(facts) or guess.name or name or "unknown_service"
        return guess.name or name

    def _project(self, facts: Facts, folder: str) -> str:
        """From `folder` upwards: package.json's name, or the first directory whose name is not generic."""
        if facts.partial or not folder:
            return ""
        if not folder.startswith("/"):
            folder = posixpath.join(self._procfs.cwd(facts.pid), folder)
        folder = posixpath.normpath(folder)
        node = runtime(facts.exe).family == "node"
        for _ in range(_CLIMB):
            if not folder.startswith("/") or folder == "/" or posixpath.dirname(folder) in _PEOPLE:
                return ""
            if node and (name := self._package(facts.pid, folder)):
                return name
            if not is_generic_directory(posixpath.basename(folder)):
                return posixpath.basename(folder)
            folder = posixpath.dirname(folder)
        return ""

    def _package(self, pid: int, folder: str) -> str:
        try:
            package = json.loads(self._procfs.file(pid, posixpath.join(folder, "package.json")) or b"{}")
        except ValueError:
            return ""
        name = package.get("name") if isinstance(package, dict) else None
        return name.rpartition("/")[2] if isinstance(name, str) and not is_generic(name) else ""

    def _unit(self, facts: Facts) -> str:
        unit = systemd_unit(facts.cgroup)
        if not unit or unit == systemd_unit(self._procfs.cgroup(facts.ppid)):
            return ""
        return unit


def explicit_name(facts: Facts) -> str:
    """What the process's own OpenTelemetry environment calls it, "" if nothing. An empty variable is unset."""
    if name := facts.environ.get("OTEL_SERVICE_NAME", "").strip():
        return name
    return resource_attributes(facts.environ.get("OTEL_RESOURCE_ATTRIBUTES", "")).get("service.name", "")


def _container(facts: Facts) -> str:
    """The container's or pod's host name without what Kubernetes appended, unless it is random."""
    host = facts.environ.get("HOSTNAME", "")
    pod = pod_uid(facts.cgroup)
    if not host or not (pod or container_id(facts.cgroup)) or _HEX.fullmatch(host):
        return ""
    return _REPLICA.sub("", host) if pod else host


def _release(facts: Facts, kind: Runtime) -> str:
    """Elixir releases carry their name in the environment."""
    return facts.environ.get("RELEASE_NAME", "") if kind.family == "erlang" else ""


def _executable(facts: Facts) -> str:
    """Base name of the executable; as called where one file is many programs or has no name of its own."""
    called = base_name(facts.cmdline[0].split(" ")[0]) if facts.cmdline else facts.comm
    if not facts.exe or facts.exe.startswith(("/memfd:", "/dev/fd/", "/proc/self/fd/")):
        return called
    return called if called and runtime(facts.exe).family == "shell" else base_name(facts.exe)
