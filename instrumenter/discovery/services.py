# SPDX-License-Identifier: Apache-2.0
"""Which service a watched process is an instance of.

In: `Facts`. Out: `Service`: an identity and, made when first asked for, its `Resource`. The rule this file protects:
workers that a process made of its own program (pre-fork servers, multiprocessing, Node's cluster) are the service
instance of that process, their leader. They share its `Service`, so their telemetry merges when exported.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple

from instrumenter.discovery.otel_env import resource_attributes
from instrumenter.discovery.procfs import Facts, ProcFS
from instrumenter.discovery.service_name import ServiceNamer
from instrumenter.enrich.cgroup import container_id, pod_uid
from instrumenter.enrich.resource import Identity, ResourceBuilder
from instrumenter.enrich.runtime import base_name
from instrumenter.model import Resource

_CLIMB: Final = 16  # generations of workers that are followed to their leader


class Service:
    """One service instance. ports: TCP ports that its processes have been seen to listen on."""

    __slots__ = ("_builder", "_resource", "identity", "ports")

    def __init__(self, identity: Identity, builder: ResourceBuilder) -> None:
        self.identity = identity
        self.ports: set[int] = set()
        self._builder = builder
        self._resource: Resource | None = None

    @property
    def resource(self) -> Resource:
        if self._resource is None:
            self._resource = self._builder.build(self.identity)
        return self._resource

    def has_worker(self, exe: str, name: str, namespace: str) -> bool:
        """Whether a child process of this executable and name is a worker of this service."""
        own = self.identity
        return bool(exe) and (own.exe, own.name, own.namespace) == (exe, name, namespace)


@dataclass(frozen=True, slots=True)
class ServiceInfo:
    """A selected service for people to look at. pid: its leader's; processes: how many live; svcs: service numbers.

    active: it listens, or exchanges of it have been seen.
    """

    name: str
    namespace: str
    language: str
    pid: int
    exe: str
    ports: tuple[int, ...]
    svcs: tuple[int, ...]
    processes: int
    active: bool


class Found(NamedTuple):
    """What is known of a process before it belongs to a service."""

    facts: Facts
    name: str
    own: Mapping[str, str]

    @property
    def namespace(self) -> str:
        return self.own.get("service.namespace", "")


class Finder:
    """Makes or finds the `Service` of a process."""

    def __init__(self, procfs: ProcFS, namer: ServiceNamer, builder: ResourceBuilder) -> None:
        self._procfs = procfs
        self._namer = namer
        self._builder = builder

    def look(self, facts: Facts) -> Found:
        own = resource_attributes(facts.environ.get("OTEL_RESOURCE_ATTRIBUTES", ""))
        return Found(facts, self._namer.name(facts), own)

    def service(self, facts: Facts, parent: Service | None) -> Service:
        """parent: the service of the parent process, if that is watched."""
        found = self.look(facts)
        if parent is not None and parent.has_worker(facts.exe, found.name, found.namespace):
            return parent
        return Service(_identity(self._leader(found) if parent is None else found), self._builder)

    def _leader(self, found: Found) -> Found:
        """The oldest ancestor without a break of the same program under the same name."""
        for _ in range(_CLIMB):
            facts = found.facts
            if facts.partial or not facts.exe or self._procfs.exe(facts.ppid) != facts.exe:
                break
            parent = self._procfs.facts(facts.ppid)
            if parent is None:
                break
            above = self.look(parent)
            if (above.name, above.namespace) != (found.name, found.namespace):
                break
            found = above
        return found


def _identity(found: Found) -> Identity:
    facts = found.facts
    return Identity(
        found.name,
        facts.pid,
        facts.ppid,
        facts.start_ticks,
        facts.exe,
        _command(facts),
        facts.uid,
        container_id(facts.cgroup),
        pod_uid(facts.cgroup),
        found.own,
    )


def _command(facts: Facts) -> str:
    """argv[0]; of a rewritten title only the first word, because the rest may be arguments."""
    first = facts.cmdline[0] if facts.cmdline else facts.comm
    return first if base_name(first) == base_name(facts.exe) else first.partition(" ")[0].rstrip(":")
