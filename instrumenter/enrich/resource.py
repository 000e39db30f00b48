# SPDX-License-Identifier: Apache-2.0
"""A service instance's resource attributes, put together.

In: an `Identity` (what was read of the process while it lived), the `Host`, the agent's settings. Out: `Resource`. The
rule is the precedence, lowest first: what was found out (host, process, container), the agent's setting
`resource_attributes`, the watched process's own OTEL_RESOURCE_ATTRIBUTES, its name. `telemetry.sdk.*` cannot be
overridden. Keys: OpenTelemetry semantic conventions. The agent's own environment plays no part here.

`telemetry.sdk.language` is the watched process's language, as other eBPF tracers have it and as backends expect when
they draw a service's technology; where an executable's name does not tell, it is `generic`.
The command line's arguments may be secrets, so only `process.command` (argv[0]) is given.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from instrumenter.enrich.host import Host
from instrumenter.enrich.runtime import base_name, runtime
from instrumenter.model import Resource, Value

SDK_NAME: Final = "stingless"
# Names of service instances: UUIDv5 within this namespace, itself v5 of the project's name in the DNS namespace.
_NAMESPACE: Final = uuid.uuid5(uuid.NAMESPACE_DNS, "stingless.service.instance")


@dataclass(frozen=True, slots=True)
class Identity:
    """What is kept of a process to describe the service that it leads. start: clock ticks since boot.

    own: attributes from its OTEL_RESOURCE_ATTRIBUTES.
    """

    name: str
    pid: int
    ppid: int = 0
    start: int = 0
    exe: str = ""
    command: str = ""
    uid: int = -1
    container_id: str = ""
    pod_uid: str = ""
    own: Mapping[str, str] = field(default_factory=dict)

    @property
    def namespace(self) -> str:
        return self.own.get("service.namespace", "")

    @property
    def language(self) -> str:
        """telemetry.sdk.language"""
        return runtime(self.exe, self.command).language or "generic"


@dataclass(frozen=True, slots=True)
class ResourceBuilder:
    """Makes resources. extra: the agent's setting `resource_attributes`; version: the agent's own."""

    host: Host
    version: str
    extra: Mapping[str, str] = field(default_factory=dict)

    def build(self, identity: Identity) -> Resource:
        found: dict[str, Value] = dict(self.host.attributes)
        found |= self._process(identity)
        found |= self.extra
        found |= identity.own
        found["service.name"] = identity.name
        found.setdefault("service.instance.id", self.instance_id(identity))
        found |= {
            "telemetry.sdk.language": identity.language,
            "telemetry.sdk.name": SDK_NAME,
            "telemetry.sdk.version": self.version,
        }
        return Resource(tuple(sorted(found.items())))

    def instance_id(self, identity: Identity) -> str:
        """The same for all workers of one process tree and on every run of the agent; another after a restart of it."""
        tree = f"{self.host.id}/{self.host.boot_id}/{identity.pid}/{identity.start}"
        return str(uuid.uuid5(_NAMESPACE, tree))

    def _process(self, identity: Identity) -> dict[str, Value]:
        found: dict[str, Value] = {
            "process.command": identity.command,
            "process.executable.name": base_name(identity.exe or identity.command),
            "process.executable.path": identity.exe,
            "process.owner": self.host.users.get(identity.uid, ""),
            "process.runtime.name": runtime(identity.exe, identity.command).name,
            "container.id": identity.container_id,
            "k8s.pod.uid": identity.pod_uid,
        }
        found = {key: value for key, value in found.items() if value}
        found["process.pid"] = identity.pid
        if identity.ppid:
            found["process.parent_pid"] = identity.ppid
        return found
