# SPDX-License-Identifier: Apache-2.0
"""send and recv through io_uring: a ring of one entry, by the bare system calls.

In: a connected socket. Out: as kernel.calls. The rule: no byte passes through send, recv, read or write.
Layouts: struct io_uring_params, io_uring_sqe and io_uring_cqe of include/uapi/linux/io_uring.h.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import socket
import struct
from collections.abc import Sequence

SETUP, ENTER = 425, 426  # system calls, on every architecture
OP_SEND, OP_RECV = 26, 27
GETEVENTS = 1
SQES_AT = 0x10000000
SINGLE_MMAP = 1

libc = ctypes.CDLL(None, use_errno=True)


class Ring:
    """One operation at a time. Raises OSError where the kernel has no io_uring, or forbids it."""

    def __init__(self) -> None:
        params = bytearray(120)
        self.fd = libc.syscall(SETUP, 1, (ctypes.c_char * 120).from_buffer(params))
        if self.fd < 0:
            raise OSError(ctypes.get_errno(), "io_uring_setup")
        sq_entries, cq_entries, _, _, _, features, _ = struct.unpack_from("7I", params)
        assert features & SINGLE_MMAP
        sq = struct.unpack_from("7I", params, 40)  # head tail ring_mask ring_entries flags dropped array
        cq = struct.unpack_from("6I", params, 80)  # head tail ring_mask ring_entries overflow cqes
        self.sq_tail, self.sq_array, self.cq_head, self.cqes = sq[1], sq[6], cq[0], cq[5]
        self.cq_mask = cq_entries - 1
        self.sq_mask = sq_entries - 1
        self.rings = mmap.mmap(self.fd, max(sq[6] + sq_entries * 4, cq[5] + cq_entries * 16))
        self.sqes = mmap.mmap(self.fd, sq_entries * 64, offset=SQES_AT)

    def one(self, op: int, fd: int, address: int, length: int) -> int:
        """Submits, waits, and returns the result."""
        tail = struct.unpack_from("I", self.rings, self.sq_tail)[0]
        slot = tail & self.sq_mask
        struct.pack_into("BBHiQQI36x", self.sqes, slot * 64, op, 0, 0, fd, 0, address, length)
        struct.pack_into("I", self.rings, self.sq_array + slot * 4, slot)
        struct.pack_into("I", self.rings, self.sq_tail, tail + 1)
        if libc.syscall(ENTER, self.fd, 1, 1, GETEVENTS, None, 0) < 0:
            raise OSError(ctypes.get_errno(), "io_uring_enter")
        head = struct.unpack_from("I", self.rings, self.cq_head)[0]
        result = struct.unpack_from("QiI", self.rings, self.cqes + (head & self.cq_mask) * 16)[1]
        struct.pack_into("I", self.rings, self.cq_head, head + 1)
        return int(result)

    def close(self) -> None:
        self.rings.close()
        self.sqes.close()
        os.close(self.fd)


def send(sock: socket.socket, pieces: Sequence[bytes]) -> None:
    ring = Ring()
    for piece in pieces:
        buffer = (ctypes.c_char * len(piece)).from_buffer_copy(piece)
        assert ring.one(OP_SEND, sock.fileno(), ctypes.addressof(buffer), len(piece)) == len(piece)
    ring.close()


def recv(sock: socket.socket, sizes: Sequence[int]) -> bytes:
    ring, found = Ring(), bytearray()
    for size in sizes:
        buffer = (ctypes.c_char * size)()
        assert ring.one(OP_RECV, sock.fileno(), ctypes.addressof(buffer), size) == size
        found += buffer.raw
    ring.close()
    return bytes(found)
