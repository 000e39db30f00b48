# SPDX-License-Identifier: Apache-2.0
"""Every system call that moves bytes over a socket, as a function of (socket, pieces) or (socket, sizes).

In: a connected socket. Out: all pieces sent, or all bytes of `sizes` read. The rule: each function uses the call it is
named after, for every byte, and nothing else.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import socket
from collections.abc import Callable, Sequence

from kernel import compat, uring

libc = ctypes.CDLL(None, use_errno=True)


class Iovec(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("len", ctypes.c_size_t))


class Message(ctypes.Structure):
    """struct mmsghdr"""

    _fields_ = (
        ("name", ctypes.c_void_p),
        ("namelen", ctypes.c_uint32),
        ("iov", ctypes.POINTER(Iovec)),
        ("iovlen", ctypes.c_size_t),
        ("control", ctypes.c_void_p),
        ("controllen", ctypes.c_size_t),
        ("flags", ctypes.c_size_t),  # an int, and padding
        ("len", ctypes.c_uint32),
    )


def vector(buffers: Sequence[ctypes.Array[ctypes.c_char]]) -> ctypes.Array[Iovec]:
    array = (Iovec * len(buffers))()
    for each, buffer in zip(array, buffers, strict=True):
        each.base, each.len = ctypes.addressof(buffer), len(buffer)
    return array


def messages(buffers: Sequence[ctypes.Array[ctypes.c_char]], segments: int) -> ctypes.Array[Message]:
    """As many messages as buffers, each in `segments` parts of about the same length."""
    array = (Message * len(buffers))()
    for message, buffer in zip(array, buffers, strict=True):
        step = max(1, -(-len(buffer) // segments))
        starts = range(0, len(buffer), step)
        iov = (Iovec * len(starts))()
        for each, start in zip(iov, starts, strict=True):
            each.base, each.len = ctypes.addressof(buffer) + start, min(step, len(buffer) - start)
        message.iov, message.iovlen = iov, len(iov)
    return array


def held(piece: bytes) -> ctypes.Array[ctypes.c_char]:
    return (ctypes.c_char * len(piece)).from_buffer_copy(piece)


def checked(what: str, result: int) -> int:
    if result < 0:
        raise OSError(ctypes.get_errno(), what)
    return int(result)


def send(sock: socket.socket, pieces: Sequence[bytes]) -> None:
    for piece in pieces:
        assert sock.send(piece) == len(piece)


def write(sock: socket.socket, pieces: Sequence[bytes]) -> None:
    for piece in pieces:
        assert os.write(sock.fileno(), piece) == len(piece)


def writev(sock: socket.socket, pieces: Sequence[bytes]) -> None:
    assert os.writev(sock.fileno(), pieces) == sum(map(len, pieces))


def pwritev2(sock: socket.socket, pieces: Sequence[bytes]) -> None:
    buffers = [held(piece) for piece in pieces]
    call, fd, array = libc.pwritev2, ctypes.c_int(sock.fileno()), vector(buffers)
    assert checked("pwritev2", call(fd, array, len(buffers), ctypes.c_long(-1), 0)) == sum(map(len, pieces))


def sendmsg(sock: socket.socket, pieces: Sequence[bytes]) -> None:
    assert sock.sendmsg(pieces) == sum(map(len, pieces))


def sendmmsg(sock: socket.socket, pieces: Sequence[bytes], segments: int = 1) -> None:
    buffers = [held(piece) for piece in pieces]
    array = messages(buffers, segments)
    assert checked("sendmmsg", libc.sendmmsg(sock.fileno(), array, len(array), 0)) == len(array)
    assert [message.len for message in array] == [len(piece) for piece in pieces]


def more(sock: socket.socket, pieces: Sequence[bytes]) -> None:
    for i, piece in enumerate(pieces):
        assert sock.send(piece, socket.MSG_MORE if i < len(pieces) - 1 else 0) == len(piece)


def mapped(sock: socket.socket, pieces: Sequence[bytes]) -> None:
    """From a file in memory of which the process has touched no page, as programs send what they have in .rodata."""
    for piece in pieces:
        fd = os.memfd_create("request")
        os.write(fd, piece)
        with mmap.mmap(fd, len(piece), mmap.MAP_SHARED, mmap.PROT_READ) as pages:
            assert sock.send(pages) == len(piece)
        os.close(fd)


def sendfile(sock: socket.socket, pieces: Sequence[bytes]) -> None:
    for piece in pieces:
        fd = os.memfd_create("body")
        os.write(fd, piece)
        assert os.sendfile(sock.fileno(), fd, 0, len(piece)) == len(piece)
        os.close(fd)


def splice(sock: socket.socket, pieces: Sequence[bytes]) -> None:
    out, into = os.pipe()
    for piece in pieces:
        os.write(into, piece)
        assert os.splice(out, sock.fileno(), len(piece)) == len(piece)
    os.close(out)
    os.close(into)


def recv(sock: socket.socket, sizes: Sequence[int], flags: int = 0) -> bytes:
    """Every size is one call, unless the bytes come in smaller pieces."""
    found = bytearray()
    for size in sizes:
        end = len(found) + size
        while len(found) < end:
            data = sock.recv(end - len(found), flags)
            assert data, f"the connection ended {end - len(found)} bytes too early"
            found += data
    return bytes(found)


def read(sock: socket.socket, sizes: Sequence[int]) -> bytes:
    found = b"".join(os.read(sock.fileno(), size) for size in sizes)
    assert len(found) == sum(sizes)
    return found


def peek(sock: socket.socket, sizes: Sequence[int]) -> bytes:
    """Looks at more than it then takes, as servers do that guess the protocol."""
    found = bytearray()
    for size in sizes:
        looked = sock.recv(size + 100, socket.MSG_PEEK)
        found += recv(sock, [size])
        assert found.endswith(looked[:size][-size:])
    return bytes(found)


def waitall(sock: socket.socket, sizes: Sequence[int]) -> bytes:
    return recv(sock, sizes, socket.MSG_WAITALL)


def dontwait(sock: socket.socket, sizes: Sequence[int]) -> bytes:
    return recv(sock, sizes, socket.MSG_DONTWAIT)


def readv(sock: socket.socket, sizes: Sequence[int]) -> bytes:
    buffers = [bytearray(size) for size in sizes]
    assert os.readv(sock.fileno(), buffers) == sum(sizes)
    return b"".join(buffers)


def preadv2(sock: socket.socket, sizes: Sequence[int]) -> bytes:
    buffers = [held(bytes(size)) for size in sizes]
    call, fd, array = libc.preadv2, ctypes.c_int(sock.fileno()), vector(buffers)
    assert checked("preadv2", call(fd, array, len(buffers), ctypes.c_long(-1), 0)) == sum(sizes)
    return b"".join(bytes(buffer) for buffer in buffers)


def recvmsg(sock: socket.socket, sizes: Sequence[int]) -> bytes:
    buffers = [bytearray(size) for size in sizes]
    assert sock.recvmsg_into(buffers)[0] == sum(sizes)
    return b"".join(buffers)


def recvmmsg(sock: socket.socket, sizes: Sequence[int], segments: int = 1) -> bytes:
    buffers = [held(bytes(size)) for size in sizes]
    array = messages(buffers, segments)
    assert checked("recvmmsg", libc.recvmmsg(sock.fileno(), array, len(array), 0, None)) == len(array)
    assert [message.len for message in array] == list(sizes)
    return b"".join(bytes(buffer) for buffer in buffers)


def trunc(sock: socket.socket, sizes: Sequence[int]) -> bytes:
    """Throws the bytes away, which TCP allows; returns as many blanks."""
    for size in sizes:
        assert checked("recv", libc.recv(sock.fileno(), None, size, socket.MSG_TRUNC)) == size
    return b" " * sum(sizes)


SENDS: dict[str, Callable[[socket.socket, Sequence[bytes]], None]] = {
    "send": send,
    "write": write,
    "writev": writev,
    "pwritev2": pwritev2,
    "sendmsg": sendmsg,
    "sendmmsg": sendmmsg,
    "sendmmsg_parts": lambda sock, pieces: sendmmsg(sock, pieces, 3),
    "more": more,
    "mapped": mapped,
    "sendfile": sendfile,
    "splice": splice,
    "io_uring": uring.send,
    "compat": compat.send,
}
RECEIVES: dict[str, Callable[[socket.socket, Sequence[int]], bytes]] = {
    "recv": recv,
    "read": read,
    "peek": peek,
    "waitall": waitall,
    "dontwait": dontwait,
    "readv": readv,
    "preadv2": preadv2,
    "recvmsg": recvmsg,
    "recvmmsg": recvmmsg,
    "recvmmsg_parts": lambda sock, sizes: recvmmsg(sock, sizes, 3),
    "trunc": trunc,
    "io_uring": uring.recv,
    "compat": compat.receive,
}
