# SPDX-License-Identifier: Apache-2.0
"""POST over one kept-alive connection without TLS or proxy, as most agents have to their collector.

In: bodies. Out: answers, read by `http.client`. The rule it protects: what is the same in all requests is made once; a
general client's pools and header objects cost as much as encoding thousands of spans.
"""

from __future__ import annotations

import contextlib
import re
import select
import socket
import threading
from collections.abc import Mapping
from http.client import HTTPResponse
from typing import Final, NamedTuple, Protocol
from urllib.parse import quote, urlsplit

from exporters.envelope import Body

_SAFE: Final = "/?:@!$&'()*+,;=-._~%"  # stay as they are in a target (RFC 3986, 3.3 and 3.4)
_UNFIT: Final = re.compile(r"[^\t\x20-\x7e\x80-\xff]")  # in a header (RFC 9110, 5.5)


class Headers(Protocol):
    def get(self, name: str, default: str, /) -> str:
        """Of the header whose name this is but for case."""


class Answer(NamedTuple):
    """Of an HTTP request."""

    status: int
    reason: str
    headers: Headers
    body: bytes


class DirectPost:
    """An endpoint of scheme http. For one thread; only `close` may come from another."""

    def __init__(self, url: str, headers: Mapping[str, str]) -> None:
        parts = urlsplit(url)
        self._address = parts.hostname or "", parts.port or 80
        target = quote(parts.path or "/", _SAFE) + (f"?{quote(parts.query, _SAFE)}" if parts.query else "")
        host = parts.netloc.rpartition("@")[2].encode("idna" if not parts.netloc.isascii() else "ascii").decode()
        lines = [f"POST {target} HTTP/1.1", f"Host: {host}", *(f"{k}: {v}" for k, v in headers.items())]
        self._unfit = any(map(_UNFIT.search, lines))
        self._head = b"" if self._unfit else "\r\n".join([*lines, "Content-Length: "]).encode("latin-1")
        self._connection: socket.socket | None = None
        self._busy = threading.Lock()

    def post(self, body: Body, timeout_s: float | None, most: int) -> Answer:
        """The answer, at most `most` bytes of its body. Raises OSError, HTTPException, ValueError (an unfit header)."""
        if self._unfit:
            raise ValueError("a header has a character that HTTP does not allow")
        with self._busy:
            connection = self._open(timeout_s)
            kept = False
            try:
                head = self._head + b"%d\r\n\r\n" % len(body)
                # A receiver that refuses a body may answer, and hang up, before it has read it.
                with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                    sent = connection.sendmsg([head, body])
                    if sent < len(head) + len(body):
                        connection.sendall(head[sent:])
                        connection.sendall(memoryview(body)[max(0, sent - len(head)) :])
                with HTTPResponse(connection, method="POST") as response:
                    response.begin()
                    answer = Answer(response.status, response.reason, response.headers, response.read(most))
                    kept = not response.will_close and not response.read(1)
                return answer
            finally:
                if not kept:
                    self._drop()

    def _open(self, timeout_s: float | None) -> socket.socket:
        """The connection, or a new one where the receiver has closed it meanwhile."""
        if self._connection is not None:
            look = select.poll()
            look.register(self._connection, select.POLLIN)
            if look.poll(0):
                self._drop()
        if self._connection is None:
            self._connection = socket.create_connection(self._address, timeout_s)
            self._connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._connection.settimeout(timeout_s)
        return self._connection

    def _drop(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def close(self) -> None:
        """Ends a request that runs in another thread, too."""
        if self._busy.acquire(blocking=False):
            self._drop()
            self._busy.release()
        elif (connection := self._connection) is not None:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
