# SPDX-License-Identifier: Apache-2.0
"""The load: a number of connections, each with one request at a time, that asks a front and reads whose answer came.

In: (number, mode)s. Out: what went wrong, by request. The rule it protects: an answer that is not this request's, or
not 200, is a fault of the benchmark or of the service, and is said; it is nothing that a tracer is blamed for.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable, Iterator

LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
NUMBER = re.compile(rb"\r\nx-number: *(\d+)", re.IGNORECASE)  # of proxies, whose body is the leaf's
CLOSE = re.compile(rb"\r\nconnection: *close", re.IGNORECASE)
WITHIN_S = 60.0

Pair = tuple[asyncio.StreamReader, asyncio.StreamWriter]


def send(port: int, requests: Iterable[tuple[int, str]], connections: int, keep_alive: bool) -> list[str]:
    """Failures, a line for each; empty: all were answered."""
    return asyncio.run(_send(port, iter(requests), connections, keep_alive))


async def _send(port: int, requests: Iterator[tuple[int, str]], connections: int, keep_alive: bool) -> list[str]:
    failures: list[str] = []
    workers = [_connection(port, requests, keep_alive, failures) for _ in range(connections)]
    await asyncio.gather(*workers)
    return failures


async def _connection(port: int, requests: Iterator[tuple[int, str]], keep: bool, failures: list[str]) -> None:
    pair: Pair | None = None
    for number, mode in requests:
        try:
            async with asyncio.timeout(WITHIN_S):
                pair = pair or await asyncio.open_connection("127.0.0.1", port)
                fault, closes = await _exchange(pair, port, number, mode, keep)
        except (OSError, EOFError, TimeoutError) as error:
            fault, closes = f"{type(error).__name__} {error}", True
        if fault:
            failures.append(f"/front/{number}?mode={mode}: {fault}")
        if pair and closes:
            pair[1].close()
            pair = None
    if pair:
        pair[1].close()


async def _exchange(pair: Pair, port: int, number: int, mode: str, keep: bool) -> tuple[str, bool]:
    """What is wrong with the answer, and whether the connection is over."""
    reader, writer = pair
    more = "" if keep else "Connection: close\r\n"
    head = f"GET /front/{number}?mode={mode} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nx-truth: {number}\r\n{more}\r\n"
    writer.write(head.encode())
    answer = await reader.readuntil(b"\r\n\r\n")
    length = LENGTH.search(answer)
    if length is None:
        return f"an answer without Content-Length: {answer!r}", True
    body = await reader.readexactly(int(length[1]))
    status = answer.split(b" ", 2)[1]
    name = NUMBER.search(answer)
    whose = name[1] if name else body.strip()
    fault = "" if (status, whose) == (b"200", b"%d" % number) else f"status {status!r}, answer of {whose!r}"
    return fault, not keep or CLOSE.search(answer) is not None
