# SPDX-License-Identifier: Apache-2.0
"""A program on functions of a file, in whatever process maps it.

In: a path and points in the file. Out: an `Attached`, to be closed. The rule: all points of a file or none; and what
the kernel refuses is a BpfError with the reason, which costs that file's plaintext only. By uprobe_multi (Linux 6.6),
one descriptor for a file; where that is refused, an event and a link for each point.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

from instrumenter.bpf.libbpf import BpfError, Libbpf


@dataclass(frozen=True, slots=True)
class Point:
    """offset: in the file. cookie: what the program is told. at_return: of the function that begins there."""

    offset: int
    cookie: int
    at_return: bool = False


class _UprobeOptions(ctypes.Structure):
    """struct bpf_uprobe_opts, as libbpf 1.1 has it; newer ones go by `sz`."""

    _fields_ = (
        ("sz", ctypes.c_size_t), ("ref_ctr_offset", ctypes.c_size_t), ("bpf_cookie", ctypes.c_uint64),
        ("retprobe", ctypes.c_bool), ("func_name", ctypes.c_char_p),
    )  # fmt: skip


class Attached:
    """Probes on one file. `close` may be called again."""

    def __init__(self) -> None:
        self._closers: list[Callable[[], object]] = []

    def add(self, closer: Callable[[], object]) -> None:
        self._closers.append(closer)

    def close(self) -> None:
        while self._closers:
            self._closers.pop()()


_ANY_PROCESS: Final = -1


class Uprobes:
    """Attaches one loaded program (a struct bpf_program *)."""

    def __init__(self, lib: Libbpf, program: int) -> None:
        self._lib, self._program = lib, program

    def attach(self, path: str, points: Sequence[Point]) -> Attached:
        """Returns before entries, so that no call is seen half. Raises BpfError."""
        attached = Attached()
        try:
            for point in sorted(points, key=lambda p: not p.at_return):
                attached.add(partial(self._lib.c.bpf_link__destroy, self._attach(path, point)))
        except BpfError:
            attached.close()
            raise
        return attached

    def _attach(self, path: str, point: Point) -> int:
        options = _UprobeOptions(bpf_cookie=point.cookie, retprobe=point.at_return)
        options.sz = ctypes.sizeof(options)
        attach = self._lib.c.bpf_program__attach_uprobe_opts
        return self._lib.pointer(
            "attaching a uprobe",
            attach(self._program, _ANY_PROCESS, path.encode(), point.offset, ctypes.byref(options)),
        )
