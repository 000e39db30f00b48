# SPDX-License-Identifier: Apache-2.0
"""What the path of a process's control group tells: container, Kubernetes pod, systemd unit.

In: the text of /proc/PID/cgroup, v1 or v2 (cgroups(7)). Out: ids, "" where there is none. The rule: patterns match
what the runtimes write (docker, containerd, CRI-O, podman, with the cgroupfs and the systemd driver; the table is in
tests/test_discovery_enrich.py), never just "something hexadecimal".
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

# .../docker/<id>, .../docker-<id>.scope, .../cri-containerd-<id>.scope, .../crio-<id>, .../libpod-<id>.scope/container,
# .../kubepods/burstable/pod<uid>/<id>, ECS: /ecs/<task>/<id> and .../<task>-<number>
_CONTAINER: Final = re.compile(r"[/:-]([0-9a-f]{64}|[0-9a-f]{32}-\d{8,10})(?:\.scope)?(?=/|$)")
_POD: Final = re.compile(r"[-/]pod([0-9a-f]{8}(?:[-_][0-9a-f]{4}){3}[-_][0-9a-f]{12}|[0-9a-f]{32})(?=[./]|$)")
_UNIT: Final = re.compile(r"/([^/]+)\.service(?=/|$)")
_ESCAPE: Final = re.compile(r"\\x([0-9a-f]{2})")


def _paths(text: str) -> Iterator[str]:
    """The path of every hierarchy; lines are `id:controllers:path`."""
    for line in text.splitlines():
        yield line.split(":", 2)[-1]


def container_id(text: str) -> str:
    """64 hexadecimal digits (ECS on Fargate: 32 and a number); of containers in containers the innermost."""
    for path in _paths(text):
        found = ""
        for match in _CONTAINER.finditer(path):
            if not path[: match.start()].endswith("conmon"):  # libpod-conmon-<id>: the monitor outside the container
                found = match[1]
        if found:
            return found
    return ""


def pod_uid(text: str) -> str:
    """`metadata.uid` of the Kubernetes pod; static pods have 32 digits without dashes."""
    for path in _paths(text):
        if "kubepods" in path and (match := _POD.search(path)):
            return match[1].replace("_", "-")
    return ""


def systemd_unit(text: str) -> str:
    """Name of the innermost service unit without `.service`, unescaped; none for sessions and user managers."""
    for path in _paths(text):
        units = [u for u in _UNIT.findall(path) if not u.startswith("user@")]
        if units:
            return _ESCAPE.sub(lambda m: chr(int(m[1], 16)), units[-1])
    return ""
