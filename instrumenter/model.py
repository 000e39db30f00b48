# SPDX-License-Identifier: Apache-2.0
"""The types that stages hand to each other, and nothing else.

`source` gives `Exchanges` and `Events` (the records of probes/include/abi.h as NumPy structured arrays);
`traces` and `names` make `Spans` of them; `metrics` makes `Metric`s of the kernel's maps; `exporters` take both.
After `names`, nothing asks which protocol a span came from: what is left are keys and values.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

T = TypeVar("T", bound=np.generic)
Value = str | int | float | bool | tuple[str, ...]
Attributes = tuple[tuple[str, Value], ...]  # sorted by key, keys unique

U8 = NDArray[np.uint8]
I32 = NDArray[np.int32]
I64 = NDArray[np.int64]
U64 = NDArray[np.uint64]

# opentelemetry.proto.trace.v1.Span.SpanKind and Status.StatusCode
KIND_INTERNAL, KIND_SERVER, KIND_CLIENT = 1, 2, 3
STATUS_UNSET, STATUS_OK, STATUS_ERROR = 0, 1, 2


@dataclass(frozen=True, slots=True)
class Resource:
    """Who produced the telemetry: the resource attributes of one service instance."""

    attributes: Attributes
    _hash: int = field(init=False, repr=False, compare=False)  # taken once: every series is found by its resource

    def __post_init__(self) -> None:
        object.__setattr__(self, "_hash", hash(self.attributes))

    def __hash__(self) -> int:
        return self._hash

    def get(self, key: str, default: str = "") -> Value:
        return next((v for k, v in self.attributes if k == key), default)


@dataclass(frozen=True, slots=True)
class Shape:
    """All of a span that many spans share. Interned: a column of small integers refers to it."""

    name: str
    kind: int
    status: int
    attributes: Attributes  # the constant ones
    status_message: str = ""


class Text(NamedTuple):
    """A column of strings: row i is data[i, :length[i]], UTF-8; length -1 means absent."""

    data: U8  # (n, widest)
    length: I32  # (n,)


@dataclass(frozen=True, slots=True)
class Spans:
    """A batch of finished spans by columns, n rows.

    `resource` and `shape` index the two sequences. Varying attributes are `ints` (absent: -1) and `texts`.
    Times are nanoseconds since the epoch. A parent id of zeros means a root span.
    """

    resources: Sequence[Resource]
    shapes: Sequence[Shape]
    resource: I32
    shape: I32
    trace_id: U8  # (n, 16)
    span_id: U8  # (n, 8)
    parent_id: U8  # (n, 8)
    flags: U8  # W3C trace flags
    start_ns: U64
    end_ns: U64
    ints: Mapping[str, I64]
    texts: Mapping[str, Text]
    trace_state: Text

    def __len__(self) -> int:
        return len(self.shape)

    def take(self, rows: slice | NDArray[np.intp]) -> Spans:
        """The given rows, in that order, sharing resources and shapes."""

        def of(column: NDArray[T]) -> NDArray[T]:
            return column[rows] if isinstance(rows, slice) else column.take(rows, 0)

        return Spans(
            self.resources, self.shapes, of(self.resource), of(self.shape), of(self.trace_id),
            of(self.span_id), of(self.parent_id), of(self.flags), of(self.start_ns), of(self.end_ns),
            {k: of(v) for k, v in self.ints.items()},
            {k: Text(of(t.data), of(t.length)) for k, t in self.texts.items()},
            Text(of(self.trace_state.data), of(self.trace_state.length)),
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Exemplar:
    value: float
    time_ns: int
    trace_id: bytes
    span_id: bytes


@dataclass(frozen=True, slots=True)
class ExponentialBuckets:
    """OTLP base-2 exponential buckets: counts[i] holds values in (base^(offset+i), base^(offset+i+1)].

    base = 2^(2^-scale).
    """

    scale: int
    offset: int
    counts: tuple[int, ...]
    zero_count: int = 0
    zero_threshold: float = 0.0


@dataclass(frozen=True, slots=True)
class ExplicitBuckets:
    """counts[i] holds values in (bounds[i-1], bounds[i]]; one count more than bounds."""

    bounds: tuple[float, ...]
    counts: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class HistogramPoint:
    attributes: Attributes
    start_ns: int
    time_ns: int
    count: int
    sum: float
    buckets: ExponentialBuckets | ExplicitBuckets
    exemplars: tuple[Exemplar, ...] = ()


@dataclass(frozen=True, slots=True)
class NumberPoint:
    attributes: Attributes
    start_ns: int
    time_ns: int
    value: int | float


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric of one resource. Always cumulative; an exporter that wants deltas subtracts.

    kind: "histogram" (HistogramPoint), "counter" (monotonic sum) or "gauge" (NumberPoint).
    """

    resource: Resource
    name: str
    unit: str
    description: str
    kind: str
    points: tuple[HistogramPoint, ...] | tuple[NumberPoint, ...] = field(default=())


class SpanExporter(Protocol):
    """Takes batches without blocking: what its bounded queue cannot hold is dropped and counted."""

    def export_spans(self, spans: Spans) -> None: ...

    def close(self, timeout_s: float) -> None:
        """Drain, send, stop. Returns within about timeout_s; what was not sent is counted."""


class MetricExporter(Protocol):
    """Takes a whole cumulative snapshot without blocking."""

    def export_metrics(self, metrics: Sequence[Metric]) -> None: ...

    def close(self, timeout_s: float) -> None: ...
