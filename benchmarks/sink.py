# SPDX-License-Identifier: Apache-2.0
"""An OTLP/HTTP receiver that only writes bodies to files: as cheap as a receiver can be, so that the agent is measured.

`sink.py FOLDER` prints its port, then serves until it is ended. FOLDER/v1_traces and FOLDER/v1_metrics hold, for each
body, its length (4 bytes, big-endian) and its bytes.
"""

from __future__ import annotations

import io
import socket
import sys
import threading
from pathlib import Path

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: application/x-protobuf\r\nContent-Length: 0\r\n\r\n"


def serve(connection: socket.socket, folder: Path, lock: threading.Lock) -> None:
    body = bytearray()  # used again and again: fresh memory costs as much as a copy
    with connection, connection.makefile("rb") as reader:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while request := reader.readline():
            path = request.split()[1].decode()
            length = _content_length(reader)
            body.extend(bytes(max(0, length - len(body))))
            with memoryview(body)[:length] as whole:
                if reader.readinto(whole) < length:
                    return
                with lock, (folder / path.strip("/").replace("/", "_")).open("ab", buffering=0) as file:
                    file.write(length.to_bytes(4, "big"))
                    file.write(whole)
            connection.sendall(ANSWER)


def _content_length(reader: io.BufferedReader) -> int:
    length = 0
    while (line := reader.readline()) not in (b"\r\n", b""):
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            length = int(value)
    return length


def main() -> None:
    folder = Path(sys.argv[1])
    lock = threading.Lock()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        print(listener.getsockname()[1], flush=True)
        while True:
            connection, _ = listener.accept()
            threading.Thread(target=serve, args=(connection, folder, lock), daemon=True).start()


if __name__ == "__main__":
    main()
