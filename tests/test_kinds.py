# SPDX-License-Identifier: Apache-2.0
"""Exchanges that are alike: named by kind and written from templates, they are what each one alone would be."""

from __future__ import annotations

from typing import Any

import numpy as np
import otlp_spans
import pytest
from exchanges import SECOND, START, FixedRegistry, exchange, mix, together
from named_spans import CASES, CLIENT_CASES, OFFSET

from exporters.encode import SpanEncoder
from exporters.uniform import joined
from instrumenter.bpf.abi import Direction, Flag
from instrumenter.kinds import kinds
from instrumenter.names import Namer
from instrumenter.records import Exchanges
from instrumenter.telemetry import Counters

SERVER, CLIENT = Direction.SERVER, Direction.CLIENT
WHAT: list[dict[str, Any]] = [
    {"direction": side, **case[0]}
    for side, table in ((SERVER, CASES), (CLIENT, CLIENT_CASES))
    for name, case in table.items()
    if name != "long target"
]


def busy(what: list[dict[str, Any]], rows: int, seed: int = 1) -> Exchanges:
    """`rows` exchanges of each, shuffled, with ids, times, sizes and ports of their own."""
    rng = np.random.default_rng(seed)
    batch = together([exchange(**{"text_size": 2048, **w}) for w in what for _ in range(rows)])
    n = len(batch.x)
    order = rng.permutation(n)
    batch = Exchanges(batch.x[order], batch.text[order])
    x = batch.x
    x["trace_id"], x["span_id"] = rng.integers(1, 256, (n, 16)), rng.integers(1, 256, (n, 8))
    with_parent = rng.random(n) < 0.3
    x["parent_id"][with_parent] = rng.integers(1, 256, (int(with_parent.sum()), 8))
    x["start_ns"] = START + rng.integers(0, SECOND, n)
    answered = x["first_ns"] != 0
    took = (2.0 ** rng.uniform(0, 40, n)).astype(np.int64)
    x["first_ns"] = np.where(answered, x["start_ns"].astype(np.int64) + took, 0)
    x["end_ns"] = x["start_ns"].astype(np.int64) + 2 * took
    for size in ("request_bytes", "response_bytes"):
        x[size] = 2.0 ** rng.uniform(0, 64, n) - 1
    x["trace_flags"] = rng.integers(0, 2, n)
    port = rng.integers(1, 65536, n)
    server = x["key"]["direction"] == SERVER
    x["remote_port"] = np.where(server, port, x["remote_port"])
    x["local_port"] = np.where(server, x["local_port"], port)
    return batch


def both_ways(batch: Exchanges, namer: Namer | None = None) -> None:
    """Named by kind and by columns, the batch is the same spans and the same counts."""
    counted = Counters(), Counters()
    namer = namer or Namer(FixedRegistry(), counted[0])
    namer._counters = counted[0]
    by_kind = [s for part in namer.batches(batch, OFFSET) for _, s in otlp_spans.spans(SpanEncoder().encode(part))]
    whole = Namer(FixedRegistry(), counted[1]).spans(batch, OFFSET)
    by_columns = [s for _, s in otlp_spans.spans(SpanEncoder().encode(whole))]
    assert sorted(by_kind, key=repr) == sorted(by_columns, key=repr)
    assert sorted(counted[0].items()) == sorted(counted[1].items())


@pytest.mark.parametrize("rows", [1, 20, 100])
@pytest.mark.parametrize("what", WHAT, ids=str)
def test_one_kind(what: dict[str, Any], rows: int) -> None:
    both_ways(busy([what], rows))


def test_many_kinds_known_from_before_or_not() -> None:
    namer = Namer(FixedRegistry(), Counters())
    for seed, rows in enumerate((20, 1, 3, 20)):
        both_ways(busy(WHAT, rows, seed), namer)
        both_ways(busy(WHAT[seed * 3 : seed * 3 + 2], rows, seed), namer)


@pytest.mark.parametrize("diverse", [False, True])
def test_a_mix_with_some_that_are_alike_or_left_out(diverse: bool) -> None:
    some = busy([{"target": b"/a"}, {"target": b"/a", "svc": 99}, {"target": b"/b", "flags": Flag.FIRST}], 40)
    others = mix(300, diverse=diverse)
    text = np.zeros((300, some.text.shape[1]), np.uint8)
    text[:, : others.text.shape[1]] = others.text
    both_ways(together([some, Exchanges(others.x, text)]))


def test_what_is_behind_the_text_does_not_matter_and_the_state_neither() -> None:
    rng = np.random.default_rng(3)
    batch = together([exchange(state=b"a=%d" % i, flags=Flag.SAMPLED | Flag.TRACEPARENT) for i in range(50)])
    ends = batch.x["text_len"].tolist()
    for row, end in enumerate(ends):
        batch.text[row, end:] = rng.integers(0, 256, batch.text.shape[1] - end)
    found = kinds(batch.x, batch.text)
    assert found is not None
    assert len(found.first) == 1
    both_ways(batch)


FIELDS = [
    ("key", "route"), ("key", "svc"), ("key", "peer"), ("key", "status"), ("key", "method"), ("key", "protocol"),
    ("key", "direction"), ("key", "outcome"), ("key", "tls"), "target_len", "host_off", "agent_len", "local_addr",
    "remote_addr", "local_port", "tls_version",
]  # fmt: skip


@pytest.mark.parametrize("field", FIELDS, ids=str)
def test_kinds_are_told_apart_by(field: str | tuple[str, str]) -> None:
    batch = busy([{}], 10)
    batch.x["remote_port"] = 51234
    column = batch.x[field[0]][field[1]] if isinstance(field, tuple) else batch.x[field]
    column[4:] -= 1
    found = kinds(batch.x, batch.text)
    assert found is not None
    assert found.group.tolist() == [found.group[0]] * 4 + [found.group[9]] * 6
    assert len(found.first) == 2
    assert found.token(0) != found.token(1)


def test_kinds_are_told_apart_by_every_byte_of_their_text() -> None:
    batch = busy([{}], 60)
    end = int(batch.x["text_len"][0])
    for row in range(1, 1 + min(end, 59)):
        batch.text[row, end - row] ^= 1
    found = kinds(batch.x, batch.text)
    assert found is not None
    assert len(found.first) == 1 + min(end, 59)


def test_records_that_claim_too_much_have_no_kind() -> None:
    batch = busy([{}], 3)
    batch.x["host_off"][1] = 60_000
    assert kinds(batch.x, batch.text) is None
    both_ways(batch)


def test_batches_joined_are_the_same_spans() -> None:
    namer = Namer(FixedRegistry(), Counters())
    parts = [busy([{"svc": svc, "target": b"/%d" % n}], 20, n) for n, svc in enumerate((1, 2, 1, 3))]
    parts += [busy([*WHAT[:5], {"direction": CLIENT}], 20), mix(30), busy([{"direction": CLIENT}], 20)]
    batch = [spans for part in parts for spans in namer.batches(part, OFFSET)]
    whole = joined(batch)
    assert len(whole) == 3  # with servers, of clients alone, and those with texts of their own
    assert sum(map(len, whole)) == sum(map(len, batch))
    before, after = (
        sorted([span for part in some for _, span in otlp_spans.spans(SpanEncoder().encode(part))], key=repr)
        for some in (batch, whole)
    )
    assert before == after


def test_after_a_batch_of_all_kinds_it_is_tried_again_later() -> None:
    namer = Namer(FixedRegistry(), Counters())
    assert namer.batches(mix(200, diverse=True), OFFSET)[0].texts
    again = [bool(namer.batches(busy([{}], 30), OFFSET)[0].texts) for _ in range(12)]
    assert again == sorted(again, reverse=True)
    assert again[0]
    assert not again[-1]
