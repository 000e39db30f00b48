# SPDX-License-Identifier: Apache-2.0
"""The watched process: does socket operations that it reads as JSON lines from stdin, and answers each line on stdout.

Runs as `python -m kernel.peers` and is imported by nobody but tests that act as an unwatched end. A line is a list of
[operation, argument ...]; the answer is a list of their results, or the error's text. Bytes travel as latin-1 text.
The rule: no operation waits for time; both ends of a connection may live here, since the kernel buffers what is sent.
What conversations over TLS need also runs in Python 3.9, which Debian 11 has with OpenSSL 1.1.
"""

from __future__ import annotations

import array
import ctypes
import errno
import fcntl
import gc
import importlib
import json
import os
import select
import signal
import socket
import struct
import sys
import termios
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any

from kernel import calls

Op = Sequence[Any]
libc = ctypes.CDLL(None, use_errno=True)
FAMILIES = {
    "ipv4": (socket.AF_INET, "127.0.0.1", socket.AF_INET, "127.0.0.1"),
    "ipv6": (socket.AF_INET6, "::1", socket.AF_INET6, "::1"),
    "mapped": (socket.AF_INET6, "::", socket.AF_INET6, "::ffff:127.0.0.1"),
    "dual": (socket.AF_INET6, "::", socket.AF_INET, "127.0.0.1"),
}
TIMEOUT_S = 60.0  # of any one call: only a failing test meets it
READY = b"[]"  # what a program says at its beginning that another process became
CLONE3 = 435  # on every architecture
CLONE_NEWNET, SIOCSIFFLAGS, IFF_UP = 0x40000000, 0x8914, 1


def fork_as(pids: Sequence[int]) -> int:
    """os.fork() to the first of these process ids that is free. Raises OSError."""
    for pid in pids:
        wanted = ctypes.c_int32(pid)
        # struct clone_args: flags, three of no use here, exit_signal, stack and size, tls, set_tid and size, cgroup
        args = (ctypes.c_uint64 * 11)(0, 0, 0, 0, signal.SIGCHLD, 0, 0, 0, ctypes.addressof(wanted), 1, 0)
        made = int(libc.syscall(CLONE3, args, ctypes.sizeof(args)))
        if made >= 0:
            return made
        if ctypes.get_errno() != errno.EEXIST:
            break
    raise OSError(ctypes.get_errno(), f"a process with an id of {pids}")


class Actor:
    """Named sockets, and the operations on them: `op_NAME(*arguments)`."""

    def __init__(self) -> None:
        self.sockets: dict[str, socket.socket] = {}
        self.helpers: dict[str, tuple[int, socket.socket]] = {}
        self.waiting: list[threading.Thread] = []
        self.channel: socket.socket | None = None
        self.epoll = select.epoll()

    def run(self, ops: Sequence[Op]) -> list[Any]:
        known: list[tuple[Callable[..., Any], Op]] = [(getattr(self, f"op_{op[0]}"), op[1:]) for op in ops]
        return [method(*arguments) for method, arguments in known]

    def add(self, name: str, sock: socket.socket) -> socket.socket:
        sock.settimeout(None)
        wait = struct.pack("ll", int(TIMEOUT_S), 0)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, wait)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, wait)
        self.sockets[name] = sock
        return sock

    def op_listen(self, name: str, family: str, port: int = 0) -> int:
        """Returns the port."""
        kind, address, _, _ = FAMILIES[family]
        listener = self.add(name, socket.socket(kind, socket.SOCK_STREAM))
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if kind == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        listener.bind((address, port))
        listener.listen(64)
        return int(listener.getsockname()[1])

    def op_connect(self, name: str, family: str, port: int, source: int = 0) -> list[Any]:
        """Returns the socket's own name: address and port."""
        _, _, kind, address = FAMILIES[family]
        sock = self.add(name, socket.socket(kind, socket.SOCK_STREAM))
        if source:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind((address, source))
        sock.connect((address, port))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return list(sock.getsockname()[:2])

    def op_accept(self, name: str, listener: str) -> None:
        sock, _ = self.sockets[listener].accept()
        self.add(name, sock).setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def op_send(self, name: str, how: str, pieces: Sequence[str]) -> None:
        calls.SENDS[how](self.sockets[name], [piece.encode("latin-1") for piece in pieces])

    def op_receive(self, name: str, how: str, sizes: Sequence[int]) -> str:
        """The bytes, read in calls, segments or messages of `sizes`."""
        return calls.RECEIVES[how](self.sockets[name], sizes).decode("latin-1")

    def op_peek(self, name: str, size: int) -> int:
        return len(self.sockets[name].recv(size, socket.MSG_PEEK))

    def op_receive_all(self, name: str, size: int) -> str:
        """One call that waits for so many bytes, or the end."""
        return self.sockets[name].recv(size, socket.MSG_WAITALL).decode("latin-1")

    def op_taken(self, source: str, target: str) -> None:
        """All that the one sent was taken by calls of the other, though they may not have returned."""
        for name, question in ((source, termios.TIOCOUTQ), (target, termios.FIONREAD)):
            while any(fcntl.ioctl(self.sockets[name], question, bytes(4))):
                os.sched_yield()

    def op_refused(self, name: str, data: str) -> bool:
        """Writes to a connection that is over; whether that failed, as it must."""
        try:
            self.sockets[name].send(data.encode("latin-1"))
        except OSError:
            return True
        return False

    def op_end(self, name: str) -> str:
        """Reads until the peer's end: "" is a FIN, else the error."""
        try:
            data = self.sockets[name].recv(65536)
        except OSError as error:
            return type(error).__name__
        assert data == b"", data[:200]
        return ""

    def op_pump(self, source: str, target: str, total: int, head: str = "", size: int = 1 << 20) -> int:
        """`total` bytes behind `head`, in non-blocking writes of `size`, taken as they fit, and read all the while.

        Returns the number of writes that took only a part.
        """
        writer, reader = self.sockets[source], self.sockets[target]
        writer.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 16)  # or all of it might fit
        out = memoryview(head.encode("latin-1") + b"x" * total)
        sent = received = partial = 0
        while received < len(out):
            writable = [writer] if sent < len(out) else []
            readable, writable, _ = select.select([reader], writable, [], TIMEOUT_S)
            assert readable or writable, "nothing moves"
            if writable:
                piece = out[sent : sent + size]
                n = writer.send(piece, socket.MSG_DONTWAIT)
                partial += n < len(piece)
                sent += n
            if readable:
                received += len(reader.recv(size, socket.MSG_DONTWAIT))
        return partial

    def op_shutdown(self, name: str, how: int = socket.SHUT_WR) -> None:
        self.sockets[name].shutdown(how)

    def op_close(self, *names: str) -> None:
        for name in names:
            self.sockets.pop(name).close()

    def op_reset(self, name: str) -> None:
        """Closes with a RST."""
        self.sockets[name].setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.op_close(name)

    def op_dup(self, name: str, new: str) -> None:
        self.add(new, self.sockets[name].dup())

    def op_flags(self, name: str, more: int) -> None:
        """Sets flags of the open file: O_NONBLOCK ..."""
        fd = self.sockets[name].fileno()
        fcntl.fcntl(fd, fcntl.F_SETFL, fcntl.fcntl(fd, fcntl.F_GETFL) | more)

    def op_epoll(self, name: str) -> None:
        """Watches the socket by one until it is closed."""
        self.epoll.register(self.sockets[name], select.EPOLLIN)

    def op_load(self, name: str) -> None:
        """A Python module, with the libraries that it needs."""
        importlib.import_module(name)

    def op_collect(self) -> None:
        """What was closed is freed, too."""
        gc.collect()

    def op_tls(self, client: str, server: str, how: str, version: str, pem: str, name: str = "localhost") -> None:
        """From now on both ends of a connection speak TLS. name: of the server, as the client asks for it."""
        wrap = getattr(importlib.import_module("kernel.tls"), how)
        ends = wrap(self.sockets[client], self.sockets[server], pem, version, name)
        self.sockets[client], self.sockets[server] = ends

    def op_memory(self, name: str, version: str, pem: str, server_name: str | None) -> None:
        """This end speaks TLS through memory from now on, in steps: op_each."""
        tls = importlib.import_module("kernel.tls")
        context = tls.contexts(pem, version)[server_name is None]
        self.sockets[name] = tls.Memory(self.sockets[name], context, server_name)

    def op_each(self, names: Sequence[str], method: str, *arguments: Any) -> list[Any]:
        """The same on each of these, one behind the other."""
        return [getattr(self.sockets[name], method)(*arguments) for name in names]

    def op_now(self) -> int:
        """CLOCK_MONOTONIC in ns."""
        return time.monotonic_ns()

    def op_thread(self, ops: Sequence[Op]) -> list[Any]:
        """The operations in a thread of their own. The first result is its thread id."""
        results: list[Any] = []

        def body() -> None:
            results.append(threading.get_native_id())
            results.extend(self.run(ops))

        thread = threading.Thread(target=body)
        thread.start()
        thread.join()
        return results

    def op_wait(self, ops: Sequence[Op]) -> None:
        """The operations in a thread of their own, which is left where it waits in a system call."""
        thread = threading.Thread(target=self.run, args=(ops,))
        thread.start()
        self.waiting.append(thread)
        while Path(f"/proc/self/task/{thread.native_id}/syscall").read_text().startswith("running"):
            os.sched_yield()

    def op_finish(self) -> None:
        """All threads that waited are through."""
        while self.waiting:
            self.waiting.pop().join()

    def op_fork(self, name: str, pids: Sequence[int] = ()) -> int:
        """A child that takes operations by `on` and shares every socket of now. Returns its process id: the first of
        `pids` that is free, if there are any."""
        here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        pid = fork_as(pids) if pids else os.fork()
        if pid == 0:
            here.close()
            self.helpers.clear()
            self.serve(there)
        there.close()
        self.helpers[name] = (pid, here)
        return pid

    def op_on(self, name: str, ops: Sequence[Op], *given: str) -> Any:
        """Operations in a forked child, which gets the descriptors of the sockets `given` (SCM_RIGHTS)."""
        _, channel = self.helpers[name]
        fds = array.array("i", [self.sockets[each].fileno() for each in given])
        message = json.dumps([list(given), list(ops)]).encode()
        channel.sendmsg([message], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)] if given else [])
        answer = json.loads(channel.recv(1 << 20))
        assert isinstance(answer, list), answer
        return answer

    def op_namespace(self) -> None:
        """From here on this process has a network namespace of its own, whose loopback device is up."""
        if libc.unshare(CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "unshare")
        with socket.socket() as any_socket:
            fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", IFF_UP))

    def op_exec(self, name: str) -> None:
        """A forked child becomes this program anew, without its sockets."""
        _, channel = self.helpers[name]
        channel.send(json.dumps([[], [["become"]]]).encode())
        assert channel.recv(1 << 20) == READY

    def op_become(self) -> None:
        assert self.channel
        os.set_inheritable(self.channel.fileno(), True)
        os.execv(sys.executable, [sys.executable, "-S", "-m", "kernel.peers", str(self.channel.fileno())])

    def op_join(self, name: str) -> None:
        """Ends a forked child."""
        pid, channel = self.helpers.pop(name)
        channel.close()
        os.waitpid(pid, 0)

    def serve(self, channel: socket.socket) -> None:
        """The child's life."""
        self.channel = channel
        while True:
            message, fds, _, _ = socket.recv_fds(channel, 1 << 20, 16)
            if not message:
                os._exit(0)
            names, ops = json.loads(message)
            for name, fd in zip(names, fds, strict=True):
                self.add(name, socket.socket(fileno=fd))
            channel.send(json.dumps(self.answer(ops)).encode())

    def answer(self, ops: Sequence[Op]) -> Any:
        try:
            return self.run(ops)
        except Exception:  # noqa: BLE001 - the other side raises it again
            return traceback.format_exc()


def main(lines: IO[str], answers: IO[str]) -> None:
    actor = Actor()
    for line in lines:
        print(json.dumps(actor.answer(json.loads(line))), file=answers, flush=True)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        with socket.socket(fileno=int(sys.argv[1])) as own:
            own.send(READY)
            Actor().serve(own)
    main(sys.stdin, sys.stdout)
