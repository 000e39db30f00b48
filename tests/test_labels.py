# SPDX-License-Identifier: Apache-2.0
"""What metric keys stand for."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from exchanges import START, exchange, mix, together

from instrumenter.bpf.abi import Direction, Flag, Outcome
from instrumenter.labels import ExemplarFilter, Labels
from instrumenter.model import Exemplar
from instrumenter.records import Exchanges

SERVER_LABELS: dict[str, Any] = {
    "http.request.method": "GET",
    "http.response.status_code": 200,
    "http.route": "/users/*",
    "network.protocol.version": "1.1",
    "url.scheme": "http",
}
CLIENT_LABELS: dict[str, Any] = {
    "http.request.method": "GET",
    "http.response.status_code": 200,
    "network.protocol.version": "1.1",
    "server.address": "shop.example",
    "server.port": 8080,
    "url.scheme": "http",
    "url.template": "/users/*",
}
CLIENT = {"direction": Direction.CLIENT}


def without(labels: dict[str, Any], *keys: str, **_: Any) -> dict[str, Any]:
    return {k: v for k, v in labels.items() if k not in keys}


# (what the exchange is, its labels)
CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "server": ({}, SERVER_LABELS),
    "server error": ({"status": 500}, {**SERVER_LABELS, "http.response.status_code": 500, "error.type": "500"}),
    "server 404": ({"status": 404}, {**SERVER_LABELS, "http.response.status_code": 404}),
    "no response": (
        {"status": 0, "outcome": Outcome.RESET},
        {**without(SERVER_LABELS, "http.response.status_code"), "error.type": "connection_reset"},
    ),
    "TLS": ({"tls": 1}, {**SERVER_LABELS, "url.scheme": "https"}),
    "other method": ({"method": b"PURGE"}, {**SERVER_LABELS, "http.request.method": "_OTHER"}),
    "folded": ({"route": 0, "flags": Flag.FOLDED}, {**SERVER_LABELS, "http.route": "_OTHER"}),
    "client": (CLIENT, CLIENT_LABELS),
    "client without port": ({**CLIENT, "host": b"h", "tls": 1},
                            {**CLIENT_LABELS, "server.address": "h", "server.port": 443, "url.scheme": "https"}),
    "client without Host": ({**CLIENT, "host": b""}, without(CLIENT_LABELS, "server.address", "server.port")),
    "client that named the server by TLS alone": (
        {**CLIENT, "host": b"h", "tls": 1, "flags": Flag.SERVER_NAME},
        {**without(CLIENT_LABELS, "server.address", "server.port"), "url.scheme": "https"},
    ),
    "client 404": ({**CLIENT, "status": 404},
                   {**CLIENT_LABELS, "http.response.status_code": 404, "error.type": "404"}),
}  # fmt: skip


def key_of(batch: Exchanges, row: int = 0) -> bytes:
    return bytes(batch.x["key"][row].tobytes())


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_labels(case: tuple[dict[str, Any], dict[str, Any]]) -> None:
    what, expected = case
    labels = Labels()
    batch = exchange(**what)
    labels.learn(batch)
    found = labels.attributes(key_of(batch))
    assert found is not None
    assert dict(found) == expected
    assert list(found) == sorted(found)


def test_a_key_that_was_never_learned_has_what_it_says_itself() -> None:
    labels = Labels()
    unknown = without(SERVER_LABELS, "http.route")
    assert dict(labels.attributes(key_of(exchange())) or ()) == unknown
    assert dict(labels.attributes(key_of(exchange(route=0))) or ()) == {**unknown, "http.route": "_OTHER"}
    client = without(CLIENT_LABELS, "url.template", "server.address", "server.port")
    assert dict(labels.attributes(key_of(exchange(direction=Direction.CLIENT))) or ()) == client


@pytest.mark.parametrize("key", [b"", bytes(24), b"\xff" * 24, b"short"])
def test_what_is_no_key_has_no_labels(key: bytes) -> None:
    assert Labels().attributes(key) is None


def test_exemplar_is_the_latest_sampled() -> None:
    labels = Labels()
    parts = [exchange(duration_ns=n, span_id=bytes([n] * 8), flags=f)
             for n, f in ((5, Flag.SAMPLED), (9, Flag.SAMPLED), (7, Flag.SAMPLED), (11, Flag.FIRST))]  # fmt: skip
    labels.learn(together(parts), clock_offset_ns=100)
    expected = Exemplar(9e-9, START + 109, bytes(range(1, 17)), bytes([9] * 8))
    assert labels.exemplars(key_of(parts[0])) == (expected,)
    labels.learn(exchange(flags=Flag.FIRST))
    assert labels.exemplars(key_of(parts[0])) == (expected,)
    assert labels.exemplars(key_of(exchange(status=404))) == ()


@pytest.mark.parametrize(("filter_", "expected"), [("trace_based", [9]), ("always_on", [11]), ("always_off", [])])
def test_exemplar_filters(filter_: ExemplarFilter, expected: list[int]) -> None:
    labels = Labels(exemplars=filter_)
    batch = together([exchange(duration_ns=n, flags=f) for n, f in ((9, Flag.SAMPLED), (11, Flag.FIRST))])
    labels.learn(batch)
    assert [round(e.value * 1e9) for e in labels.exemplars(key_of(batch))] == expected


def test_forgotten_keys() -> None:
    labels = Labels()
    batch = exchange()
    labels.learn(batch)
    labels.forget(key_of(batch))
    assert dict(labels.attributes(key_of(batch)) or ()) == without(SERVER_LABELS, "http.route")
    assert labels.exemplars(key_of(batch)) == ()


def test_memory_is_bounded() -> None:
    labels = Labels(limit=3)
    batches = [exchange(target=b"/p%c" % (97 + i)) for i in range(8)]
    for batch in batches:
        labels.learn(batch)
    assert len(labels._known) == 3
    assert len(labels._exemplars) <= 4
    assert dict(labels.attributes(key_of(batches[-1])) or ())["http.route"] == "/ph"


def test_a_record_without_its_text_teaches_nothing() -> None:
    labels = Labels()
    batch = exchange()
    batch.x["text_len"] = 60_000
    labels.learn(batch)
    assert dict(labels.attributes(key_of(batch)) or ()) == without(SERVER_LABELS, "http.route")
    labels.learn(exchange())
    assert dict(labels.attributes(key_of(batch)) or ()) == SERVER_LABELS


def test_a_mix_is_learned_whole() -> None:
    labels = Labels()
    batch = mix(500)
    labels.learn(batch)
    for row in range(len(batch.x)):
        found = dict(labels.attributes(key_of(batch, row)) or ())
        assert "http.route" in found or "url.template" in found
    labels.learn(Exchanges(batch.x[:0], np.zeros((0, 176), np.uint8)))
