# SPDX-License-Identifier: Apache-2.0
"""Exchanges become spans, named and described as the stable HTTP semantic conventions say.

In: exchange records with their text. Out: `Spans`. The rule this file protects: nothing is done row by row in Python
but what is rare; all that a metric key determines is made once per key and remembered as a `Shape`.

Of the project's own:
- `stingless.ttfb_ns` (int): nanoseconds from the request's first byte to the response's.
- `stingless.outcome`: how an exchange that did not complete ended (as `error.type` without a status).
- `stingless.target.truncated`: the target was longer than what was kept; `url.*` and the route are of its beginning.

A folded exchange (its service has too many metric keys) has no route, hence only the method as its name.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

import numpy as np

from instrumenter.bpf.abi import Direction, Flag, Outcome
from instrumenter.columns import Bools, Cutter, distinct, only, spread
from instrumenter.heads import Cleaner, Heads
from instrumenter.labels import Labels
from instrumenter.model import (
    I32,
    I64,
    KIND_CLIENT,
    KIND_SERVER,
    STATUS_ERROR,
    STATUS_UNSET,
    U8,
    U64,
    Resource,
    Shape,
    Spans,
    Text,
    Value,
)
from instrumenter.peers import Addresses, Hosts
from instrumenter.routes import Routes
from instrumenter.semantics import OTHER, Key, NameOptions
from instrumenter.traces import Records, context, has_context, time_to_first_byte, trace_state
from instrumenter.urls import authorities, first_known, full_urls

if TYPE_CHECKING:
    from instrumenter.records import Exchanges
    from instrumenter.telemetry import Counters

__all__ = ["Labels", "NameOptions", "Namer"]

# Plain numbers: an enum's arithmetic costs as much as NumPy's on a small batch.
_FIRST, _SAMPLED, _CUT, _FOLDED = (int(f) for f in (Flag.FIRST, Flag.SAMPLED, Flag.TARGET_CUT, Flag.FOLDED))
_SERVER, _CLIENT, _COMPLETE = int(Direction.SERVER), int(Direction.CLIENT), int(Outcome.COMPLETE)
_WIDEST_SIZE: Final = (1 << 63) - 1


class Resources(Protocol):
    """What the registry answers."""

    def resource(self, svc: int) -> Resource | None:
        """Who a service number is; None if it is not selected."""


class Namer:
    """Makes spans of exchanges. Not thread-safe: it remembers what it has named."""

    def __init__(self, registry: Resources, counters: Counters, options: NameOptions | None = None) -> None:
        self._registry = registry
        self._counters = counters
        self._options = options or NameOptions()
        limit = self._options.max_cached
        self._routes = Routes(limit)
        self._shapes: dict[bytes, Shape] = {}
        self._addresses = Addresses(limit)
        self._hosts = Hosts(limit)
        self._cleaner = Cleaner(self._options.sensitive)
        self._booked: list[tuple[str, int, int]] = []  # of the batch at hand; counted when all of it went well

    def spans(self, exchanges: Exchanges, clock_offset_ns: int) -> Spans:
        """The spans of the exchanges that are to be exported, in their order.

        Not exported, each counted under its service: exchanges that came up only to teach labels (exchanges.taught),
        of unselected processes (spans.dropped.unselected), and without valid ids, direction or lengths
        (spans.dropped.unnamed). clock_offset_ns: CLOCK_REALTIME - CLOCK_MONOTONIC. A batch that raises is not counted.
        """
        self._booked.clear()
        spans = self._spans(exchanges, clock_offset_ns)
        for name, svc, amount in self._booked:
            self._counters.add(name, amount, svc)
        return spans

    def _spans(self, exchanges: Exchanges, clock_offset_ns: int) -> Spans:
        x, text = self._wanted(exchanges.x, exchanges.text)
        words = _shape_words(x, text)
        first, group = distinct(words) if len(x) else (np.zeros(0, np.intp), np.zeros(0, np.intp))
        found = [self._registry.resource(svc) for svc in x["key"]["svc"][first].tolist()]
        known = np.array([r is not None for r in found], np.bool_)
        if not known.all():
            kept = known[group]
            self._count("spans.dropped.unselected", x[~kept])
            x, text, group, words = x[kept], text[kept], group[kept], words[kept]
            first = np.array([0], np.intp)  # made anew below
            used, first, group = np.unique(group, return_index=True, return_inverse=True)
            found = [found[i] for i in used.tolist()]
        self._count("spans.created", x)
        shapes = [self._shape(words[row], x, text, row) for row in first.tolist()]
        resources, resource = _numbered([r for r in found if r is not None])
        return self._columns(x, text, clock_offset_ns, resources, resource[group], shapes, group.astype(np.int32))

    def _wanted(self, x: Records, text: U8) -> tuple[Records, U8]:
        """The rows that make sense and that the sampler did not leave out."""
        direction = x["key"]["direction"]
        sound = has_context(x) & (direction >= _SERVER) & (direction <= _CLIENT)
        taught = sound & self._only_taught(x)
        if taught.any():
            self._count("exchanges.taught", x[taught])
        if not sound.all():
            self._count("spans.dropped.unnamed", x[~sound])
        kept = sound & ~taught
        return (x, text) if kept.all() else (x[kept], text[kept])

    def _only_taught(self, x: Records) -> Bools:
        """Rows that came up for their labels alone: as is_sampled and is_worth_keeping of probes/include/exchange.h."""
        flags = x["flags"] & (_FIRST | _SAMPLED)
        rows: Bools = flags == _FIRST
        if not rows.any():
            return rows
        if self._options.slow_ns:
            rows &= (x["end_ns"] - x["start_ns"]) < self._options.slow_ns
        if self._options.keep_errors:
            key = x["key"]
            error = np.where(key["direction"] == _SERVER, 500, 400)
            rows &= (key["status"] < error) & (key["outcome"] == _COMPLETE)
        return rows

    def _count(self, name: str, x: Records) -> None:
        services, counts = np.unique(x["key"]["svc"], return_counts=True)
        self._booked += [(name, svc, n) for svc, n in zip(services.tolist(), counts.tolist(), strict=True)]

    def _shape(self, words: U64, x: Records, text: U8, row: int) -> Shape:
        """The remembered shape of a group of rows, or a new one made from one of them."""
        token = words.tobytes()
        shape = self._shapes.get(token)
        if shape is None:
            if len(self._shapes) >= self._options.max_cached:
                self._shapes.clear()
            key = Key(*x["key"][row].item())
            target = Heads.of(x[row : row + 1], text[row : row + 1]).parts(0)[1]
            route = None if int(words[3]) & _FOLDED else self._routes.name(key.route, target)
            cut = bool(int(words[3]) & _CUT)
            shape = self._shapes[token] = make_shape(key, route, cut, self._options.methods)
        return shape

    def _columns(
        self, x: Records, raw: U8, clock_offset_ns: int, resources: list[Resource], resource: I32,
        shapes: list[Shape], shape: I32,
    ) -> Spans:  # fmt: skip
        """All columns of the spans of x."""
        server: Bools = x["key"]["direction"] == _SERVER
        raw_heads = Heads.of(x, raw)
        state, bad_state = trace_state(x, raw)
        if bad_state.any():
            self._count("spans.tracestate_invalid", x[bad_state])
        texts: dict[str, Text] = {}
        ints: dict[str, I64] = {}
        self._describe_peers(x, server, texts, ints)
        self._describe_request(x, raw_heads, server, texts, ints)
        ints["http.request.body.size"] = _size(x["request_bytes"])
        ints["http.response.body.size"] = np.where(x["first_ns"] == 0, np.int64(-1), _size(x["response_bytes"]))
        ints["stingless.ttfb_ns"] = time_to_first_byte(x)
        ids = context(x, clock_offset_ns)
        return Spans(resources, shapes, resource, shape, *ids, ints, texts, state)

    def _describe_peers(self, x: Records, server: Bools, texts: dict[str, Text], ints: dict[str, I64]) -> None:
        """Both ends of the connection."""
        remote = self._addresses.texts(x["remote_addr"])
        port = x["remote_port"].astype(np.int64)
        texts["network.peer.address"], ints["network.peer.port"] = remote, port
        texts["network.local.address"] = self._addresses.texts(x["local_addr"])
        ints["network.local.port"] = x["local_port"].astype(np.int64)
        if server.any():
            texts["client.address"] = only(remote, server)
            ints["client.port"] = np.where(server, port, np.int64(-1))

    def _describe_request(
        self, x: Records, heads: Heads, server: Bools, texts: dict[str, Text], ints: dict[str, I64]
    ) -> None:
        """What the request's head says: the URL, the host, the method that has no name of its own, the user agent."""
        heads, cutter, target = self._cleaner.clean(heads, Cutter(heads.text), ~server)
        hosts = self._hosts.columns(cutter.cut(heads.host_off, heads.host, clean=True, multiple=8))
        named = hosts.address.length > 0
        usual = np.where(x["key"]["tls"] != 0, 443, 80)
        own_port = np.where(server, x["local_port"], x["remote_port"])
        ints["server.port"] = np.where(hosts.port >= 0, hosts.port, np.where(named, usual, own_port)).astype(np.int64)
        own = first_known(only(texts["network.local.address"], server), texts["network.peer.address"])
        texts["server.address"] = first_known(only(hosts.address, named), own)
        if server.any():
            path = np.where(server & (heads.target > 0), target.path_end, -1).astype(np.int32)
            texts["url.path"] = Text(target.data, path)
            if len(target.query_rows):
                query = Text(target.query, target.query_length.astype(np.int32))
                texts["url.query"] = only(spread(query, target.query_rows, len(x)), server)
            agent = cutter.cut(heads.agent_off, heads.agent)
            length = np.where(server & (heads.agent > 0), heads.agent, -1).astype(np.int32)
            texts["user_agent.original"] = Text(agent, length)
        if not server.all():
            rows = np.flatnonzero(~server)
            authority = authorities(hosts.authority, named, own, own_port, rows)
            texts["url.full"] = spread(full_urls(x["key"]["tls"][rows], authority, target, rows), rows, len(x))
        method = x["key"]["method"]
        other = (method == 0) | (method > len(self._options.methods))
        if other.any():
            length = np.where(other & (heads.method > 0), heads.method, -1).astype(np.int32)
            texts["http.request.method_original"] = Text(cutter.cut(np.zeros_like(heads.method), heads.method), length)


def make_shape(key: Key, route: str | None, cut: bool, methods: tuple[str, ...]) -> Shape:
    """What all spans of a metric key share. route: None if unknown; cut: the target was longer than what was kept."""
    method = key.method_name(methods)
    error = key.error_type
    attributes: dict[str, Value | None] = {
        "error.type": error,
        "http.request.method": method,
        "http.response.status_code": key.status or None,
        "http.route" if key.is_server else "url.template": route,
        "network.protocol.version": key.version,
        "stingless.outcome": key.outcome_name,
        "stingless.target.truncated": cut or None,
        "url.scheme": key.scheme,
    }
    name = "HTTP" if method == OTHER else method
    return Shape(
        name if route is None else f"{name} {route}",
        KIND_SERVER if key.is_server else KIND_CLIENT,
        STATUS_ERROR if error else STATUS_UNSET,
        tuple((k, v) for k, v in sorted(attributes.items()) if v is not None),
    )


def _shape_words(x: Records, text: U8) -> U64:
    """(n, 4): all that a row's shape depends on: its metric key, then flags. FOLDED stands for any unknown route."""
    words = np.empty((len(x), 4), np.uint64)
    key = np.array(x["key"])  # a copy: the batch is not ours to change
    key["pad"] = 0
    words[:, :3] = key.view("<u8").reshape(-1, 3)
    words[:, 3] = x["flags"] & (_CUT | _FOLDED)
    unknown = (key["route"] == 0) | (Heads.of(x, text).target == 0)
    words[:, 3] |= np.where(unknown, np.uint64(_FOLDED), np.uint64(0))
    return words


def _numbered(found: list[Resource]) -> tuple[list[Resource], I32]:
    """Distinct resources, by identity, and each group's number among them."""
    numbers: dict[int, int] = {}
    resources: list[Resource] = []
    for resource in found:
        if id(resource) not in numbers:
            numbers[id(resource)] = len(resources)
            resources.append(resource)
    return resources, np.array([numbers[id(r)] for r in found], np.int32)


def _size(size: U64) -> I64:
    return np.minimum(size, np.uint64(_WIDEST_SIZE)).astype(np.int64)
