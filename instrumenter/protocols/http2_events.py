# SPDX-License-Identifier: Apache-2.0
"""What is told of an HTTP/2 connection: the contract between whoever walks its frames and `http2`.

In: nothing. Out: types. The rule: events of one half come in the order of its bytes; all of a connection's events that
hold a header block come, whatever their stream, or a `Gap` or a `cut` says otherwise (RFC 7541, 2.2: one table a half).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple


class Half(IntEnum):
    """One direction of a connection: a server reads its REQUEST half, a client writes it."""

    REQUEST = 0
    RESPONSE = 1

    @property
    def other(self) -> Half:
        return Half.RESPONSE if self is Half.REQUEST else Half.REQUEST


@dataclass(frozen=True, slots=True)
class Headers:
    """A field block (RFC 9113, 4.3): HEADERS and its CONTINUATIONs without padding and priority.

    cut: the block goes on, or is wanting altogether (b""): what is there is right, what follows was not kept.
    """

    stream: int
    block: bytes
    end_stream: bool
    cut: bool = False


@dataclass(frozen=True, slots=True)
class Promise:
    """PUSH_PROMISE: of no interest but for its block, which moves the half's table."""

    promised: int
    block: bytes
    cut: bool = False


@dataclass(frozen=True, slots=True)
class Data:
    """Body bytes, padding left out: of one DATA frame or, if its sender adds them up, of several.

    messages: gRPC messages that began in them; None: not counted.
    """

    stream: int
    size: int
    end_stream: bool
    messages: int | None = None


@dataclass(frozen=True, slots=True)
class Reset:
    """RST_STREAM, by the half's sender."""

    stream: int
    code: int


@dataclass(frozen=True, slots=True)
class GoAway:
    last_stream: int
    code: int


@dataclass(frozen=True, slots=True)
class TableSize:
    """SETTINGS_HEADER_TABLE_SIZE as this half announces it: it limits the encoder of the other half."""

    size: int


@dataclass(frozen=True, slots=True)
class Upgrade:
    """The HTTP/1.1 request that became stream 1 (h2c; RFC 7540, 3.2). head: to its empty line; body: its length."""

    head: bytes
    body: int


@dataclass(frozen=True, slots=True)
class Gap:
    """Events of this half were lost, nobody knows which."""


@dataclass(frozen=True, slots=True)
class NotHttp2:
    """The half's bytes are not HTTP/2, or no longer; nothing follows."""

    reason: str


Event = Headers | Promise | Data | Reset | GoAway | TableSize | Upgrade | Gap | NotHttp2


class Seen(NamedTuple):
    """An event and when its first and last byte passed (ns)."""

    event: Event
    begin_ns: int
    end_ns: int
