# SPDX-License-Identifier: Apache-2.0
"""Addresses and hosts as text.

In: columns of 16-byte addresses and of Host headers. Out: text columns. The rule this file protects: each distinct
address or host is formatted once, and no more than a bounded number of them is remembered.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from instrumenter.columns import Rows, as_words, distinct, pick, table
from instrumenter.heads import redact_authority
from instrumenter.model import I64, U8, Text
from instrumenter.routes import printable
from instrumenter.semantics import address_text, split_host


class Addresses:
    """16 bytes in network order -> text, as a column."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._known: dict[bytes, bytes] = {}

    def texts(self, packed: U8) -> Text:
        """packed: (n, 16)."""
        first, group = distinct(as_words(packed))
        keys = packed[first].tobytes()
        return pick(table([self._text(keys[i : i + 16]) for i in range(0, len(keys), 16)]), group)

    def _text(self, packed: bytes) -> bytes:
        known = self._known.get(packed)
        if known is None:
            if len(self._known) >= self._limit:
                self._known.clear()
            known = self._known[packed] = address_text(packed).encode()
        return known


class Host(NamedTuple):
    """A Host header taken apart; port -1 if it names none; `authority` is for URLs."""

    address: bytes
    port: int
    authority: bytes


class HostColumns(NamedTuple):
    """Hosts of n requests; address of length 0 where there was none."""

    address: Text
    port: I64
    authority: Text


class Hosts:
    """Host headers -> what they name, as columns."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._known: dict[bytes, Host] = {}

    def columns(self, host: U8) -> HostColumns:
        """host: (n, w) zero-padded printable ASCII, w a multiple of 8."""
        if host.shape[1] == 0:
            empty = Text(np.zeros((len(host), 0), np.uint8), np.zeros(len(host), np.int32))
            return HostColumns(empty, np.full(len(host), -1, np.int64), empty)
        first, group = distinct(as_words(host))
        hosts = [self._host(host[row].tobytes().rstrip(b"\0")) for row in first.tolist()]
        ports = np.array([h.port for h in hosts], np.int64)
        return HostColumns(_picked([h.address for h in hosts], group), ports[group],
                           _picked([h.authority for h in hosts], group))  # fmt: skip

    def _host(self, raw: bytes) -> Host:
        known = self._known.get(raw)
        if known is None:
            if len(self._known) >= self._limit:
                self._known.clear()
            address, port = split_host(raw)
            authority = redact_authority(printable(raw).strip())
            known = self._known[raw] = Host(address.encode(), port, authority.encode())
        return known


def _picked(texts: list[bytes], group: Rows) -> Text:
    return pick(table(texts), group)
