# SPDX-License-Identifier: Apache-2.0
"""The machine that the agent runs on, read once.

In: files of the root file system (an argument, so that an agent in a container can be given the host's). Out: the
`host.*` and `os.*` resource attributes, and the names of users. The rule: what cannot be read is left out. Keys:
OpenTelemetry semantic conventions, `host` and `os` resources.
"""

from __future__ import annotations

import os
import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from instrumenter.model import Attributes

_ARCHITECTURES: Final = {"x86_64": "amd64", "aarch64": "arm64", "i686": "x86", "armv7l": "arm32", "ppc64le": "ppc64"}


@dataclass(frozen=True, slots=True)
class Host:
    """host.id is machine-id(5); users: uid -> name."""

    attributes: Attributes
    id: str
    boot_id: str = ""
    users: dict[int, str] = field(default_factory=dict)


def read_host(root: str | Path = "/", boot_id: str = "", name: str = "") -> Host:
    """boot_id: of `ProcFS.boot_id()`. name: host.name, if it is not this machine's own."""
    base = Path(root)
    system = os.uname()
    machine_id = _first_line(base / "etc/machine-id") or _first_line(base / "var/lib/dbus/machine-id")
    release = _os_release(base)
    found = {
        "host.arch": _ARCHITECTURES.get(system.machine, system.machine),
        "host.id": machine_id,
        "host.name": name or system.nodename,
        "os.description": release.get("PRETTY_NAME", ""),
        "os.name": release.get("NAME", ""),
        "os.type": "linux",
        "os.version": release.get("VERSION_ID", ""),
    }
    attributes = tuple((key, value) for key, value in sorted(found.items()) if value)
    return Host(attributes, machine_id or system.nodename, boot_id, _users(base))


def _first_line(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").partition("\n")[0].strip()
    except OSError:
        return ""


def _os_release(base: Path) -> dict[str, str]:
    """os-release(5): shell assignments."""
    for name in ("etc/os-release", "usr/lib/os-release"):
        try:
            lines = (base / name).read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            continue
        pairs = (line.partition("=") for line in lines if "=" in line and not line.startswith("#"))
        return {key.strip(): _unquote(value) for key, _, value in pairs}
    return {}


def _unquote(value: str) -> str:
    try:
        return "".join(shlex.split(value))
    except ValueError:
        return value.strip()


def _users(base: Path) -> dict[int, str]:
    """passwd(5) only: a name service may be a directory across the network, asked once per process."""
    try:
        lines = (base / "etc/passwd").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return {}
    found: dict[int, str] = {}
    for line in lines:
        fields = line.split(":")
        if len(fields) > 2 and fields[2].isdigit():
            found.setdefault(int(fields[2]), fields[0])
    return found
