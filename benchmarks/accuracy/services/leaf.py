# SPDX-License-Identifier: Apache-2.0
"""What every front calls: `leaf.py PORT LEDGER`. GET /leaf/ID/N with the header `x-truth: ID/N`, in some milliseconds.

?do=slow takes SLOW_S; ?do=fail answers 503 the first time. LEDGER gets a line `ID N STATUS` for each answer, before it
is sent: the truth about which calls were made. A header that says something else than the path is a bug of the front,
and gets 400.
"""

from __future__ import annotations

import asyncio
import os
import re
import sys
from pathlib import Path

REQUEST = re.compile(rb"GET /leaf/((\d+)/(\d+))(?:\?do=(\w+))? HTTP/1\.[01]\r\n")
TRUTH = re.compile(rb"\r\nx-truth: *([^\r]*)\r\n", re.IGNORECASE)
CLOSE = re.compile(rb"\r\nconnection: *close\r\n", re.IGNORECASE)
SLOW_S = 0.15


class Leaf(asyncio.Protocol):
    failed: set[bytes] = set()  # noqa: RUF012 (of all connections)
    ledger = -1

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.buffer = b""

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        while (end := self.buffer.find(b"\r\n\r\n")) >= 0:
            head, self.buffer = self.buffer[: end + 4], self.buffer[end + 4 :]
            status, delay_s = self.decide(head)
            close = CLOSE.search(head) is not None or b" HTTP/1.0\r\n" in head
            asyncio.get_running_loop().call_later(delay_s, self.answer, head, status, close)

    def decide(self, head: bytes) -> tuple[int, float]:
        request, truth = REQUEST.match(head), TRUTH.search(head)
        if request is None or truth is None or truth[1] != request[1]:
            return 400, 0.0
        number = int(request[2]) * 3 + int(request[3])
        delay_s = SLOW_S if request[4] == b"slow" else 0.001 + number * 7919 % 11 / 1000  # so that answers overtake
        if request[4] == b"fail" and request[1] not in self.failed:
            self.failed.add(request[1])
            return 503, delay_s
        return 200, delay_s

    def answer(self, head: bytes, status: int, close: bool) -> None:
        if request := REQUEST.match(head):
            os.write(self.ledger, b"%b %b %d\n" % (request[2], request[3], status))
        body = b"leaf\n"
        more = b"Connection: close\r\n" if close else b""
        reason = {200: b"OK", 503: b"Service Unavailable"}.get(status, b"Bad Request")
        start = b"HTTP/1.1 %d %b\r\nContent-Type: text/plain\r\n" % (status, reason)
        self.transport.write(start + b"Content-Length: %d\r\n%b\r\n%b" % (len(body), more, body))
        if close:
            self.transport.close()


async def main() -> None:
    Leaf.ledger = os.open(Path(sys.argv[2]), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    server = await asyncio.get_running_loop().create_server(Leaf, "127.0.0.1", int(sys.argv[1]), backlog=4096)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
