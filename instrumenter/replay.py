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

from instrumenter.bpf.abi import RED, RED_KEY
from instrumenter.discovery.services import ServiceInfo
from instrumenter.histogram import Histograms
from instrumenter.model import U64, Resource
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
        self._layouts = histograms
        self._rows: dict[bytes, NDArray[np.void]] = {}

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
            x = exchanges.x
            keys, group = np.unique(np.ascontiguousarray(x["key"]).view("V24"), return_inverse=True)
            duration = _buckets(self._layouts.duration.bounds, x["end_ns"] - x["start_ns"])
            request = _buckets(self._layouts.size.bounds, x["request_bytes"])
            response = _buckets(self._layouts.size.bounds, x["response_bytes"])
            for i, key in enumerate(keys):
                row = self._rows.setdefault(key.tobytes(), np.zeros((), RED))
                mine = group == i
                row["count"] += np.uint64(mine.sum())
                row["sum_ns"] += (x["end_ns"][mine] - x["start_ns"][mine]).sum(dtype=np.uint64)
                for name in ("request_bytes", "response_bytes"):
                    row[name] += x[name][mine].sum(dtype=np.uint64)
                for name, at in (("duration", duration), ("request_size", request), ("response_size", response)):
                    row[name] += np.bincount(at[mine], minlength=row[name].shape[0]).astype(np.uint32)
                row["learned"] = 1

    def read_red(self) -> tuple[NDArray[np.void], NDArray[np.void]]:
        """Keys RED_KEY (n,) and values RED (n, 1)."""
        keys = np.frombuffer(b"".join(self._rows), RED_KEY)
        return keys, np.array(list(self._rows.values()), RED).reshape(len(self._rows), 1)

    def delete_red(self, keys: NDArray[np.void]) -> NDArray[np.void]:
        rows = [self._rows.pop(key.tobytes(), np.zeros((), RED)) for key in keys]
        return np.array(rows, RED).reshape(len(rows), 1)


def _resource(attributes: Mapping[str, Any]) -> Resource:
    return Resource(tuple(sorted((k, tuple(v) if isinstance(v, list) else v) for k, v in attributes.items())))


def _buckets(bounds: U64, values: U64) -> NDArray[np.intp]:
    """abi.h: the first bucket with value <= bound."""
    return np.searchsorted(bounds, values, side="left")
