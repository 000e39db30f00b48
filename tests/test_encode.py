# SPDX-License-Identifier: Apache-2.0
"""Spans to OTLP bytes, held to what opentelemetry-proto makes of the same spans, bit for bit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import otlp_spans
import pytest
from exchanges import FixedRegistry, mix
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from exporters import template
from exporters.encode import SpanEncoder
from exporters.envelope import Body
from exporters.page import Page, Scratch, varint_size
from instrumenter.model import KIND_CLIENT, KIND_SERVER, Resource, Shape, Spans, Text, Value
from instrumenter.names import Namer
from instrumenter.telemetry import Counters

EDGES = [0, 1, 127, 128, 16_383, 16_384, 2**21 - 1, 2**21, 2**28, 2**35, 2**42, 2**49, 2**56 - 1, 2**56, 2**63 - 1]
RESOURCES = [
    Resource((("service.name", "shop"),)),
    Resource((("process.command_args", ("a", "b")), ("process.pid", 7), ("service.name", "cart"))),
    Resource(()),
]
SHAPES = [
    Shape("GET /users/*", KIND_SERVER, 0, (("http.request.method", "GET"), ("http.response.status_code", 200))),
    Shape("GET", KIND_CLIENT, 2, (("error.type", "500"), ("url.template", "/" + "ä" * 90)), "refused"),
    Shape("", 0, 1, ()),
    Shape("all kinds of values", 1, 0, (
        ("b", True), ("c", False), ("d", 1.5), ("e", -1), ("f", 0), ("g", ""), ("h", ("x", "")), ("i", ()), ("j", 0.0),
        ("k", "x" * 200),
    )),
]  # fmt: skip


def column(rng: np.random.Generator, rows: int, widest: int, absent: float) -> Text:
    """Texts of random lengths, some absent; what is beyond a text is garbage."""
    data = rng.integers(0x20, 0x7F, (rows, widest), dtype=np.uint8)
    length = rng.integers(0, widest + 1, rows).astype(np.int32)
    length[rng.random(rows) < absent] = -1
    for row, n in enumerate(length):
        data[row, max(n, 0) :] = 0xFF
    return Text(data, length)


def random_spans(seed: int, rows: int, widest: int = 300) -> Spans:
    rng = np.random.default_rng(seed)
    parent = rng.integers(0, 256, (rows, 8), dtype=np.uint8)
    parent[rng.random(rows) < 0.5] = 0
    start = rng.integers(0, 2**62, rows).astype(np.uint64)
    start[rng.random(rows) < 0.1] = 0
    number = rng.choice(EDGES, rows).astype(np.int64)
    number[rng.random(rows) < rng.random()] = -1
    return Spans(
        RESOURCES, SHAPES,
        rng.integers(0, len(RESOURCES), rows).astype(np.int32), rng.integers(0, len(SHAPES), rows).astype(np.int32),
        rng.integers(0, 256, (rows, 16), dtype=np.uint8), rng.integers(0, 256, (rows, 8), dtype=np.uint8), parent,
        rng.integers(0, 256, rows, dtype=np.uint8), start, start + rng.integers(0, 2, rows).astype(np.uint64),
        {
            "always": rng.choice(EDGES, rows).astype(np.int64),
            "sometimes": number,
            "small": rng.integers(0, 128, rows),
            "never": np.full(rows, -1, np.int64),
        },
        {
            "short": column(rng, rows, 20, 0.3),
            "long": column(rng, rows, widest, 0.3),
            "all": column(rng, rows, 110, 0.0),
            "none": column(rng, rows, 5, 1.0),
            "empty": Text(np.zeros((rows, 0), np.uint8), np.zeros(rows, np.int32)),
        },
        column(rng, rows, 40, 0.5),
    )  # fmt: skip


def any_value(value: Value) -> AnyValue:
    made = AnyValue()
    if isinstance(value, bool):
        made.bool_value = value
    elif isinstance(value, int):
        made.int_value = value
    elif isinstance(value, float):
        made.double_value = value
    elif isinstance(value, str):
        made.string_value = value
    else:
        made.array_value.values.extend([any_value(v) for v in value])
    return made


def text(of: Text, row: int) -> str | None:
    length = int(of.length[row])
    return None if length < 0 else of.data[row, :length].tobytes().decode()


def expected(spans: Spans, row: int) -> Any:
    """The span of a row as opentelemetry-proto makes it, field by field."""
    shape = spans.shapes[spans.shape[row]]
    parent = spans.parent_id[row].tobytes()
    remote = 0x200 if shape.kind == KIND_SERVER and any(parent) else 0
    made: Any = Span(
        trace_id=spans.trace_id[row].tobytes(), span_id=spans.span_id[row].tobytes(),
        parent_span_id=parent if any(parent) else b"", trace_state=text(spans.trace_state, row) or "",
        name=shape.name, kind=shape.kind, start_time_unix_nano=int(spans.start_ns[row]),
        end_time_unix_nano=int(spans.end_ns[row]), flags=int(spans.flags[row]) | 0x100 | remote,
    )  # fmt: skip
    if shape.status or shape.status_message:
        made.status.CopyFrom(Status(code=shape.status, message=shape.status_message))
    pairs = list(shape.attributes)
    pairs += [(k, int(v[row])) for k, v in spans.ints.items() if v[row] >= 0]
    pairs += [(k, t) for k, v in spans.texts.items() if (t := text(v, row)) is not None]
    for key, value in pairs:
        made.attributes.add(key=key, value=any_value(value))
    return made


def check(spans: Spans, requests: Sequence[tuple[Body, int]]) -> None:
    """The requests hold exactly the spans, each under its resource, bit for bit."""
    found: list[tuple[bytes, bytes]] = []
    for data, count in requests:
        message = otlp_spans.parse(data)
        before = len(found)
        for group in message.resource_spans:
            (scope_spans,) = group.scope_spans
            found += [(group.resource.SerializeToString(), s.SerializeToString()) for s in scope_spans.spans]
        assert len(found) - before == count
    wanted = []
    for row in range(len(spans)):
        resource: Any = ExportTraceServiceRequest().resource_spans.add().resource
        for key, value in spans.resources[spans.resource[row]].attributes:
            resource.attributes.add(key=key, value=any_value(value))
        wanted.append((resource.SerializeToString(), expected(spans, row).SerializeToString()))
    assert sorted(found) == sorted(wanted)


@pytest.mark.parametrize("seed", range(12))
def test_random_batches(seed: int) -> None:
    spans = random_spans(seed, rows=1 + 40 * seed, widest=(5, 126, 127, 128, 300, 17_000)[seed % 6])
    check(spans, SpanEncoder().encode(spans))


@pytest.mark.parametrize("row", range(20))
def test_every_row_alone(row: int) -> None:
    spans = random_spans(99, 20).take(slice(row, row + 1))
    check(spans, SpanEncoder().encode(spans))


@pytest.mark.parametrize("diverse", [False, True])
def test_named_exchanges(diverse: bool) -> None:
    spans = Namer(FixedRegistry(), Counters()).spans(mix(400, diverse=diverse), 10**18)
    check(spans, SpanEncoder().encode(spans))


def test_text_lengths_around_every_length_of_a_length() -> None:
    """An attribute's three nested lengths each grow a byte at another length of the text."""
    lengths = np.array([*range(100, 140), *range(16_360, 16_400)], np.int32)
    one = random_spans(3, len(lengths))
    data = np.full((len(lengths), int(lengths.max())), ord("x"), np.uint8)
    spans = replace(one, ints={}, texts={"text": Text(data, lengths)})
    check(spans, SpanEncoder().encode(spans))
    for row in range(0, len(lengths), 7):
        alone = spans.take(slice(row, row + 1))
        check(alone, SpanEncoder().encode(alone))


@pytest.mark.parametrize(("max_bytes", "max_spans"), [(65_536, 8192), (65_536, 7), (3_500_000, 100), (100_000, 150)])
def test_requests_stay_below_their_limits(max_bytes: int, max_spans: int) -> None:
    spans = random_spans(5, 1500)
    requests = SpanEncoder(max_bytes, max_spans).encode(spans)
    assert max(len(data) for data, _ in requests) <= max_bytes
    assert max(count for _, count in requests) <= max_spans
    assert sum(count for _, count in requests) == 1500
    least = max(1500 // max_spans, sum(len(data) for data, _ in requests) // max_bytes)
    assert len(requests) <= 1.2 * least + 2  # and are not needlessly small
    check(spans, requests)


def test_a_span_larger_than_a_request_is_alone_in_one() -> None:
    spans = random_spans(6, 3, widest=100_000)
    length = np.array([5, 90_000, 5], np.int32)
    texts = {"long": Text(np.full((3, 100_000), ord("x"), np.uint8), length)}
    spans = replace(spans, ints={}, texts=texts)
    requests = SpanEncoder(65_536).encode(spans)
    assert sorted(count for data, count in requests if len(data) > 65_536) == [1]
    check(spans, requests)


def test_spans_of_a_resource_are_together() -> None:
    (request,) = SpanEncoder().encode(random_spans(7, 200))
    assert len(otlp_spans.parse(request[0]).resource_spans) == len(RESOURCES)


def test_scope() -> None:
    encoder = SpanEncoder(scope_version="1.2", schema_url="https://opentelemetry.io/schemas/1.37.0")
    (request,) = encoder.encode(random_spans(8, 1))
    scope_spans = otlp_spans.parse(request[0]).resource_spans[0].scope_spans[0]
    assert (scope_spans.scope.name, scope_spans.scope.version) == ("stingless", "1.2")
    assert scope_spans.schema_url == "https://opentelemetry.io/schemas/1.37.0"


@pytest.mark.parametrize(("max_bytes", "max_spans"), [(65_535, 1), (65_536, 0)])
def test_limits_that_make_no_sense(max_bytes: int, max_spans: int) -> None:
    with pytest.raises(ValueError, match="at least"):
        SpanEncoder(max_bytes, max_spans)


def test_an_encoder_carries_nothing_from_batch_to_batch() -> None:
    encoder = SpanEncoder()
    for seed in (1, 2, 1, 3):
        spans = random_spans(seed, 150)
        assert encoder.encode(spans) == SpanEncoder().encode(spans)


def test_names_that_are_no_unicode() -> None:
    one = random_spans(1, 1)
    resource = Resource((("process.executable.path", "/bin/\udcff"),))
    none = np.zeros(1, np.int32)
    spans = replace(one, resources=[resource], shapes=[Shape("x\ud800", 1, 0, ())], resource=none, shape=none)
    spans = replace(spans, ints={}, texts={})
    ((found, span),) = otlp_spans.spans(SpanEncoder().encode(spans))
    assert (found, span["name"]) == ({"process.executable.path": "/bin/?"}, "x?")


def test_what_is_remembered_is_bounded_and_by_identity() -> None:
    made: list[str] = []

    def make(key: str) -> str:
        made.append(key)
        return key.upper()

    remembered = template.Remembered(make, limit=2)
    a, b, c = "a" * 40, "b" * 40, "c" * 40
    assert [remembered.get(k) for k in (a, b, a, c, a, b)] == [k.upper() for k in (a, b, a, c, a, b)]
    assert made == [a, b, c, b]  # b was used least recently when c came


@pytest.mark.parametrize("value", [*EDGES, -1, -(2**63)])
def test_varint(value: int) -> None:
    proto: Any = AnyValue(int_value=value)
    made = proto.SerializeToString()
    assert template.any_value(value) == made
    if value >= 0:
        assert int(varint_size(np.array([value], np.int64))[0]) == len(made) - 1


def test_a_page_used_again_shows_nothing_of_the_last() -> None:
    scratch = Scratch()
    for rows, size in ((4, 9), (2, 3), (3, 9)):
        page = Page(rows)
        page.ragged(np.full((rows, size), rows, np.uint8), np.arange(rows, dtype=np.int64))
        packed = page.pack(1, scratch)
        want = b"".join(b"\n" + bytes([n]) + bytes([rows]) * n for n in range(rows))
        assert packed.data.tobytes() == want
        assert packed.length.tolist() == [n + 2 for n in range(rows)]
