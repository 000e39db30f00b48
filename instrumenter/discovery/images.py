# SPDX-License-Identifier: Apache-2.0
"""What the registry keeps of every service number, and the rows of events that it is fed with.

In: events, verdicts. Out: `Image`, and `ServiceInfo` for people. The rule: an ignored or idle image holds a few hundred
bytes, because short-lived programs are many.
"""

from __future__ import annotations

from typing import NamedTuple

from instrumenter.bpf.abi import Verdict
from instrumenter.discovery.services import Service, ServiceInfo


class Event(NamedTuple):
    """One row of abi.EVENT."""

    kind: int
    tgid: int
    svc: int
    parent_tgid: int
    port: int
    time_ns: int
    comm: bytes
    filename: bytes


class Image:
    """One service number: a program that was executed, and the processes that run it. service: None if ignored."""

    __slots__ = ("decided_ns", "kin", "live", "ports", "service", "svc", "used", "verdict")

    def __init__(self, svc: int, verdict: Verdict, service: Service | None, kin: tuple[int, ...] = ()) -> None:
        self.svc = svc
        self.verdict = verdict
        self.service = service
        self.kin = kin  # selected or excluded pids that it descends from
        self.ports: frozenset[int] = frozenset()
        self.live = 0
        self.used = False  # whether its resource was ever asked for
        self.decided_ns = 0  # when the kernel had last been told


def describe(images: list[Image]) -> ServiceInfo:
    """images: all of one service."""
    service = images[0].service
    assert service is not None
    identity = service.identity
    return ServiceInfo(
        identity.name,
        identity.namespace,
        identity.language,
        identity.pid,
        identity.exe,
        tuple(sorted(service.ports)),
        tuple(sorted(image.svc for image in images)),
        sum(image.live for image in images),
        bool(service.ports) or any(image.used for image in images),
    )
