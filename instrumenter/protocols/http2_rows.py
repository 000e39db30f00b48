# SPDX-License-Identifier: Apache-2.0
"""Finished HTTP/2 and gRPC exchanges as the rows that the kernel makes of HTTP/1.

In: `Finished`s of http2_records.py. Out: `Exchanges`. The rule: what is unknown of a request stays empty, and an
exchange whose status is unknown says so in its outcome; nothing behind here can tell who made a row.
"""

from __future__ import annotations

import os
import re
import zlib
from collections.abc import Sequence
from hashlib import blake2b
from struct import Struct
from typing import Final, NamedTuple

import numpy as np

from instrumenter.bpf.abi import (
    EXCHANGE,
    EXCHANGE_LONG,
    EXCHANGE_SHORT,
    STATE_MAX,
    TEXT_LONG,
    TEXT_SHORT,
    Direction,
    Flag,
    Outcome,
    Protocol,
    Rule,
)
from instrumenter.protocols import rpc
from instrumenter.protocols.http2_records import Finished
from instrumenter.protocols.http2_streams import Exchange, Request
from instrumenter.records import Exchanges
from instrumenter.routes import template
from instrumenter.semantics import GRPC_STATUS, METHODS

_ROW: Final = Struct("<QIIHBBBBBBQQQQQQ16s8s8s36sIIIIIIHHBBBBHHHHHHH6x")  # struct exchange
_SHORT: Final = Struct(f"<{_ROW.size}s{TEXT_SHORT}s")
_LONG: Final = Struct(f"<{_ROW.size}s{TEXT_LONG}s")
assert _ROW.size == EXCHANGE.itemsize
_PARENT: Final = re.compile(rb"(?!ff)[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(?:-|\Z)")
_NO_ID: Final = bytes(16)
_CLIENT: Final = int(Direction.CLIENT)
_UNREADABLE: Final = int(Outcome.UNREADABLE)
_HTTP_2, _GRPC = int(Protocol.HTTP_2), int(Protocol.GRPC)
_HEADER: Final = int(Rule.HEADER)
_MOST: Final = (1 << 32) - 1
_REMEMBERED: Final = 4096
_HOST: Final = 2  # in Prepared.lengths


class Prepared(NamedTuple):
    """All that a request alone says of its row. route, rpc_route: hashes; 0: the path is unknown."""

    method: int
    route: int
    rpc_route: int
    peer: int
    trace: tuple[bytes, bytes, int] | None
    flags: int
    target_full: int
    lengths: tuple[int, int, int, int, int]  # method, target, host, agent, tracestate
    text: bytes


class Rows:
    """Makes rows. methods: tokens with a number of their own, as given to the kernel."""

    def __init__(self, methods: Sequence[str] = METHODS) -> None:
        self._methods = {method.encode(): place for place, method in enumerate(methods, 1)}
        self._prepared: dict[Request, Prepared] = {}

    def exchanges(self, finished: Sequence[Finished]) -> list[Exchanges]:
        """Of each length of text one batch, in order; no empty ones."""
        short, long = bytearray(), bytearray()
        for place, exchange in finished:
            request = exchange.request
            prepared = self._prepared.get(request) or self._prepare(request)
            if place.server_name and not prepared.lengths[_HOST]:
                prepared = _named(prepared, place.server_name)
            row = _row(place.key, place.endpoints, place.tls, exchange, prepared)
            if len(prepared.text) <= TEXT_SHORT:
                short += _SHORT.pack(row, prepared.text)
            else:
                long += _LONG.pack(row, prepared.text)
        batches = ((short, EXCHANGE_SHORT), (long, EXCHANGE_LONG))
        return [_with_ids(Exchanges.of(np.frombuffer(raw, kind))) for raw, kind in batches if raw]

    def _prepare(self, request: Request) -> Prepared:
        if len(self._prepared) >= _REMEMBERED:
            self._prepared.clear()
        method, path, host, agent, state = map(
            _known, (request.method, request.path, request.authority, request.user_agent, request.tracestate)
        )
        trace = _parse(_known(request.traceparent))
        state = state if trace and len(state) <= STATE_MAX else b""
        made = self._prepared[request] = Prepared(
            self._methods.get(method, 0),
            _hash(template(path)) if path else 0,
            _hash(path.decode("latin-1")) if path else 0,
            zlib.crc32(host) if host else 0,
            trace,
            (Flag.TRACEPARENT if trace else 0) | (Flag.TARGET_CUT if request.path_full > len(path) else 0),
            request.path_full,
            (len(method), len(path), len(host), len(agent), len(state)),
            method + path + host + agent + state,
        )
        return made


def _named(request: Prepared, server_name: bytes) -> Prepared:
    """A request that names no host, on a connection of which TLS's server name is known. For metrics it has none."""
    method, target, _, agent, state = request.lengths
    before = method + target
    return request._replace(
        flags=request.flags | Flag.SERVER_NAME,
        lengths=(method, target, len(server_name), agent, state),
        text=request.text[:before] + server_name + request.text[before:],
    )


def _known(value: object) -> bytes:
    return value if isinstance(value, bytes) else b""


def _hash(route: str) -> int:
    return int.from_bytes(blake2b(route.encode(), digest_size=8).digest(), "little") | 1


def _parse(traceparent: bytes) -> tuple[bytes, bytes, int] | None:
    """As read_traceparent() of probes/include/field.h: trace id, parent id, flags; None if it is none."""
    found = _PARENT.match(traceparent)
    if found is None or (traceparent[:2] == b"00" and len(traceparent) != 55):
        return None
    trace, parent = bytes.fromhex(found[1].decode()), bytes.fromhex(found[2].decode())
    return (trace, parent, int(found[3], 16)) if any(trace) and any(parent) else None


def _status(exchange: Exchange, is_grpc: bool) -> tuple[int, int]:
    """The row's status and outcome."""
    outcome = int(exchange.outcome)
    if is_grpc and isinstance(exchange.grpc_status, bytes):
        code = rpc.status_code(exchange.grpc_status)
        if code is not None and code < 1 << 15:
            return GRPC_STATUS + code, outcome
    if isinstance(exchange.status, int):
        return exchange.status, outcome
    return 0, outcome or _UNREADABLE


def _row(key: int, endpoints: bytes, tls: bool, exchange: Exchange, prepared: Prepared) -> bytes:
    is_grpc = exchange.grpc is True
    status, outcome = _status(exchange, is_grpc)
    direction, origin = int(exchange.direction), exchange.origin
    method, target, host, agent, state = prepared.lengths
    host_off = method + target
    trace, parent, trace_flags = prepared.trace or (_NO_ID, b"", 0)
    asked, answered = exchange.request_messages, exchange.response_messages
    return _ROW.pack(
        prepared.rpc_route if is_grpc else prepared.route, origin.svc, prepared.peer if direction == _CLIENT else 0,
        status, prepared.method, _GRPC if is_grpc else _HTTP_2, direction, outcome, tls, 0,
        exchange.start_ns, exchange.first_ns, exchange.end_ns, exchange.request_bytes, exchange.response_bytes, key,
        trace, b"", parent, endpoints[:36],
        origin.seq, origin.tgid, origin.tid, min(prepared.target_full, _MOST),
        0 if asked is None or not is_grpc else min(asked + 1, _MOST),
        0 if answered is None or not is_grpc else min(answered + 1, _MOST),
        prepared.flags | endpoints[36] | endpoints[37] << 8, target, method, host, agent, trace_flags, state,
        len(prepared.text), host_off, host_off + host, host_off + host + agent, endpoints[38] | endpoints[39] << 8,
        _HEADER if prepared.trace else 0,
    )  # fmt: skip


def _with_ids(exchanges: Exchanges) -> Exchanges:
    """Trace and span ids where the request brought none."""
    x = exchanges.x
    drawn = np.frombuffer(os.urandom(24 * len(x)), np.uint8).reshape(len(x), 24).copy()
    drawn[:, (0, 8)] |= 1  # none is all zeros
    x["span_id"] = drawn[:, :8]
    roots = np.flatnonzero(x["flags"] & int(Flag.TRACEPARENT) == 0)
    x["trace_id"][roots] = drawn[roots, 8:]
    return exchanges
