# SPDX-License-Identifier: Apache-2.0
"""TLS for scripted connections: both ends of one, encrypted by Python's OpenSSL, on its sockets or through memory.

In: two connected sockets. Out: objects like sockets, whose bytes are plaintext. The rule: a handshake is what a program
of that kind does: on sockets each end blocks in a thread of its own; through memory one thread moves every record.
"""

from __future__ import annotations

import ctypes
import select
import socket
import ssl
import subprocess
import threading
from pathlib import Path

TIMEOUT_S = 60.0
IN_CLIENT_HELLO = 0x80  # SSL_EXT_CLIENT_HELLO


def certificate(folder: Path) -> Path:
    """A file with a key and a self-signed certificate for localhost."""
    path = folder / "localhost.pem"
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-days",
        "2",
    ]
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    subprocess.run([*command, "-keyout", path, "-out", path, *names], check=True, capture_output=True)
    return path


def contexts(pem: str, version: str) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Of client and server. version: a name of ssl.TLSVersion."""
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made[0].check_hostname, made[0].verify_mode = False, ssl.CERT_NONE
    made[1].load_cert_chain(pem)
    for context in made:
        context.minimum_version = context.maximum_version = ssl.TLSVersion[version]
        if version not in ("TLSv1_2", "TLSv1_3"):
            context.set_ciphers("DEFAULT:@SECLEVEL=0")
    return made


class Memory:
    """A connection whose records this class moves between two memory BIOs and the socket."""

    def __init__(self, sock: socket.socket, context: ssl.SSLContext, name: str | None, most: int = 65536) -> None:
        """name: of the server, for a client; None: this is the server. most: bytes read at once."""
        self._most = most
        self._sock, self._in, self._out = sock, ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._in, self._out, name is None, name or None)

    def __getattr__(self, name: str) -> object:
        return getattr(self._sock, name)

    def step(self) -> bool:
        """Goes on with the handshake; whether it is over."""
        over = self.shake()
        self.flush()
        return over

    def shake(self) -> bool:
        """As `step`, but what is to be sent waits."""
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            return False
        return True

    def put(self, data: str) -> None:
        """What is to be sent waits."""
        self._tls.write(data.encode("latin-1"))

    def hurry(self, data: str) -> None:
        """Writes before the handshake is over, which cannot be."""
        try:
            self.put(data)
        except ssl.SSLWantReadError:
            return
        raise AssertionError("the handshake is over")

    def get(self) -> str:
        """What was received, as far as it is there."""
        return self._tls.read(65536).decode("latin-1")

    def flush(self) -> None:
        if data := self._out.read():
            self._sock.sendall(data)

    def fill(self) -> None:
        data = self._sock.recv(self._most)
        if data:
            self._in.write(data)
        else:
            self._in.write_eof()

    def has_more(self) -> bool:
        return bool(select.select([self._sock], [], [], 0)[0])

    def send(self, data: bytes) -> int:
        sent = self._tls.write(data)
        self.flush()
        return sent

    def recv(self, size: int, flags: int = 0) -> bytes:
        while True:
            try:
                return self._tls.read(size)
            except ssl.SSLWantReadError:
                self.fill()
            except ssl.SSLEOFError:
                return b""

    def close(self) -> None:
        self._sock.close()


def on_sockets(
    client: socket.socket, server: socket.socket, pem: str, version: str, name: str
) -> tuple[ssl.SSLSocket, ssl.SSLSocket]:
    return wrap(client, server, *contexts(pem, version), name)


def served_here(
    client: socket.socket, server: socket.socket, pem: str, version: str, name: str
) -> tuple[ssl.SSLSocket, ssl.SSLSocket]:
    """The server's end is this thread's."""
    here, there = contexts(pem, version)
    connected: list[ssl.SSLSocket] = []
    thread = threading.Thread(target=lambda: connected.append(here.wrap_socket(client, server_hostname=name)))
    thread.start()
    accepted = there.wrap_socket(server, server_side=True)
    thread.join()
    return connected[0], accepted


def wrap(
    client: socket.socket, server: socket.socket, here: ssl.SSLContext, there: ssl.SSLContext, name: str
) -> tuple[ssl.SSLSocket, ssl.SSLSocket]:
    accepted: list[ssl.SSLSocket] = []
    thread = threading.Thread(target=lambda: accepted.append(there.wrap_socket(server, server_side=True)))
    thread.start()
    connected = here.wrap_socket(client, server_hostname=name or None)
    thread.join(TIMEOUT_S)
    return connected, accepted[0]


def with_hidden_name(
    client: socket.socket, server: socket.socket, pem: str, version: str, name: str
) -> tuple[ssl.SSLSocket, ssl.SSLSocket]:
    """The client's hello has an (empty) extension encrypted_client_hello, as if its name was not the server's."""
    here, there = contexts(pem, version)
    libssl = next(line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines() if "/libssl" in line)
    pointer = ctypes.c_void_p.from_address(id(here) + object.__basicsize__)  # _ssl.c, PySSLContext: its SSL_CTX
    add, none = ctypes.CDLL(libssl).SSL_CTX_add_custom_ext, (None,) * 5
    assert add(pointer, 0xFE0D, IN_CLIENT_HELLO, *none) == 1
    return wrap(client, server, here, there, name)


def through_memory(
    client: socket.socket, server: socket.socket, pem: str, version: str, name: str
) -> tuple[Memory, Memory]:
    here, there = contexts(pem, version)
    return shake_hands(Memory(client, here, name), Memory(server, there, None))


def in_pieces(client: socket.socket, server: socket.socket, pem: str, version: str, name: str) -> tuple[Memory, Memory]:
    """The client's hello has 3 kB, and none is read at once."""
    here, there = contexts(pem, version)
    here.set_alpn_protocols([str(i) * 250 for i in range(10)] + ["http/1.1"])
    there.set_alpn_protocols(["http/1.1"])
    return shake_hands(Memory(client, here, name, 600), Memory(server, there, None, 600))


def shake_hands(*ends: Memory) -> tuple[Memory, Memory]:
    """Of client and server."""
    over = [ends[0].step(), False]
    while not all(over):
        for i in (1, 0):
            if not over[i]:
                ends[i].fill()
                while ends[i].has_more():
                    ends[i].fill()
                over[i] = ends[i].step()
    return ends[0], ends[1]
