# SPDX-License-Identifier: Apache-2.0
"""What a recording has in place of a kernel and a /proc: the services it names, and RED counted from its exchanges.

In: a recording's metadata and records. Out: what `Registry` and `Program` give live. The rule: a replayed exchange is
counted by the kernel's own rules (abi.h), so that its metrics are those of a live run without sampling and losses.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from instrumenter.bpf.abi import SETTINGS, Sampler
from instrumenter.counted import Counts
from instrumenter.discovery.services import ServiceInfo
from instrumenter.histogram import Histograms
from instrumenter.model import Resource
from instrumenter.records import Records


class Named(Protocol):
    def resource(self, svc: int) -> Resource | None: ...


def describe(svcs: Iterable[int], services: Named) -> dict[str, dict[str, dict[str, Any]]]:
    """Metadata for a recording: who these service numbers are. Unselected ones are left out."""
    found = {svc: services.resource(svc) for svc in svcs}
    return {"services": {str(svc): dict(r.attributes) for svc, r in found.items() if r is not None}}


class Recorded:
    """Answers as `Registry` (handle, resource, name, services) and as `Program` (read_red, delete_red) do."""

    def __init__(self, metadata: Mapping[str, Any], histograms: Histograms) -> None:
        self._resources = {int(svc): _resource(a) for svc, a in metadata.get("services", {}).items()}
        self._counts = Counts(histograms)

    def handle(self, events: NDArray[Any]) -> None:
        """Processes of another time: nobody to tell."""

    def resource(self, svc: int) -> Resource | None:
        return self._resources.get(svc)

    def name(self, svc: int) -> str:
        found = self._resources.get(svc)
        return str(found.get("service.name")) if found else ""

    def services(self) -> Sequence[ServiceInfo]:
        return ()

    def count(self, records: Records) -> None:
        """Add a batch's exchanges to the counts."""
        for exchanges in records.exchanges:
            self._counts.add(exchanges.x)

    @staticmethod
    def sampling() -> NDArray[np.void]:
        """abi.SETTINGS for what is made of a recording's frames: everything goes on."""
        settings = np.zeros((), SETTINGS)
        settings["spans"], settings["sampler"] = 1, Sampler.ALWAYS_ON
        settings["service_keys"] = settings["total_keys"] = np.iinfo(np.uint32).max
        return settings

    def read_red(self) -> tuple[NDArray[np.void], NDArray[np.void]]:
        """Keys RED_KEY (n,) and values RED (n, 1)."""
        return self._counts.read_red()

    def delete_red(self, keys: NDArray[np.void]) -> NDArray[np.void]:
        return self._counts.delete_red(keys)


def _resource(attributes: Mapping[str, Any]) -> Resource:
    return Resource(tuple(sorted((k, tuple(v) if isinstance(v, list) else v) for k, v in attributes.items())))
