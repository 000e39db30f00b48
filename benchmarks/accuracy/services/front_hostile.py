# SPDX-License-Identifier: Apache-2.0
"""`front_hostile.py PORT LEAF keep|close select|late|staged`: looks like a thread for a connection, and is not.

All sockets block. select: one thread turns for all connections by select(2), with timers; late: that thread begins when
the first connection is there. staged: reading, each call and answering are jobs of one pool, that makes threads as it
needs them; a request is read, called for and answered by whichever is free.
"""

from __future__ import annotations

import heapq
import itertools
import select
import socket
import sys
import time
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from threading import Thread

PORT, LEAF, KEEP, KIND = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == "keep", sys.argv[4]
Wait = float | socket.socket  # seconds, or a socket that is to be readable
POOL = ThreadPoolExecutor(3000)


def message(sock: socket.socket, data: bytes = b"") -> Generator[Wait, None, bytes]:
    """A head; the bodies here are short and come with it. Empty at the end."""
    while b"\r\n\r\n" not in data:
        yield sock
        more = sock.recv(65536)
        if not more:
            return b""
        data += more
    return data


def start(number: str, which: int, what: str = "") -> socket.socket:
    sock = socket.create_connection(("127.0.0.1", LEAF))
    query = f"?do={what}" if what else ""
    head = f"GET /leaf/{number}/{which}{query} HTTP/1.1\r\nHost: leaf\r\nx-truth: {number}/{which}\r\n"
    sock.sendall(f"{head}Connection: close\r\n\r\n".encode())
    return sock


def finish(sock: socket.socket) -> Generator[Wait, None, int]:
    head = yield from message(sock)
    sock.close()
    return int(head.split(b" ", 2)[1])


def call(number: str, which: int, what: str = "") -> Generator[Wait, None, int]:
    yield 0.001
    return (yield from finish(start(number, which, what)))


def statuses(number: str, shape: str) -> Generator[Wait, None, list[int]]:
    if shape == "seq":
        return [(yield from call(number, 1)), (yield from call(number, 2))]
    if shape == "par":
        yield 0.001
        both = [start(number, 1), start(number, 2)]
        return [(yield from finish(both[0])), (yield from finish(both[1]))]
    if shape == "retry":
        status = yield from call(number, 1, "fail")
        return [(yield from call(number, 1, "fail")) if status == 503 else status]
    return [(yield from call(number, 1, "slow" if shape == "slow" else ""))]


def serve(sock: socket.socket) -> Generator[Wait, None, None]:
    while head := (yield from message(sock)):
        path, _, query = head.split(b" ", 2)[1].decode().partition("?")
        number = path.rpartition("/")[2]
        done = yield from statuses(number, query.partition("mode=")[2] or "one")
        body = f"{number}\n"
        said = "200 OK" if all(status == 200 for status in done) else "502 Bad Gateway"
        sock.sendall(f"HTTP/1.1 {said}\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode())
        if b"connection: close" in head.lower():
            break
    sock.close()


class Loop:
    """Turns until the process ends."""

    def __init__(self, listener: socket.socket) -> None:
        self._listener, self._order = listener, itertools.count()
        self._readers: dict[socket.socket, Generator[Wait, None, object]] = {}
        self._timers: list[tuple[float, int, Generator[Wait, None, object]]] = []

    def go_on(self, task: Generator[Wait, None, object]) -> None:
        wait = next(task, None)
        if isinstance(wait, float):
            heapq.heappush(self._timers, (time.monotonic() + wait, next(self._order), task))
        elif wait is not None:
            self._readers[wait] = task

    def run(self, first: socket.socket | None = None) -> None:
        if first:
            self.go_on(serve(first))
        while True:
            left = max(0.0, self._timers[0][0] - time.monotonic()) if self._timers else None
            readable, _, _ = select.select([self._listener, *self._readers], [], [], left)
            for sock in readable:
                self.go_on(serve(sock.accept()[0]) if sock is self._listener else self._readers.pop(sock))
            while self._timers and self._timers[0][0] <= time.monotonic():
                self.go_on(heapq.heappop(self._timers)[2])


def step(task: Generator[Wait, None, object]) -> None:
    """A job: up to the next time that it would wait, which is another job's begin."""
    if next(task, None) is not None:
        POOL.submit(step, task)


def main() -> None:
    listener = socket.create_server(("127.0.0.1", PORT), backlog=1024)
    if KIND == "select":
        Loop(listener).run()
    while True:
        first, _ = listener.accept()
        if KIND == "late":
            thread = Thread(target=Loop(listener).run, args=(first,))
            thread.start()
            thread.join()
        POOL.submit(step, serve(first))


if __name__ == "__main__":
    main()
