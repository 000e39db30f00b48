# SPDX-License-Identifier: Apache-2.0
"""The accuracy benchmark's score, on tables of spans; and the benchmark itself, on one runtime under the agent."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from accuracy.plan import SHAPES, Cell, Numbers, cells
from accuracy.report import exit_code, heads, lines, rows, text
from accuracy.run import Outcome
from accuracy.runtimes import RUNTIMES, Runtime
from accuracy.score import MISSING, NONE, RIGHT, WRONG, Score, Spans, score
from accuracy.selftest import permuted, proof, with_right_parents
from accuracy.spans import CLIENT, FRONT, SERVER, Key, Span, key_of, spans_of
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from running import ROOT

INTERNAL = 1
CELL = Cell("asyncio", 1, True, "one", 7, 2)  # requests 7 and 8, each with call 1


def span(name: str, parent: str, kind: int, key: Key | None, status: int = 200, trace: str = "t") -> Span:
    return Span(trace.encode(), name.encode(), parent.encode(), kind, key, status)


FRONT7, FRONT8 = (span(f"f{n}", "", SERVER, (n, FRONT)) for n in (7, 8))
CLIENT8 = span("c8", "f8", CLIENT, (8, 1))
LEAF8 = span("l8", "c8", SERVER, (8, 1))
GOOD8 = [FRONT8, CLIENT8, LEAF8]


# What came of request 7, besides all of 8: the verdict inside, and between.
TABLE: list[tuple[str, list[Span], str, str]] = [
    ("right", [FRONT7, span("c7", "f7", CLIENT, (7, 1)), span("l7", "c7", SERVER, (7, 1))], RIGHT, RIGHT),
    ("none", [FRONT7, span("c7", "", CLIENT, (7, 1)), span("l7", "", SERVER, (7, 1))], NONE, NONE),
    ("other request", [FRONT7, span("c7", "f8", CLIENT, (7, 1)), span("l7", "c8", SERVER, (7, 1))], WRONG, WRONG),
    ("other trace", [FRONT7, span("c7", "f7", CLIENT, (7, 1), trace="u"), span("l7", "", SERVER, (7, 1))], WRONG, NONE),
    ("internal spans", [
        FRONT7, span("i", "f7", INTERNAL, None), span("j", "i", INTERNAL, (7, FRONT)), span("c7", "j", CLIENT, (7, 1)),
        span("p", "c7", INTERNAL, None), span("l7", "p", SERVER, (7, 1)),
    ], RIGHT, RIGHT),
    ("internal span of another", [
        FRONT7, span("i", "f8", INTERNAL, None), span("c7", "i", CLIENT, (7, 1)), span("l7", "c7", SERVER, (7, 1)),
    ], WRONG, RIGHT),
    ("its own leaf", [FRONT7, span("c7", "l7", CLIENT, (7, 1)), span("l7", "", SERVER, (7, 1))], WRONG, NONE),
    ("a circle", [FRONT7, span("c7", "i", CLIENT, (7, 1)), span("i", "i", INTERNAL, None)], WRONG, MISSING),
    ("front instead of client", [
        FRONT7, span("c7", "f7", CLIENT, (7, 1)), span("l7", "f7", SERVER, (7, 1)),
    ], RIGHT, NONE),
    ("unknown parent", [FRONT7, span("c7", "x", CLIENT, (7, 1)), span("l7", "y", SERVER, (7, 1))], WRONG, WRONG),
    ("front lost", [span("c7", "f7", CLIENT, (7, 1)), span("l7", "c7", SERVER, (7, 1))], MISSING, RIGHT),
    ("client lost", [FRONT7, span("l7", "c7", SERVER, (7, 1))], MISSING, MISSING),
    ("leaf lost", [FRONT7, span("c7", "f7", CLIENT, (7, 1))], RIGHT, MISSING),
    ("other status", [FRONT7, span("c7", "f7", CLIENT, (7, 1), 503), span("l7", "c7", SERVER, (7, 1))], RIGHT, WRONG),
]  # fmt: skip


@pytest.mark.parametrize(("given", "inside", "between"), [r[1:] for r in TABLE], ids=[r[0] for r in TABLE])
def test_verdicts(given: list[Span], inside: str, between: str) -> None:
    found = score(CELL, Spans([*given, *GOOD8]), Counter({(7, 1): 1, (8, 1): 1}))
    assert +found.inside == Counter([inside, RIGHT])
    assert +found.between == Counter([between, RIGHT])


def test_a_call_tried_again_has_a_parent_of_its_own() -> None:
    """Both have the same path: one client span cannot be the parent of both, and the status tells them apart."""
    clients = [span("c1", "f7", CLIENT, (7, 1), 503), span("c2", "f7", CLIENT, (7, 1), 200)]
    servers = [span("l1", "c1", SERVER, (7, 1), 503), span("l2", "c2", SERVER, (7, 1), 200)]
    answered = Counter({(7, 1): 2, (8, 1): 1})
    assert score(CELL, Spans([FRONT7, *clients, *servers, *GOOD8]), answered).between == Counter({RIGHT: 3, MISSING: 0})
    swapped = [servers[0]._replace(parent=b"c2"), servers[1]._replace(parent=b"c1")]
    assert score(CELL, Spans([FRONT7, *clients, *swapped, *GOOD8]), answered).between[WRONG] == 2
    same = [s._replace(parent=b"c1", status=0) for s in servers]
    assert score(CELL, Spans([FRONT7, *clients, *same, *GOOD8]), answered).between[WRONG] == 1


def test_every_span_is_accounted_for() -> None:
    found = score(CELL, Spans([FRONT7, FRONT7, *GOOD8, LEAF8._replace(span=b"again")]), Counter({(7, 1): 1, (8, 1): 1}))
    assert found.missing == Counter({"client": 1, "leaf": 1})
    assert found.extra == Counter({"front": 1, "leaf": 1})


@pytest.mark.parametrize(
    ("path", "key"),
    [
        ("/front/1000001", (1000001, FRONT)), ("/leaf/12/2", (12, 2)), ("/leaf/12/2?do=fail", (12, 2)),
        ("http://127.0.0.1:80/leaf/12/1?do=slow", (12, 1)), ("http://h/front/5?mode=one", (5, FRONT)),
        ("/leaf/12", None), ("/leaf/12/2/3", None), ("/front/x", None), ("/status", None), ("", None),
    ],
)  # fmt: skip
def test_a_path_says_whose_span_it_is(path: str, key: Key | None) -> None:
    assert key_of(path) == key


@pytest.mark.parametrize(
    ("path", "status"),
    [("url.path", "http.response.status_code"), ("url.full", "http.status_code"), ("http.target", "http.status_code")],
)  # fmt: skip
def test_spans_of_both_conventions_are_read(path: str, status: str) -> None:
    request: Any = ExportTraceServiceRequest()
    sent = (
        request.resource_spans.add()
        .scope_spans.add()
        .spans.add(trace_id=b"t" * 16, span_id=b"s" * 8, parent_span_id=bytes(8), kind=CLIENT)
    )
    sent.attributes.add(key=path).value.string_value = "/leaf/4/1"
    sent.attributes.add(key=status).value.int_value = 503
    assert list(spans_of(request.SerializeToString())) == [Span(b"t" * 16, b"s" * 8, b"", CLIENT, (4, 1), 503)]


def test_cells_share_no_number() -> None:
    numbers = Numbers()
    plan = list(cells(numbers, "go", SHAPES, (1, 64), (True, False), 10))
    given = [number for cell in plan for number in cell.numbers]
    assert len(plan) == 20
    assert len(given) == len(set(given)) == 10 * (10 + 128)
    assert [cell.calls() for cell in plan if cell.concurrency == 1 and cell.keep_alive] == [10, 20, 20, 20, 10]
    slow = next(cell for cell in plan if cell.shape == "slow" and cell.concurrency == 64)
    assert Counter(mode for _, mode in slow.requests()) == {"one": 112, "slow": 16}


def orphans(count: int) -> tuple[Cell, list[Span], Counter[Key]]:
    """Requests of two calls each, whose spans have no parents, as a tracer without correlation gives them."""
    cell = Cell("go", 16, True, "seq", 100, count)
    keys = [(number, call) for number in cell.numbers for call in (1, 2)]
    fronts = [span(f"f{n}", "", SERVER, (n, FRONT), trace=f"f{n}") for n in cell.numbers]
    calls = [span(f"{k}{key}", "", k, key, trace=f"{k}{key}") for key in keys for k in (CLIENT, SERVER)]
    return cell, fronts + calls, Counter(keys)


def test_the_self_test_sees_permuted_parents() -> None:
    cell, spans, answered = orphans(50)
    given = score(cell, Spans(spans), answered)
    assert +given.inside == +given.between == Counter({NONE: 100})
    assert proof(cell, spans, answered, given) == (20, [])
    mixed, wrong = permuted(with_right_parents(spans), cell)
    assert score(cell, Spans(mixed), answered).inside == Counter({RIGHT: 80, WRONG: wrong, MISSING: 0})


def test_the_self_test_pairs_calls_that_are_tried_again() -> None:
    """Also where one of the spans has no status, as its answer was not seen."""
    cell, spans, answered = orphans(10)
    again = [s._replace(status=503, span=s.span + b"'", trace=s.trace + b"'") for s in spans if s.key and s.key[1] == 1]
    for lacking in (CLIENT, SERVER):
        both = [s._replace(status=0) if s.kind == lacking and s.status == 503 else s for s in [*again, *spans]]
        twice = Counter({key: times + (key[1] == 1) for key, times in answered.items()})
        given = score(cell, Spans(both), twice)
        assert proof(cell, both, twice, given) == proof(cell, both[::-1], twice, given) == (6, [])


def test_the_self_test_refuses_spans_that_do_not_say_whose_they_are() -> None:
    """Two requests with the same numbers: the permutation is not what is seen."""
    cell, spans, answered = orphans(50)
    given = score(cell, Spans(spans), answered)
    _, faults = proof(cell, [s for s in spans if s.kind != CLIENT], answered, given)
    assert faults


def test_report() -> None:
    ran = Outcome(RUNTIMES[0], [(CELL, Score(2, Counter({WRONG: 1, RIGHT: 1}), Counter({NONE: 2})))])
    absent = Outcome(Runtime("cobol", "", lambda _: [], ("no-such-program",)), reason="no-such-program missing")
    by = ("runtime", "conc")
    assert heads(by)[2:7] == ["requests", "inside: right", "none", "WRONG", "missing"]
    assert list(rows([ran, absent], by)) == [
        ["asyncio", 1, 2, 1, 0, 1, 0, 0, 2, 0, 0, 0, 0],
        ["cobol", None, "not here", *[None] * 10],
    ]
    assert [json.loads(line).get("not_here") for line in lines([ran, absent])] == [None, "no-such-program missing"]
    page = text([ran, absent], by, 1.0)
    assert "cobol: not here: no-such-program missing" in page
    assert "inside: right 1 (50.00 %), none 0 (0.00 %), WRONG 1 (50.00 %)" in page


@pytest.mark.parametrize(
    ("outcome", "code"),
    [
        (Outcome(RUNTIMES[0], [(CELL, Score(2, Counter({RIGHT: 2}), Counter({NONE: 2})))]), 0),
        (Outcome(RUNTIMES[0], [(CELL, Score(2, Counter({WRONG: 1})))]), 1),
        (Outcome(RUNTIMES[0], [(CELL, Score(2, missing=Counter({"front": 1})))]), 1),
        (Outcome(RUNTIMES[0], [(CELL, Score(2, Counter({RIGHT: 2})))], faults=["502"]), 2),
        (Outcome(RUNTIMES[0], reason="not here"), 0),
    ],
)  # fmt: skip
def test_exit_codes(outcome: Outcome, code: int) -> None:
    assert exit_code([outcome]) == code


def test_a_runtime_that_is_not_here_says_what_is_missing() -> None:
    assert "no-such-program, /no/such/file missing" in Runtime(
        "x", "", lambda _: [], ("no-such-program", Path("/no/such/file"))
    ).missing()  # fmt: skip


@pytest.mark.kernel
def test_benchmark_on_one_runtime(tmp_path: Path) -> None:
    """Every request's spans come; none has a wrong parent; permuted ones would have been seen."""
    results = tmp_path / "results"
    few = ["--runtime", "py-threads", "--concurrency", "4", "--requests", "40", "--self-test", "--json", str(results)]
    done = subprocess.run(
        [sys.executable, ROOT / "benchmarks" / "accuracy", *few], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = [json.loads(line) for line in results.read_text().splitlines()]
    scored = [line for line in found if "inside" in line]
    assert len(scored) == 2 * len(SHAPES)
    for side in ("inside", "between"):
        assert sum(sum(line[side].values()) for line in scored) == 640
    assert "in 10 of 10 cells, 0 faults" in found[-1]["notes"][0]
