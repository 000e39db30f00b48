# SPDX-License-Identifier: Apache-2.0
"""What a metric key's hashes stand for: the labels of RED metrics, and an exemplar for each.

In: exchange records, the first of every key among them. Out: attributes by the bytes of `struct red_key`. The rule
this file protects: a label never says more than the key determines, so that no count is filed under a wrong name.

Several keys can have the same attributes (an outcome that adds nothing to the status, say): who reads the metric map
adds those up.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

import numpy as np

from instrumenter.bpf.abi import RED_KEY, Direction, Flag
from instrumenter.columns import Rows, distinct, key_words
from instrumenter.conventions import convention
from instrumenter.heads import Heads
from instrumenter.model import Attributes, Exemplar
from instrumenter.routes import Routes, printable
from instrumenter.semantics import HTTPS, OTHER, Key, NameOptions, split_host

if TYPE_CHECKING:
    from instrumenter.records import Exchanges


ExemplarFilter = Literal["trace_based", "always_on", "always_off"]
_SAMPLED: Final = int(Flag.SAMPLED)


class _Moment(NamedTuple):
    """The latest exchange of a key that may be an exemplar."""

    duration: float  # in the unit of its metric
    end_ns: int
    trace_id: bytes
    span_id: bytes


class Labels:
    """Learns the strings behind metric keys. Not thread-safe.

    limit: keys remembered; beyond it the one taught longest ago is forgotten. It should be above the kernel's
    `settings.total_keys`, as the kernel teaches a key once per CPU. exemplars: OpenTelemetry's filters; always_on takes
    every exchange that the kernel gave, and it gives few of those that it did not sample.
    """

    def __init__(
        self,
        options: NameOptions | None = None,
        limit: int = 65_536,
        exemplars: ExemplarFilter = "trace_based",
    ) -> None:
        self._options = options or NameOptions()
        self._limit = limit
        self._filter = exemplars
        self._routes = Routes(limit)
        self._known: dict[bytes, Attributes] = {}
        self._exemplars: dict[bytes, _Moment] = {}

    def register(self, route: int, pattern: bytes) -> None:
        """A route's hash stands for a pattern that a program registered."""
        self._routes.register(route, pattern)

    def learn(self, exchanges: Exchanges, clock_offset_ns: int = 0) -> None:
        """Take the labels and latest exemplars of a batch. clock_offset_ns: CLOCK_REALTIME - CLOCK_MONOTONIC."""
        x = exchanges.x
        if len(x) == 0:
            return
        words = key_words(x)
        first, group = distinct(words)
        tokens = words[first].tobytes()
        latest = _latest(x, self._eligible(x), group, len(first))
        for place, (row, newest) in enumerate(zip(first.tolist(), latest.tolist(), strict=True)):
            token = tokens[place * RED_KEY.itemsize : (place + 1) * RED_KEY.itemsize]
            if token not in self._known:
                self._remember(token, exchanges, row)
            if newest >= 0:
                self._exemplars[token] = _moment(x[newest], clock_offset_ns)

    def _eligible(self, x: Any) -> Rows:
        """Rows that may be exemplars."""
        if self._filter == "always_off":
            return np.empty(0, np.intp)
        return np.arange(len(x)) if self._filter == "always_on" else np.flatnonzero(x["flags"] & _SAMPLED)

    def knows(self, key: bytes) -> bool:
        """Whether an exchange has taught this key, so that `attributes` will not change."""
        return key in self._known

    def attributes(self, key: bytes) -> Attributes | None:
        """The metric attributes of a key (24 bytes, `pad` zero). None if they are not a metric key of an exchange.

        Of a key that was never learned (its first record found no room in the ring; the kernel tries again with the
        next exchange), those that the numbers alone determine: without http.route, url.template, server.address and
        server.port.
        """
        known = self._known.get(key)
        if known is not None:
            return known
        parsed = parse_key(key)
        return None if parsed is None else self._attributes(parsed, OTHER if parsed.route == 0 else None, "", -1)

    def exemplars(self, key: bytes) -> tuple[Exemplar, ...]:
        """The latest exchange of a key that the filter lets through, if any; its value is the duration."""
        moment = self._exemplars.get(key)
        if moment is None:
            return ()
        return (Exemplar(moment.duration, moment.end_ns, moment.trace_id, moment.span_id),)

    def forget(self, key: bytes) -> None:
        """Drop what is known of a key, when its row leaves the metric map."""
        self._known.pop(key, None)
        self._exemplars.pop(key, None)

    def _remember(self, token: bytes, exchanges: Exchanges, row: int) -> None:
        key = parse_key(token)
        heads = Heads.of(exchanges.x[row : row + 1], exchanges.text[row : row + 1])
        _, target, raw_host, _ = heads.parts(0)
        if key is None or not target:
            return  # what is missing here, the next exchange of the key brings
        if len(self._known) >= self._limit:
            self.forget(next(iter(self._known)))
        route = self._routes.name(key.route, target, convention(key.protocol).route) if key.route else OTHER
        host, port = split_host(printable(raw_host).encode())
        self._known[token] = self._attributes(key, route, host, port)

    def _attributes(self, key: Key, route: str | None, host: str, port: int) -> Attributes:
        """Labels by the conventions for HTTP and RPC metrics.

        A folded key's route is `_OTHER`. Clients have the server they called; servers' own addresses are not part of
        their key.
        """
        usual = HTTPS if key.tls else 80
        attributes = convention(key.protocol).facts(key, route, self._options.methods)
        if host and not key.is_server and key.peer:
            attributes["server.address"] = host
            attributes["server.port"] = port if port >= 0 else usual
        return tuple((k, v) for k, v in sorted(attributes.items()) if v is not None)


def parse_key(key: bytes) -> Key | None:
    """The numbers in the bytes of a `struct red_key`; None if they cannot be one of an exchange."""
    if len(key) != RED_KEY.itemsize:
        return None
    parsed = Key(*np.frombuffer(key, RED_KEY)[0].item())
    return parsed if parsed.direction in (Direction.SERVER, Direction.CLIENT) else None


def _latest(x: Any, rows: Rows, group: Rows, groups: int) -> Rows:
    """Of `rows`, the one that ended last in each group; -1 where there is none."""
    latest = np.full(groups, -1, np.intp)
    end = x["end_ns"][rows]
    if groups == 1 and len(rows):
        latest[0] = rows[len(rows) - 1 - end[::-1].argmax()]
        return latest
    if (end[1:] < end[:-1]).any():
        rows = rows[np.argsort(end, kind="stable")]
    latest[group[rows]] = rows  # the last of several assignments to a place stays
    return latest


def _moment(record: Any, clock_offset_ns: int) -> _Moment:
    start, end = int(record["start_ns"]), int(record["end_ns"])
    unit = convention(int(record["key"]["protocol"])).unit_ns
    return _Moment(
        max(end - start, 0) / unit, end + clock_offset_ns, record["trace_id"].tobytes(), record["span_id"].tobytes()
    )
