# SPDX-License-Identifier: Apache-2.0
"""Exchanges that Python made are counted, sampled, folded and taught as the kernel does, and the account closes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from exchanges import FixedRegistry, exchange, mix, together

from instrumenter.bpf.abi import RED, SETTINGS, Direction, Flag, Outcome, Protocol, Sampler
from instrumenter.columns import key_words
from instrumenter.counted import BothReds, Counted, Counts
from instrumenter.histogram import explicit, exponential
from instrumenter.labels import Labels
from instrumenter.metrics import RedCollector
from instrumenter.model import HistogramPoint
from instrumenter.names import Namer
from instrumenter.records import Exchanges
from instrumenter.replay import Recorded
from instrumenter.semantics import GRPC_STATUS
from instrumenter.telemetry import Counters

GRPC: dict[str, Any] = {"protocol": Protocol.GRPC, "method": b"POST", "target": b"/shop.v1.Basket/Get"}


def settings(**more: Any) -> Any:
    made = Recorded.sampling()
    for name, value in more.items():
        made[name] = value
    return made


def counted(**more: Any) -> Counted:
    return Counted(settings(**more), exponential(), Counters())


def many(rows: int = 200, **more: Any) -> Exchanges:
    """Of one key, with random trace ids."""
    batch = together([exchange(protocol=Protocol.HTTP_2, flags=Flag(0), **more) for _ in range(rows)])
    batch.x["trace_id"] = np.random.default_rng(1).integers(1, 256, (rows, 16), dtype=np.uint8)
    return batch


def test_counts_are_those_of_each_exchange_alone() -> None:
    batch = mix(300, seed=3)
    batch.x["key"]["protocol"] = Protocol.HTTP_2
    whole, single = Counts(exponential()), Counts(exponential())
    whole.add(batch.x)
    for row in range(300):
        single.add(batch.x[row : row + 1])
    keys, values = whole.read_red()
    others, expected = single.read_red()
    at = {key: row for row, key in enumerate(key_bytes(others))}
    assert len(keys) == len(others)
    for key, row in zip(key_bytes(keys), values, strict=True):
        assert row.tobytes() == expected[at[key]].tobytes()
    assert int(values["count"].sum()) == 300
    assert int(values["duration"].sum()) == int(values["response_size"].sum()) == 300


def key_bytes(keys: Any) -> list[bytes]:
    return [key.tobytes() for key in keys]


SAMPLERS = [
    ({"sampler": Sampler.ALWAYS_ON}, {}, 200),
    ({"sampler": Sampler.ALWAYS_OFF}, {}, 1),  # the first, for its labels
    ({"sampler": Sampler.ALWAYS_OFF, "spans": 0}, {}, 1),
    ({"sampler": Sampler.RATIO, "ratio_bound": 1 << 63}, {}, None),
    ({"sampler": Sampler.ALWAYS_OFF, "keep_errors": 1}, {"status": 503}, 200),
    ({"sampler": Sampler.ALWAYS_OFF, "keep_errors": 1}, {"status": 404}, 1),
    ({"sampler": Sampler.ALWAYS_OFF, "keep_errors": 1}, {"status": 404, "direction": Direction.CLIENT}, 200),
    ({"sampler": Sampler.ALWAYS_OFF, "keep_errors": 1}, {"outcome": Outcome.RESET}, 200),
    ({"sampler": Sampler.ALWAYS_OFF, "slow_ns": 1_000_000}, {}, 200),
    ({"sampler": Sampler.ALWAYS_OFF, "slow_ns": 9_000_000}, {}, 1),
]


@pytest.mark.parametrize(("chosen", "row", "up"), SAMPLERS)
def test_what_goes_up_and_what_is_sampled_out(chosen: dict[str, int], row: dict[str, Any], up: int | None) -> None:
    made, batch = counted(**chosen), many(**row)
    expected = batch.x["trace_id"][:, 8:].copy().view(">u8")[:, 0] < 1 << 63
    found = made.take(batch)
    keys, values = made.counts.read_red()
    assert len(keys) == 1
    assert int(values["count"][0, 0]) == 200
    assert len(found.x) + int(values["sampled_out"][0, 0]) == 200
    if up is None:
        assert int((found.x["flags"] & Flag.SAMPLED != 0).sum()) == int(expected.sum())
    else:
        assert len(found.x) == up
    assert int((found.x["flags"] & Flag.FIRST != 0).sum()) == 1


def test_an_incoming_decision_is_followed() -> None:
    made = counted(sampler=Sampler.ALWAYS_ON, parent_based=1)
    made.take(many(1))
    batch = many(10)
    batch.x["flags"] |= int(Flag.TRACEPARENT)
    batch.x["trace_flags"] = [0, 1] * 5
    assert made.take(batch).x["trace_flags"].tolist() == [1] * 5


@pytest.mark.parametrize(("direction", "code", "kept"), [
    (Direction.SERVER, 0, False), (Direction.SERVER, 5, False), (Direction.SERVER, 13, True),
    (Direction.CLIENT, 0, False), (Direction.CLIENT, 5, True), (Direction.SERVER, 17, True),
])  # fmt: skip
def test_errors_of_calls_are_kept(direction: Direction, code: int, kept: bool) -> None:
    made = counted(sampler=Sampler.ALWAYS_OFF, keep_errors=1)
    batch = together([exchange(**GRPC, status=GRPC_STATUS + code, direction=direction, flags=Flag(0))] * 3)
    assert len(made.take(batch).x) == (3 if kept else 1)


def test_too_many_keys_are_folded() -> None:
    counters = Counters()
    made = Counted(settings(service_keys=5), exponential(), counters)
    batch = together([exchange(protocol=Protocol.HTTP_2, route=n + 1, flags=Flag(0)) for n in range(20)])
    found = made.take(batch)
    assert len(found.x) == 20
    keys, values = made.counts.read_red()
    routes = set(keys["route"].tolist())
    assert len(routes) == 6
    assert 0 in routes
    assert int(values["count"].sum()) == 20
    assert counters.value("kernel.lost.series_folded") == 15


def test_both_are_one_map() -> None:
    kernel, made = Recorded({}, exponential()), counted()
    both = BothReds(kernel, made)
    made.take(many(3))
    keys, values = both.read_red()
    assert (len(keys), values.shape, values.dtype) == (1, (1, 1), RED)
    both.delete_red(keys)
    assert len(both.read_red()[0]) == 0


@pytest.mark.parametrize("layouts", [exponential(), explicit()], ids=["exponential", "explicit"])
def test_calls_are_metrics_of_their_own(layouts: Any) -> None:
    """In milliseconds, with numbers of messages; one whose messages could not be counted is in the durations alone."""
    counters = Counters()
    made = Counted(settings(), layouts, counters)
    batch = together([exchange(**GRPC, status=GRPC_STATUS, duration_ns=2_500_000) for _ in range(4)])
    batch.x["request_messages"], batch.x["response_messages"] = [2, 2, 2, 0], [6, 6, 6, 0]
    labels = Labels()
    labels.learn(made.take(batch))
    red = RedCollector(BothReds(Recorded({}, layouts), made), labels, FixedRegistry(), counters, layouts, 0)
    found = {metric.name: metric for metric in red.collect(1, final=True)}
    assert set(found) == {"rpc.server.duration", "rpc.server.requests_per_rpc", "rpc.server.responses_per_rpc"}
    points = {name: metric.points[0] for name, metric in found.items()}
    assert all(isinstance(point, HistogramPoint) for point in points.values())
    said = {name: (p.count, p.sum) for name, p in points.items() if isinstance(p, HistogramPoint)}
    assert said == {
        "rpc.server.duration": (4, 10.0), "rpc.server.requests_per_rpc": (3, 3.0),
        "rpc.server.responses_per_rpc": (3, 15.0),
    }  # fmt: skip
    assert found["rpc.server.duration"].unit == "ms"
    assert dict(points["rpc.server.duration"].attributes) == {
        "network.protocol.version": "2", "rpc.grpc.status_code": 0, "rpc.method": "Get",
        "rpc.service": "shop.v1.Basket", "rpc.system": "grpc",
    }  # fmt: skip


def test_a_call_is_named_by_its_method() -> None:
    batch = together([exchange(**GRPC, status=GRPC_STATUS + 13), exchange(protocol=Protocol.HTTP_2)])
    batch.x["request_messages"] = [2, 0]
    spans = Namer(FixedRegistry(), Counters()).spans(batch, 0)
    call, plain = (spans.shapes[number] for number in spans.shape.tolist())
    assert (call.name, dict(call.attributes)["error.type"]) == ("shop.v1.Basket/Get", "INTERNAL")
    assert (plain.name, dict(plain.attributes)["network.protocol.version"]) == ("GET /users/*", "2")
    assert spans.ints["stingless.rpc.request.messages"].tolist() == [1, -1]
    assert spans.ints["http.response.body.size"].tolist() == [-1, 512]
    assert spans.texts["url.path"].length.tolist() == [-1, 12]


def test_settings_are_the_kernels() -> None:
    assert Recorded.sampling().dtype == SETTINGS
    assert len(key_words(many(2).x)) == 2
