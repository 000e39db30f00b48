# SPDX-License-Identifier: Apache-2.0
"""A TCP relay that writes down what passes between a real client and a real server.

In: the server's port. Out: one `Recording` for each connection. The one rule: a piece is written down before it is
passed on, so an answer never stands before what it answers.
"""

from __future__ import annotations

import socket
import threading
from typing import Self

from instrumenter.protocols.http2_events import Half
from protocols.wire import Recording


class Relay:
    """Listens on `port`; use as a context manager. `recordings` is complete after the `with`."""

    def __init__(self, server_port: int) -> None:
        self._server_port = server_port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.recordings: list[Recording] = []
        self._sockets: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept, daemon=True)]

    def __enter__(self) -> Self:
        self._threads[0].start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._threads[0].join(10)
        for side in self._sockets:
            _hang_up(side)
        for thread in self._threads[1:]:
            thread.join(10)
        for side in (self._listener, *self._sockets):
            side.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.create_connection(("127.0.0.1", self._server_port))
            self._sockets += [client, server]
            recording = Recording()
            self.recordings.append(recording)
            for half, source, sink in ((Half.REQUEST, client, server), (Half.RESPONSE, server, client)):
                thread = threading.Thread(target=_pass, args=(recording, half, source, sink), daemon=True)
                self._threads.append(thread)
                thread.start()


def _pass(recording: Recording, half: Half, source: socket.socket, sink: socket.socket) -> None:
    try:
        while piece := source.recv(1 << 16):
            recording.pieces.append((half, piece))
            sink.sendall(piece)
    except OSError:
        pass  # one side hung up
    _hang_up(sink)


def _hang_up(side: socket.socket) -> None:
    try:
        side.shutdown(socket.SHUT_RDWR)
    except OSError:
        return  # it is no longer connected
