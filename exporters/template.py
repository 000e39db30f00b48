# SPDX-License-Identifier: Apache-2.0
"""The parts of OTLP trace messages that many spans share, as protobuf bytes.

In: resources and shapes. Out: their bytes, made once and remembered. The rule this file protects: canonical protobuf,
what a parser of opentelemetry-proto writes again bit for bit: fields by number, shortest varints, no default values.
Sources: opentelemetry/proto/trace/v1/trace.proto, common/v1/common.proto; protobuf's encoding guide.
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Callable, Sequence
from typing import Final, Generic, NamedTuple, TypeVar

import numpy as np

from instrumenter.model import I64, U8, Attributes, Resource, Shape, Value

VARINT, FIXED64, LENGTH, FIXED32 = 0, 1, 2, 5  # wire types

# Field numbers of trace.proto and common.proto.
REQUEST_RESOURCE_SPANS = 1
RESOURCE_SPANS_RESOURCE, RESOURCE_SPANS_SCOPE_SPANS = 1, 2
SCOPE_SPANS_SCOPE, SCOPE_SPANS_SPANS, SCOPE_SPANS_SCHEMA_URL = 1, 2, 3
SPAN_TRACE_ID, SPAN_SPAN_ID, SPAN_TRACE_STATE, SPAN_PARENT_SPAN_ID = 1, 2, 3, 4
SPAN_NAME, SPAN_KIND, SPAN_START, SPAN_END, SPAN_ATTRIBUTES = 5, 6, 7, 8, 9
SPAN_STATUS, SPAN_FLAGS = 15, 16
STATUS_MESSAGE, STATUS_CODE = 2, 3
KEY_VALUE_KEY, KEY_VALUE_VALUE = 1, 2
ANY_STRING, ANY_BOOL, ANY_INT, ANY_DOUBLE, ANY_ARRAY = 1, 2, 3, 4, 5
FLAGS_HAS_IS_REMOTE, FLAGS_IS_REMOTE = 0x100, 0x200  # SpanFlags


_SMALL: Final = tuple([bytes((value,)) for value in range(0x80)])


def varint(value: int) -> bytes:
    """A base-128 varint; negative numbers as 64-bit two's complement."""
    if 0 <= value < 0x80:
        return _SMALL[value]
    if 0 <= value < 0x4000:
        return bytes((value & 0x7F | 0x80, value >> 7))
    value &= (1 << 64) - 1
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


@functools.cache
def tag(number: int, wire_type: int) -> bytes:
    return varint(number << 3 | wire_type)


def message(number: int, body: bytes) -> bytes:
    """A field with a length: a message, string or bytes."""
    return tag(number, LENGTH) + varint(len(body)) + body


def text(value: str) -> bytes:
    """UTF-8; what cannot be encoded (lone surrogates of undecodable file names) becomes `?`."""
    return value.encode("utf-8", "replace")


def any_value(value: Value) -> bytes:
    """The fields of an AnyValue. A oneof's member is written even if it is a default."""
    if isinstance(value, bool):
        return tag(ANY_BOOL, VARINT) + varint(value)
    if isinstance(value, int):
        return tag(ANY_INT, VARINT) + varint(value)
    if isinstance(value, float):
        return tag(ANY_DOUBLE, FIXED64) + struct.pack("<d", value)
    if isinstance(value, str):
        return message(ANY_STRING, text(value))
    return message(ANY_ARRAY, b"".join([message(1, any_value(v)) for v in value]))


def key_value(key: str, value: Value) -> bytes:
    """The fields of a KeyValue; the key is not empty."""
    return message(KEY_VALUE_KEY, text(key)) + message(KEY_VALUE_VALUE, any_value(value))


def attributes(number: int, pairs: Attributes) -> bytes:
    """A repeated KeyValue field."""
    return b"".join([message(number, key_value(k, v)) for k, v in pairs])


def resource_field(resource: Resource) -> bytes:
    """ResourceSpans.resource."""
    return message(RESOURCE_SPANS_RESOURCE, attributes(1, resource.attributes))


def scope_field(name: str, version: str) -> bytes:
    """ScopeSpans.scope."""
    body = b"".join([message(number, text(value)) for number, value in ((1, name), (2, version)) if value])
    return message(SCOPE_SPANS_SCOPE, body)


class Fragments(NamedTuple):
    """What a shape puts into its spans, at three places."""

    head: bytes  # name and kind
    attributes: bytes
    tail: bytes  # status


def fragments(shape: Shape) -> Fragments:
    head = message(SPAN_NAME, text(shape.name)) if shape.name else b""
    head += tag(SPAN_KIND, VARINT) + varint(shape.kind) if shape.kind else b""
    status = message(STATUS_MESSAGE, text(shape.status_message)) if shape.status_message else b""
    status += tag(STATUS_CODE, VARINT) + varint(shape.status) if shape.status else b""
    tail = message(SPAN_STATUS, status) if status else b""
    return Fragments(head, attributes(SPAN_ATTRIBUTES, shape.attributes), tail)


K = TypeVar("K")
V = TypeVar("V")


class Remembered(Generic[K, V]):
    """The bytes made of objects that are interned elsewhere, by identity; the least recently used are forgotten."""

    def __init__(self, make: Callable[[K], V], limit: int) -> None:
        self._make = make
        self._limit = limit
        self._known: dict[int, tuple[K, V]] = {}  # the object is held, so its id stays its own

    def get(self, key: K) -> V:
        entry = self._known.pop(id(key), None)
        if entry is None:
            entry = (key, self._make(key))
            if len(self._known) >= self._limit:
                del self._known[next(iter(self._known))]
        self._known[id(key)] = entry
        return entry[1]


class Table(NamedTuple):
    """Byte strings as a matrix: row i is data[i, :length[i]]."""

    data: U8
    length: I64


def table(rows: Sequence[bytes]) -> Table:
    width = max(map(len, rows), default=0)
    data = np.frombuffer(b"".join([row.ljust(width, b"\0") for row in rows]), np.uint8)
    return Table(data.reshape(len(rows), width), np.array([len(row) for row in rows], np.int64))
