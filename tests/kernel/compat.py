# SPDX-License-Identifier: Apache-2.0
"""write and read as a 32-bit program makes them: by interrupt 0x80, whose numbers and registers are others.

In: a connected socket. Out: as kernel.calls. The rule: no byte passes through a 64-bit system call.
"""

from __future__ import annotations

import ctypes
import mmap
import socket
from collections.abc import Sequence

READ, WRITE = 3, 4
SIZE = 1 << 16
AT = 4096  # of the data; before it is the code
MAP_32BIT = 0x40  # below 2 GiB, where 32-bit registers reach
# f(number, fd, address, length): push rbx; eax = edi; ebx = esi; exchange rdx and rcx; int 0x80; pop rbx; extend; ret
CODE = bytes.fromhex("53 89f8 89f3 4887ca cd80 5b 4898 c3")


class Low:
    """Memory for both: the code, and what is sent or was read."""

    def __init__(self) -> None:
        protection = mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC
        self.memory = mmap.mmap(-1, SIZE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_32BIT, protection)
        self.memory[: len(CODE)] = CODE
        self.base = ctypes.addressof(ctypes.c_char.from_buffer(self.memory))
        long = ctypes.c_long
        self.call = ctypes.CFUNCTYPE(long, long, long, long, long)(self.base)

    def move(self, number: int, sock: socket.socket, length: int) -> None:
        """Raises OSError."""
        moved = self.call(number, sock.fileno(), self.base + AT, length)
        if moved != length:
            raise OSError(-moved, f"system call {number} of 32 bits: {moved} of {length} bytes")


def send(sock: socket.socket, pieces: Sequence[bytes]) -> None:
    low = Low()
    for piece in pieces:
        low.memory[AT : AT + len(piece)] = piece
        low.move(WRITE, sock, len(piece))


def receive(sock: socket.socket, sizes: Sequence[int]) -> bytes:
    low, data = Low(), b""
    for size in sizes:
        low.move(READ, sock, size)
        data += low.memory[AT : AT + size]
    return data
