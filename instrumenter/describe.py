# SPDX-License-Identifier: Apache-2.0
"""What is said of an exchange by its metric key, its request's head and its connection: shapes, and columns of texts.

In: exchange records with their text. Out: shapes and columns of attributes. The rule this file protects: nothing is
done row by row in Python but what is rare; all that a metric key determines is made once per key and remembered.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from instrumenter.bpf.abi import Direction, Flag
from instrumenter.columns import Bools, Cutter, Rows, distinct, key_words, only, spread
from instrumenter.conventions import convention, shows
from instrumenter.heads import Cleaner, Heads
from instrumenter.model import (
    I64,
    KIND_CLIENT,
    KIND_SERVER,
    STATUS_ERROR,
    STATUS_UNSET,
    U8,
    U64,
    Shape,
    Text,
)
from instrumenter.peers import Addresses, Hosts
from instrumenter.routes import Routes
from instrumenter.semantics import HTTPS, Key, NameOptions, tls_facts
from instrumenter.traces import Records
from instrumenter.urls import authorities, first_known, full_urls

# Plain numbers: an enum's arithmetic costs as much as NumPy's on a small batch.
_CUT, _FOLDED, _SERVER_NAME = int(Flag.TARGET_CUT), int(Flag.FOLDED), int(Flag.SERVER_NAME)
_TLS_VERSION: Final = np.uint64(16)  # where in a shape's last word
_SERVER: Final = int(Direction.SERVER)


class Describer:
    """Not thread-safe: it remembers what it has described."""

    def __init__(self, options: NameOptions) -> None:
        self._options = options
        limit = options.max_cached
        self._routes = Routes(limit)
        self._shapes: dict[bytes, Shape] = {}
        self._addresses = Addresses(limit)
        self._hosts = Hosts(limit)
        self._cleaner = Cleaner(options.sensitive)

    def register(self, route: int, pattern: bytes) -> None:
        """A route's hash stands for a pattern that a program registered."""
        self._routes.register(route, pattern)

    def shapes(self, x: Records, text: U8) -> tuple[list[Shape], Rows, Rows]:
        """The shapes of all rows: each once, a row of each, and each row's number among them."""
        if not len(x):
            return [], np.zeros(0, np.intp), np.zeros(0, np.intp)
        words = _shape_words(x, text)
        first, group = distinct(words)
        return [self._shape(words[row], x, text, row) for row in first.tolist()], first, group

    def _shape(self, words: U64, x: Records, text: U8, row: int) -> Shape:
        """The remembered shape of a group of rows, or a new one made from one of them."""
        token = words.tobytes()
        shape = self._shapes.get(token)
        if shape is None:
            if len(self._shapes) >= self._options.max_cached:
                self._shapes.clear()
            key = Key(*x["key"][row].item())
            said = convention(key.protocol)
            target = Heads.of(x[row : row + 1], text[row : row + 1]).parts(0)[1]
            route = None if int(words[3]) & _FOLDED else self._routes.name(key.route, target, said.route)
            cut = bool(int(words[3]) & _CUT)
            tls_version = int(words[3]) >> int(_TLS_VERSION)
            shape = self._shapes[token] = make_shape(key, route, cut, tls_version, self._options.methods)
        return shape

    def attributes(self, x: Records, raw: U8) -> tuple[dict[str, Text], dict[str, I64]]:
        """What varies within a shape: texts, and numbers that are no sizes or times."""
        server: Bools = x["key"]["direction"] == _SERVER
        texts: dict[str, Text] = {}
        ints: dict[str, I64] = {}
        self._describe_peer(x, server, texts, ints)
        self._describe_request(x, Heads.of(x, raw), server, texts, ints)
        for name in list(texts):
            rows = shows(x["key"]["protocol"], name)
            if rows is not None and not rows.all():
                texts[name] = only(texts[name], rows)
        return texts, ints

    def _describe_peer(self, x: Records, server: Bools, texts: dict[str, Text], ints: dict[str, I64]) -> None:
        """The other end. What the conventions leave to opting in (client.port, network.local.*) is not told."""
        remote = self._addresses.texts(x["remote_addr"])
        texts["network.peer.address"], ints["network.peer.port"] = remote, x["remote_port"].astype(np.int64)
        if server.any():
            texts["client.address"] = only(remote, server)

    def _describe_request(
        self, x: Records, heads: Heads, server: Bools, texts: dict[str, Text], ints: dict[str, I64]
    ) -> None:
        """What the request's head says: the URL, the host, the method that has no name of its own, the user agent."""
        own_port = np.where(server, x["local_port"], x["remote_port"])
        heads = _with_ports(x, heads, own_port)
        heads, cutter, target = self._cleaner.clean(heads, Cutter(heads.text), ~server)
        hosts = self._hosts.columns(cutter.cut(heads.host_off, heads.host, clean=True, multiple=8))
        named = hosts.address.length > 0
        usual = np.where(x["key"]["tls"] != 0, HTTPS, 80)
        ints["server.port"] = np.where(hosts.port >= 0, hosts.port, np.where(named, usual, own_port)).astype(np.int64)
        local = self._addresses.texts(x["local_addr"])
        own = first_known(only(local, server), texts["network.peer.address"])
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


def _with_ports(x: Records, heads: Heads, own_port: NDArray[np.uint16]) -> Heads:
    """Where TLS's server name stands for a host, with the port, as a Host header would have it; rare."""
    rows = np.flatnonzero(x["flags"] & _SERVER_NAME)
    parts = []
    for row, port in zip(rows.tolist(), own_port[rows].tolist(), strict=True):
        method, target, host, agent = heads.parts(row)
        parts.append((method, target, host if port == HTTPS else b"%b:%d" % (host, port), agent))
    return heads.replaced(rows, parts) if parts else heads


def make_shape(key: Key, route: str | None, cut: bool, tls_version: int, methods: tuple[str, ...]) -> Shape:
    """What all spans of a metric key share. route: None if unknown; cut: the target was longer than what was kept.

    tls_version: as on the wire; 0 if unknown.
    """
    said = convention(key.protocol)
    attributes = (
        said.facts(key, route, methods)
        | tls_facts(tls_version)
        | {
            "stingless.outcome": key.outcome_name,
            "stingless.target.truncated": cut or None,
        }
    )
    return Shape(
        said.name(key, route, methods),
        KIND_SERVER if key.is_server else KIND_CLIENT,
        STATUS_ERROR if attributes["error.type"] else STATUS_UNSET,
        tuple((k, v) for k, v in sorted(attributes.items()) if v is not None),
    )


def _shape_words(x: Records, text: U8) -> U64:
    """(n, 4): all that a row's shape depends on: its metric key, then flags, FOLDED for any unknown route, and the
    version of TLS."""
    words = np.empty((len(x), 4), np.uint64)
    words[:, :3] = key_words(x)
    words[:, 3] = x["tls_version"].astype(np.uint64) << _TLS_VERSION
    words[:, 3] |= x["flags"] & (_CUT | _FOLDED)
    unknown = (x["key"]["route"] == 0) | (Heads.of(x, text).target == 0)
    words[:, 3] |= np.where(unknown, np.uint64(_FOLDED), np.uint64(0))
    return words
