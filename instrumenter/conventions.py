# SPDX-License-Identifier: Apache-2.0
"""What is said of an exchange by its protocol: one `Convention` for HTTP, one for gRPC, in a table by `Protocol`.

In: metric keys, columns of records. Out: names, attributes, instruments. The rule: this table is the only place that
knows a protocol by name; spans (`describe`), metrics (`labels`, `metrics`) and counts (`counted`) ask it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from instrumenter import instruments
from instrumenter.bpf.abi import Direction, Outcome, Protocol
from instrumenter.columns import Bools
from instrumenter.histogram import NS_PER_MS, NS_PER_S, Histograms, Layout
from instrumenter.instruments import Instruments
from instrumenter.model import I64, U64, Value
from instrumenter.protocols import rpc
from instrumenter.routes import printable, template
from instrumenter.semantics import GRPC_STATUS, OTHER, Key

Facts = dict[str, Value | None]  # None: not said
UNKNOWN: Final = np.uint64((1 << 64) - 1)  # in `measures`
_STATUSES: Final = 2048  # those above are as the last one


@dataclass(frozen=True, slots=True, eq=False)
class Convention:
    """route: the low-cardinality part of a target. name, facts: of a span, given its route (None: unknown).

    error_type: see Key. instruments: by direction; layouts: of their buckets, and units of their sums. hidden: columns
    that are not said of such an exchange.
    """

    route: Callable[[bytes], str]
    name: Callable[[Key, str | None, tuple[str, ...]], str]
    facts: Callable[[Key, str | None, tuple[str, ...]], Facts]
    error_type: Callable[[Key], str | None]
    instruments: Mapping[int, Instruments]
    layouts: Callable[[Histograms], tuple[Layout, Layout, Layout]]
    unit_ns: int
    hidden: frozenset[str] = frozenset()


def _http_name(key: Key, route: str | None, methods: tuple[str, ...]) -> str:
    method = key.method_name(methods)
    name = "HTTP" if method == OTHER else method
    return name if route is None else f"{name} {route}"


def _http_facts(key: Key, route: str | None, methods: tuple[str, ...]) -> Facts:
    """By the conventions for HTTP. Clients have url.template in place of http.route."""
    return {
        "error.type": key.error_type,
        "http.request.method": key.method_name(methods),
        "http.response.status_code": key.status or None,
        "http.route" if key.is_server else "url.template": route,
        "network.protocol.version": key.version,
        "url.scheme": key.scheme,
    }


def _grpc_code(key: Key) -> int | None:
    return key.status - GRPC_STATUS if key.status >= GRPC_STATUS else None


def _grpc_error(key: Key) -> str | None:
    """`error.type` of a call; one without a status on the wire is known by HTTP's, or by how it ended."""
    code = _grpc_code(key)
    if code is not None:
        return rpc.error_type(code, Direction(key.direction))
    return key.outcome_name or (str(key.status) if key.status >= 400 else OTHER)


def _grpc_name(key: Key, route: str | None, methods: tuple[str, ...]) -> str:
    return (route or "").removeprefix("/") or "grpc"


def _grpc_facts(key: Key, route: str | None, methods: tuple[str, ...]) -> Facts:
    """By the conventions for RPC until 1.37. A status that was not on the wire is not made up."""
    service, _, method = (route or "").removeprefix("/").rpartition("/")
    return {
        "error.type": _grpc_error(key),
        "network.protocol.version": key.version,
        "rpc.grpc.status_code": _grpc_code(key),
        "rpc.method": method or None,
        "rpc.service": service or None,
        "rpc.system": "grpc",
    }


HTTP: Final = Convention(
    template, _http_name, _http_facts, lambda key: key.error_type, instruments.HTTP,
    lambda h: (h.duration, h.size, h.size), NS_PER_S,
    frozenset(("stingless.rpc.request.messages", "stingless.rpc.response.messages")),
)  # fmt: skip
GRPC: Final = Convention(
    lambda target: printable(target.partition(b"?")[0]), _grpc_name, _grpc_facts, _grpc_error, instruments.RPC,
    lambda h: (h.call, h.size, h.size), NS_PER_MS,
    frozenset((
        "http.request.body.size", "http.response.body.size", "http.request.method_original", "url.path", "url.query",
        "url.full",
    )),
)  # fmt: skip
_CONVENTIONS: Final[Mapping[int, Convention]] = {Protocol.GRPC: GRPC}


def convention(protocol: int) -> Convention:
    """Of `red_key.protocol`."""
    return _CONVENTIONS.get(protocol, HTTP)


def shows(protocol: NDArray[np.uint8], column: str) -> Bools | None:
    """Which rows may have a column (n,); None: all."""
    if column not in _HIDDEN:
        return None
    rows: Bools = _HIDDEN[column][protocol]
    return rows


def _failures() -> Bools:
    """(protocols, directions, statuses): whether a complete exchange of that status has failed."""
    failed = np.zeros((256, 3, _STATUSES), np.bool_)
    for direction, error in ((Direction.SERVER, 500), (Direction.CLIENT, 400)):
        failed[:, direction, error:] = True
        codes = [rpc.error_type(code, direction) is not None for code in range(_STATUSES - GRPC_STATUS)]
        failed[Protocol.GRPC, direction, GRPC_STATUS:] = codes
        failed[Protocol.GRPC, direction, :GRPC_STATUS] = True  # without grpc-status
    return failed


_FAILED: Final = _failures()
_HIDDEN: Final = {
    column: np.array([column not in convention(protocol).hidden for protocol in range(256)])
    for column in HTTP.hidden | GRPC.hidden
}


def has_failed(key: NDArray[np.void]) -> Bools:
    """Which exchanges are worth keeping as errors. key: abi.RED_KEY (n,)."""
    status = np.minimum(key["status"], _STATUSES - 1)
    failed: Bools = key["outcome"] != Outcome.COMPLETE
    failed |= _FAILED[key["protocol"], np.minimum(key["direction"], 2), status]
    return failed


def measures(x: NDArray[np.void]) -> tuple[U64, U64, U64]:
    """What a RED row's three histograms count: durations in ns, and sizes, or for calls numbers of messages."""
    took: U64 = x["end_ns"] - x["start_ns"]
    calls = x["key"]["protocol"] == Protocol.GRPC
    asked: U64 = np.where(calls, x["request_messages"] - UNKNOWN_STEP, x["request_bytes"])
    answered: U64 = np.where(calls, x["response_messages"] - UNKNOWN_STEP, x["response_bytes"])
    return took, asked, answered


UNKNOWN_STEP: Final = np.uint64(1)  # 0 messages is one less than none that were counted: UNKNOWN


def messages(counts: NDArray[np.uint32]) -> I64:
    """As an attribute: -1 where they were not counted."""
    return counts.astype(np.int64) - 1
