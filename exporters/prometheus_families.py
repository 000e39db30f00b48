# SPDX-License-Identifier: Apache-2.0
"""OpenTelemetry metrics in Prometheus's terms: families, labels, classic buckets. No I/O.

In: `Metric`s of many resources. Out: `Family`s, one per name, for the text and protobuf expositions. The rule it
protects: a classic bucket's count is exact. Exponential buckets are told at boundaries that are powers of two, each of
which is a boundary of every exponential scale, so nothing is split or estimated.

Source: OpenTelemetry specification, "Prometheus and OpenMetrics Compatibility".
"""

from __future__ import annotations

import json
import math
import re
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Final, NamedTuple

from instrumenter.model import (
    Exemplar,
    ExplicitBuckets,
    ExponentialBuckets,
    HistogramPoint,
    Metric,
    NumberPoint,
    Resource,
    Value,
)

# `le` of exponential histograms: 61 us to 32 s, doubling; body sizes 0, then 64 B to 64 MiB, by fours.
LE_SECONDS: Final = tuple(2.0**k for k in range(-14, 6))
LE_BYTES: Final = (0.0, *(2.0**k for k in range(6, 27, 2)))

_UNITS: Final[Mapping[str, str]] = {"s": "seconds", "ms": "milliseconds", "By": "bytes", "1": "ratio", "%": "percent"}
_IDENTITY: Final = ("service.name", "service.namespace", "service.instance.id")


class Point(NamedTuple):
    """One series of a family: label names and values sorted by name, and its number or histogram."""

    labels: tuple[tuple[str, str], ...]
    point: NumberPoint | HistogramPoint


@dataclass(slots=True)
class Family:
    """All series of one name. `name` has its unit but not `_total`; type: histogram, counter or gauge."""

    name: str
    type: str
    help: str
    unit: str
    points: list[Point] = field(default_factory=list)


class ClassicBucket(NamedTuple):
    """How many values are at most `le`, and the newest exemplar between the bucket before and this."""

    le: float
    at_most: int
    exemplar: Exemplar | None


def families(metrics: Sequence[Metric]) -> list[Family]:
    """Families by name, `target_info` first. A metric whose name is taken by another type or unit is left out."""
    info = Family("target_info", "gauge", "Target metadata", "")
    found: dict[str, Family] = {}
    identities: dict[int, tuple[tuple[str, str], ...]] = {}
    for metric in metrics:
        identity = identities.get(id(metric.resource))
        if identity is None:
            identity = identities[id(metric.resource)] = _identity(metric.resource)
            others = [(k, v) for k, v in metric.resource.attributes if k not in _IDENTITY]
            info.points.append(Point(_labels(others, identity), NumberPoint((), 0, 0, 1)))
        unit = _unit(metric)
        name = family_name(metric.name, unit)
        family = found.setdefault(name, Family(name, metric.kind, metric.description, unit))
        if (family.type, family.unit) == (metric.kind, unit):
            family.points += [Point(_labels(p.attributes, identity), p) for p in metric.points]
    return [f for f in (info, *found.values()) if f.points]


def family_name(name: str, unit: str) -> str:
    """Letters, digits and single underscores, with the unit at the end; without `_total`."""
    clean = re.sub(r"_+", "_", re.sub(r"[^a-zA-Z0-9_:]", "_", name)).strip("_").removesuffix("_total")
    if unit and not clean.endswith("_" + unit):
        clean += "_" + unit
    return "_" + clean if clean[:1].isdigit() else clean


def _unit(metric: Metric) -> str:
    """Prometheus's word for a unit; annotations like {request} are none, and only a gauge of unit 1 is a ratio."""
    if metric.unit.startswith("{") or (metric.unit == "1" and metric.kind != "gauge"):
        return ""
    return _UNITS.get(metric.unit, re.sub(r"[^a-zA-Z0-9]+", "_", metric.unit).strip("_"))


def _identity(resource: Resource) -> tuple[tuple[str, str], ...]:
    name, namespace, instance = (_text(resource.get(key)) for key in _IDENTITY)
    job = f"{namespace}/{name}" if namespace else name
    return tuple((k, v) for k, v in (("job", job), ("instance", instance)) if v)


def _labels(
    attributes: Iterable[tuple[str, Value]], identity: Iterable[tuple[str, str]]
) -> tuple[tuple[str, str], ...]:
    """Attributes as labels; of two that become the same name the values are joined by `;`, in order of their keys."""
    labels: dict[str, str] = {}
    for key, value in attributes:
        name = re.sub(r"[^a-zA-Z0-9_]", "_", key)
        name = "key_" + name if name[:1].isdigit() else name
        labels[name] = f"{labels[name]};{_text(value)}" if name in labels else _text(value)
    labels.update(identity)
    return tuple(sorted(labels.items()))


def _text(value: Value) -> str:
    if isinstance(value, bool | tuple):
        return json.dumps(value, separators=(",", ":"), ensure_ascii=False)
    return str(value)


def classic(point: HistogramPoint, unit: str) -> list[ClassicBucket]:
    """Cumulative classic buckets, +Inf last and equal to the point's count. unit: the family's."""
    buckets = point.buckets
    if isinstance(buckets, ExplicitBuckets):
        bounds, counts = buckets.bounds, list(accumulate(buckets.counts))[:-1]
    else:
        bounds = LE_SECONDS if unit == "seconds" else LE_BYTES
        counts = _at_powers_of_two(buckets, bounds)
    newest: dict[int, Exemplar] = {}
    for exemplar in sorted(point.exemplars, key=lambda e: e.time_ns):
        newest[bisect_left(bounds, exemplar.value)] = exemplar
    les = (*bounds, float("inf"))
    return [
        ClassicBucket(le, n, newest.get(i)) for i, (le, n) in enumerate(zip(les, [*counts, point.count], strict=True))
    ]


def _at_powers_of_two(buckets: ExponentialBuckets, bounds: Sequence[float]) -> list[int]:
    """How many values are at or below each bound, 0 or a power of two."""
    sums = [0, *accumulate(buckets.counts)]
    out = []
    for bound in bounds:
        below = 0
        if bound:
            # bucket i ends at 2^((i+1) / 2^scale), which is at most 2^k for i < k * 2^scale
            power = math.frexp(bound)[1] - 1
            below = sums[min(max(power * 2**buckets.scale - buckets.offset, 0), len(buckets.counts))]
        out.append(below + (buckets.zero_count if buckets.zero_threshold <= bound else 0))
    return out


def exemplar_labels(exemplar: Exemplar) -> dict[str, str]:
    """The labels by which an exemplar names its trace."""
    return {"trace_id": exemplar.trace_id.hex(), "span_id": exemplar.span_id.hex()}
