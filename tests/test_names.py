# SPDX-License-Identifier: Apache-2.0
"""Exchanges to whole spans, by table: one differs from the next by what the row says."""

from __future__ import annotations

from typing import Any

import numpy as np
import otlp_spans
import pytest
from exchanges import FixedRegistry, exchange, mix, together
from named_spans import CASES, CLIENT_CASES, CLIENT_SPAN, OFFSET, SERVER_SPAN, Case

from exporters.encode import SpanEncoder
from instrumenter.bpf.abi import TEXT_LONG, TEXT_SHORT, Direction, Flag, Outcome, Rule
from instrumenter.names import NameOptions, Namer
from instrumenter.records import Exchanges
from instrumenter.telemetry import Counters

SERVER, CLIENT = Direction.SERVER, Direction.CLIENT


def named(batch: Exchanges, **options: Any) -> tuple[list[dict[str, Any]], Counters]:
    """The spans of a batch as opentelemetry-proto reads them, and what was counted."""
    counters = Counters()
    spans = Namer(FixedRegistry(), counters, NameOptions(**options)).spans(batch, OFFSET)
    return [span for _, span in otlp_spans.spans(SpanEncoder().encode(spans))], counters


def expected(plain: dict[str, Any], case: Case) -> dict[str, Any]:
    _, new, attributes, gone = case
    kept = {k: v for k, v in plain["attributes"].items() if k not in gone}
    return {**plain, **new, "attributes": {**kept, **attributes}}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_server_span(case: Case) -> None:
    assert named(exchange(**case[0]))[0] == [expected(SERVER_SPAN, case)]


@pytest.mark.parametrize("case", CLIENT_CASES.values(), ids=CLIENT_CASES)
def test_client_span(case: Case) -> None:
    assert named(exchange(direction=CLIENT, **case[0]))[0] == [expected(CLIENT_SPAN, case)]


@pytest.mark.parametrize("size", [TEXT_SHORT, TEXT_LONG])
def test_rows_of_a_batch_do_not_mix(size: int) -> None:
    """All short cases of both sides in one batch give what each gives alone."""
    cases = [(exchange(text_size=size, direction=d, svc=1, **c[0]), expected(p, c))
             for d, p, table in ((SERVER, SERVER_SPAN, CASES), (CLIENT, CLIENT_SPAN, CLIENT_CASES))
             for name, c in table.items() if name != "long target"]  # fmt: skip
    for number, (batch, span) in enumerate(cases):
        batch.x["span_id"][0, 7] = number
        span["span_id"] = batch.x["span_id"][0].tobytes()
        if span["name"] == "GET /users/1%FF/%00":
            batch.x["key"]["route"] += 1
    found = named(together([batch for batch, _ in cases]))[0]
    assert sorted(found, key=lambda s: s["span_id"]) == [span for _, span in cases]


def test_texts_lie_where_the_offsets_say() -> None:
    batch = exchange(host=b"", agent=b"")
    r = batch.x[0]
    begin = int(r["text_len"])
    batch.text[0, begin : begin + 12] = np.frombuffer(b"a=1curl/xh:1", np.uint8)
    r["state_off"], r["state_len"], r["agent_off"], r["agent_len"] = begin, 3, begin + 3, 6
    r["host_off"], r["host_len"], r["text_len"] = begin + 9, 3, begin + 12
    r["flags"] |= Flag.TRACEPARENT
    span = named(batch)[0][0]
    assert span["trace_state"] == "a=1"
    assert span["attributes"]["user_agent.original"] == "curl/x"
    assert (span["attributes"]["server.address"], span["attributes"]["server.port"]) == ("h", 1)


@pytest.mark.parametrize(
    "field", ["target_len", "host_len", "agent_len", "host_off", "agent_off", "text_len", "state_off"]
)
def test_lengths_beyond_the_text_leave_the_texts_out(field: str) -> None:
    batch = exchange(state=b"a=1", flags=Flag.SAMPLED | Flag.TRACEPARENT)
    batch.text[batch.text == 0xEE] = ord("x")  # looks like text, is none
    batch.x[field] = np.iinfo(batch.x.dtype[field]).max
    (span,), _ = named(batch)
    assert span["name"] == "GET"
    assert "url.path" not in span["attributes"]
    assert span["attributes"]["server.address"] == "10.0.0.2"
    assert "x" not in span.get("trace_state", "")


# (what the exchange is, the counter, the options)
DROPPED: dict[str, tuple[dict[str, Any], str, dict[str, Any]]] = {
    "unselected": ({"svc": 99}, "spans.dropped.unselected", {}),
    "no trace id": ({"trace_id": bytes(16)}, "spans.dropped.unnamed", {}),
    "no span id": ({"span_id": bytes(8)}, "spans.dropped.unnamed", {}),
    "no direction": ({"direction": Direction.UNKNOWN}, "spans.dropped.unnamed", {}),
    "only taught": ({"flags": Flag.FIRST}, "exchanges.taught", {}),
    "only taught, fast": ({"flags": Flag.FIRST, "duration_ns": 9}, "exchanges.taught", {"slow_ns": 10}),
    "only taught, fine": ({"flags": Flag.FIRST, "status": 404}, "exchanges.taught", {"keep_errors": True}),
}
KEPT: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "first and sampled": ({"flags": Flag.FIRST | Flag.SAMPLED}, {}),
    "neither: kept by the kernel": ({"flags": Flag(0)}, {}),
    "slow": ({"flags": Flag.FIRST, "duration_ns": 10}, {"slow_ns": 10}),
    "failed": ({"flags": Flag.FIRST, "status": 500}, {"keep_errors": True}),
    "failed client": ({"flags": Flag.FIRST, "status": 400, "direction": CLIENT}, {"keep_errors": True}),
    "broken": ({"flags": Flag.FIRST, "outcome": Outcome.RESET}, {"keep_errors": True}),
}


@pytest.mark.parametrize("case", DROPPED.values(), ids=DROPPED)
def test_dropped_and_counted(case: tuple[dict[str, Any], str, dict[str, Any]]) -> None:
    what, counter, options = case
    what = {"svc": 1, **what}
    batch = together([exchange(), exchange(**what), exchange(), exchange(**what)])
    spans, counters = named(batch, **options)
    assert spans == [SERVER_SPAN, SERVER_SPAN]
    assert counters.value(counter, what["svc"]) == 2
    assert counters.value("spans.created", 1) == 2
    assert counters.value("spans.parents", 1, rule="none") == 2
    assert sum(n for _, n in counters.items()) == 6


@pytest.mark.parametrize("case", KEPT.values(), ids=KEPT)
def test_kept(case: tuple[dict[str, Any], dict[str, Any]]) -> None:
    what, options = case
    assert len(named(exchange(**what), **options)[0]) == 1


def test_nothing_gives_nothing() -> None:
    batch = exchange()
    spans = Namer(FixedRegistry(), Counters()).spans(Exchanges(batch.x[:0], batch.text[:0]), 0)
    assert len(spans) == 0
    assert SpanEncoder().encode(spans) == []
    assert named(exchange(svc=99))[0] == []


def test_invalid_tracestate_is_counted() -> None:
    batch = exchange(state=b"\xff", flags=Flag.SAMPLED | Flag.TRACEPARENT)
    assert named(batch)[1].value("spans.tracestate_invalid", 1) == 1


def test_no_redaction_if_no_parameter_is_sensitive() -> None:
    span = named(exchange(target=b"/x?sig=1&p%61ss=2"), sensitive=frozenset())[0][0]
    assert span["attributes"]["url.query"] == "sig=1&p%61ss=2"


def test_own_methods() -> None:
    batch = exchange(method=b"PURGE")
    batch.x["key"]["method"] = 2
    assert named(batch, methods=("GET", "PURGE"))[0][0]["name"] == "PURGE /users/*"


def test_what_is_remembered_stays_bounded_and_right() -> None:
    batch = mix(600, diverse=True)
    small = Namer(FixedRegistry(), Counters(), NameOptions(max_cached=7))
    large = Namer(FixedRegistry(), Counters())
    for _ in range(2):
        a, b = (otlp_spans.spans(SpanEncoder().encode(n.spans(batch, OFFSET))) for n in (small, large))
        assert a == b
    d = small._describer
    held = (d._shapes, d._routes._known, d._hosts._known, d._addresses._known)
    assert max(len(cache) for cache in held) <= 7


def test_hostile_bytes_never_break_a_span() -> None:
    rng = np.random.default_rng(7)
    batch = together([exchange(target=rng.bytes(40), host=rng.bytes(20), agent=rng.bytes(30), state=rng.bytes(10),
                               flags=Flag.SAMPLED | Flag.TRACEPARENT, direction=Direction(1 + i % 2))
                      for i in range(500)])  # fmt: skip
    spans, _ = named(batch)
    assert len(spans) == 500
    texts = [v for s in spans for v in s["attributes"].values() if isinstance(v, str)]
    assert all(t.isascii() and t.isprintable() for t in texts)


def test_random_headers_of_records_never_break_a_batch() -> None:
    rng = np.random.default_rng(8)
    batch = mix(300)
    raw = batch.x.view(np.uint8).reshape(300, -1)
    for _ in range(30):
        raw[rng.integers(300, size=40), rng.integers(raw.shape[1], size=40)] = rng.integers(256, size=40)
        found, counters = named(batch)
        assert (
            len(found)
            + counters.value("spans.dropped.unnamed")
            + counters.value("spans.dropped.unselected")
            + (counters.value("exchanges.taught"))
            == 300
        )


@pytest.mark.parametrize("batches", [False, True], ids=["columns", "kinds"])
def test_what_chose_the_parents_is_counted_and_told_if_asked(batches: bool) -> None:
    told = [Rule.NONE, Rule.JOINED, Rule.HEADER, Rule.JOINED, Rule.AMBIGUOUS]
    rows = together([exchange()] * 100)
    rows.x["rule"] = told * 20
    counters = Counters()
    namer = Namer(FixedRegistry(), counters, NameOptions(parent_rule=True))
    made = namer.batches(rows, OFFSET) if batches else [namer.spans(rows, OFFSET)]
    spans = [span for part in made for _, span in otlp_spans.spans(SpanEncoder().encode(part))]
    rules = [span["attributes"]["stingless.parent.rule"] for span in spans]
    assert rules == [rule.name.lower() for rule in told * 20]
    for rule in Rule:
        assert counters.value("spans.parents", 1, rule=rule.name.lower()) == 20 * told.count(rule)


def test_what_chose_a_parent_is_not_told_unasked() -> None:
    spans, _ = named(exchange())
    assert "stingless.parent.rule" not in spans[0]["attributes"]
