# SPDX-License-Identifier: Apache-2.0
"""A RED map as the kernel keeps it, for tests: per CPU, never reset, u32 buckets that wrap.

In: exchanges by key, duration and sizes. Out: what `read_red()` gives. The one rule: the same search for the bucket as
probes/include/red.h.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from instrumenter.bpf.abi import RED, RED_KEY, Direction, Protocol
from instrumenter.histogram import Histograms, exponential
from instrumenter.model import Attributes, Exemplar, Resource

Array = NDArray[np.void]


def red_key(route: int = 1, svc: int = 1, status: int = 200, **fields: int) -> Array:
    key = np.zeros(1, RED_KEY)
    values = {"route": route, "svc": svc, "status": status, "method": 1, "direction": Direction.SERVER}
    for name, value in {**values, "protocol": Protocol.HTTP_1_1, **fields}.items():
        key[name] = value
    return key


class RedMap:
    """Implements metrics.RedReader."""

    def __init__(self, histograms: Histograms | None = None, cpus: int = 2) -> None:
        self.histograms = histograms or exponential()
        self._cpus = cpus
        self.rows: dict[bytes, Array] = {}
        self.deleted: list[bytes] = []

    def count(self, key: Array, ns: Sequence[int], request: int = 0, response: int = 0, cpu: int = 0) -> None:
        """Exchanges of these durations under one key, on one CPU."""
        row = self.row(key)[cpu : cpu + 1]
        row["count"] += np.uint64(len(ns))
        row["sum_ns"] += np.uint64(sum(ns))
        row["request_bytes"] += np.uint64(request * len(ns))
        row["response_bytes"] += np.uint64(response * len(ns))
        places = np.searchsorted(self.histograms.duration.bounds, np.array(ns, np.uint64), side="left")
        np.add.at(row["duration"][0], places, np.uint32(1))
        for name, size in (("request_size", request), ("response_size", response)):
            place = int(np.searchsorted(self.histograms.size.bounds, np.uint64(size), side="left"))
            row[name][0, place] += np.uint32(len(ns))

    def row(self, key: Array) -> Array:
        """The counts of a key by CPU, made if new."""
        return self.rows.setdefault(key.tobytes(), np.zeros(self._cpus, RED))

    def read_red(self) -> tuple[Array, Array]:
        keys = np.frombuffer(b"".join(self.rows), RED_KEY)
        return keys, np.array(list(self.rows.values()), RED).reshape(len(self.rows), self._cpus)

    def delete_red(self, keys: Array) -> None:
        for i in range(len(keys)):
            token = keys[i].tobytes()
            self.deleted.append(token)
            del self.rows[token]


class KnownLabels:
    """Implements metrics.LabelSource: every key is known, its route is its hash, unless told otherwise."""

    def __init__(self) -> None:
        self.unknown: set[bytes] = set()
        self.named: dict[bytes, Attributes] = {}
        self.latest: dict[bytes, tuple[Exemplar, ...]] = {}

    def knows(self, key: bytes) -> bool:
        return key not in self.unknown

    def attributes(self, key: bytes) -> Attributes | None:
        if key in self.unknown:
            return (("http.request.method", "GET"),)
        row = np.frombuffer(key, RED_KEY)[0]
        plain = (("http.response.status_code", int(row["status"])), ("http.route", f"/{int(row['route'])}"))
        return self.named.get(key, plain)

    def exemplars(self, key: bytes) -> Sequence[Exemplar]:
        return self.latest.get(key, ())

    def forget(self, key: bytes) -> None:
        self.named.pop(key, None)


class KnownServices:
    """Implements metrics.Services."""

    def __init__(self, names: Mapping[int, str]) -> None:
        self.resources = {svc: service(name) for svc, name in names.items()}

    def resource(self, svc: int) -> Resource | None:
        return self.resources.get(svc)


def service(name: str, **others: str) -> Resource:
    return Resource(tuple(sorted({"service.name": name, **others}.items())))
