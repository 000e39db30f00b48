# SPDX-License-Identifier: Apache-2.0
"""What stands before the frames of a half: a client's preface, or the HTTP/1.1 exchange that leads to HTTP/2 (h2c).

In: the first bytes of a half. Out: a `Step` for each piece. The rule: it is HTTP/2 only once it cannot be anything
else, and at most MAX_HEAD bytes are held until then. RFC 9113, 3.4 (preface); RFC 7540, 3.2 (upgrade).
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from instrumenter.protocols.http2_events import Half, Upgrade

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
MAX_HEAD: Final = 1 << 14
_SWITCHING: Final = b"HTTP/1.1 101"
_TOKEN: Final = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,32}( |\Z)")  # a method, and room for its end
_REQUEST: Final = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+ [^ \r\n]+ HTTP/1\.1\r\n")
_H2C: Final = re.compile(rb"\r\nupgrade:[^\r\n]*\bh2c\b", re.IGNORECASE)
_LENGTH: Final = re.compile(rb"\r\ncontent-length:[ \t]*(\d{1,18})[ \t]*\r\n", re.IGNORECASE)
_CODED: Final = re.compile(rb"\r\ntransfer-encoding:", re.IGNORECASE)


class Step(NamedTuple):
    """What came of a piece: `rest` of it for the frames once `done`; why it is refused; a request for an upgrade."""

    rest: memoryview = memoryview(b"")
    done: bool = False
    refused: str = ""
    upgrade: Upgrade | None = None


class Start:
    """Reads the start of one half, until a step is done or refused."""

    def __init__(self, half: Half) -> None:
        self._half = half
        self._held = bytearray()
        self._body = 0  # still to come, of the request that asks for the upgrade
        self._upgrade: Upgrade | None = None
        self._upgraded = False  # nothing but the preface may follow
        self.untouched = True

    def feed(self, view: memoryview) -> Step:
        self.untouched = False
        if self._upgrade is not None:
            return self._pass_body(view)
        searched = max(0, len(self._held) - 3)
        room = MAX_HEAD + len(PREFACE)
        self._held += view[:room]
        return self._judge(searched, view[room:])

    def _judge(self, searched: int, rest: memoryview) -> Step:
        held, is_client = self._held, self._half is Half.REQUEST
        if is_client and PREFACE.startswith(bytes(held[: len(PREFACE)])):
            return self._frames(len(PREFACE), rest) if len(held) >= len(PREFACE) else Step()
        if self._upgraded or (is_client and (held.startswith(b"PRI ") or not _TOKEN.match(held[:33]))):
            return Step(refused="no client preface")
        if not is_client and not held.startswith(_SWITCHING[: len(held)]):
            return self._frames(0, rest)
        end = held.find(b"\r\n\r\n", searched)
        if end < 0:
            return Step(refused="no end of an HTTP/1 head") if len(held) > MAX_HEAD else Step()
        if not is_client:
            return self._frames(end + 4, rest)
        return self._request(bytes(held[: end + 4]), memoryview(bytes(held[end + 4 :]) + rest))

    def _frames(self, size: int, rest: memoryview) -> Step:
        return Step(memoryview(bytes(self._held[size:]) + rest), done=True)

    def _request(self, head: bytes, rest: memoryview) -> Step:
        if not _REQUEST.match(head) or not _H2C.search(head):
            return Step(refused="HTTP/1 that asks for no HTTP/2")
        if _CODED.search(head):
            return Step(refused="an upgrade with a body of unknown length")
        length = _LENGTH.search(head)
        self._body = int(length[1]) if length else 0
        self._upgrade = Upgrade(head, self._body)
        return self._pass_body(rest)

    def _pass_body(self, view: memoryview) -> Step:
        size = min(self._body, len(view))
        self._body -= size
        if self._body or self._upgrade is None:
            return Step()
        upgrade, self._upgrade = self._upgrade, None
        self._upgraded = True
        self._held.clear()
        return self.feed(view[size:])._replace(upgrade=upgrade)
