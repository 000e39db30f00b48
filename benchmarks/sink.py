# SPDX-License-Identifier: Apache-2.0
"""An OTLP/HTTP receiver that only keeps bodies: as cheap as a receiver can be, so that the agent is measured.

`sink.py FOLDER` prints its port, then serves until it is ended. Bodies stay in pipes, where splice(2) puts the pages
that they came in, uncopied; `GET /write`, and a pipe that is full, write them to files: FOLDER/v1_traces and
FOLDER/v1_metrics then hold, for each body, its length (4 bytes, big-endian) and its bytes.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import socket
import sys
import threading
from pathlib import Path
from typing import Final

ANSWER: Final = b"HTTP/1.1 200 OK\r\nContent-Type: application/x-protobuf\r\nContent-Length: 0\r\n\r\n"
ROOMS: Final = 1 << 20, 64 << 20  # of a pipe: more than the first needs a right (CAP_SYS_RESOURCE)


class Kept:
    """Bodies of one connection, in its pipe. `lock` is held while one comes in."""

    def __init__(self, folder: Path, files: threading.Lock) -> None:
        self.lock = threading.Lock()
        self._folder, self._files = folder, files
        self._out, self._in = os.pipe()
        for room in ROOMS:
            with contextlib.suppress(PermissionError):
                fcntl.fcntl(self._in, fcntl.F_SETPIPE_SZ, room)
        self._room = select.poll()
        self._room.register(self._in, select.POLLOUT)
        self._bodies: list[tuple[str, int, bytes]] = []  # name, bytes in the pipe, and what found no room there

    def take(self, connection: socket.socket, name: str, length: int) -> bool:
        """One body. False: the connection ended before."""
        if not self._room.poll(0):
            self.write()
        piped = 0
        while piped < length and self._room.poll(0):
            moved = os.splice(connection.fileno(), self._in, length - piped)
            if not moved:
                return False
            piped += moved
        rest = connection.recv(length - piped, socket.MSG_WAITALL) if piped < length else b""
        self._bodies.append((name, piped, rest))
        return piped + len(rest) == length

    def write(self) -> None:
        for name, piped, rest in self._bodies:
            path = self._folder / name
            path.touch()
            with self._files, path.open("r+b", buffering=0) as file:
                file.seek(0, os.SEEK_END)
                file.write((piped + len(rest)).to_bytes(4, "big"))
                while piped:
                    piped -= os.splice(self._out, file.fileno(), piped)
                file.write(rest)
        self._bodies = []


class Receiver:
    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._kept: list[Kept] = []
        self._files = threading.Lock()  # one at a time writes

    def serve(self, connection: socket.socket) -> None:
        kept = Kept(self._folder, self._files)
        self._kept.append(kept)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with connection:
            while head := _head(connection):
                method, target = head.split(b" ", 2)[:2]
                if method == b"GET":
                    self._write()
                else:
                    with kept.lock:
                        if not kept.take(connection, target.decode().strip("/").replace("/", "_"), _length(head)):
                            return
                connection.sendall(ANSWER)

    def _write(self) -> None:
        for kept in list(self._kept):
            with kept.lock:
                kept.write()


def _head(connection: socket.socket) -> bytes:
    """A request's head, and nothing behind it; empty when the connection ends."""
    head = b""
    while seen := connection.recv(4096, socket.MSG_PEEK):
        end = (head + seen).find(b"\r\n\r\n")
        head += connection.recv(end + 4 - len(head) if end >= 0 else len(seen), socket.MSG_WAITALL)
        if end >= 0:
            return head
    return b""


def _length(head: bytes) -> int:
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            return int(value)
    return 0


def main() -> None:
    receiver = Receiver(Path(sys.argv[1]))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        print(listener.getsockname()[1], flush=True)
        while True:
            connection, _ = listener.accept()
            threading.Thread(target=receiver.serve, args=(connection,), daemon=True).start()


if __name__ == "__main__":
    main()
