# SPDX-License-Identifier: Apache-2.0
"""A program on functions of a file, in whatever process maps it.

In: a path and points in the file. Out: an `Attached`, to be closed. The rule: all points of a file or none; and what
the kernel refuses is a BpfError with the reason, which costs that file's plaintext only. By uprobe_multi (Linux 6.6),
one descriptor for a file; where that is refused, an event and a link for each point.
"""

from __future__ import annotations

import ctypes
import errno as errnos
import os
import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

from instrumenter.bpf.choose import LoadOptions
from instrumenter.bpf.libbpf import BpfError, Libbpf


@dataclass(frozen=True, slots=True)
class Point:
    """offset: in the file. cookie: what the program is told. at_return: of the function that begins there."""

    offset: int
    cookie: int
    at_return: bool = False


UPROBE_MULTI: Final = 48  # enum bpf_attach_type
_KPROBE: Final = 2  # enum bpf_prog_type
_LINK_CREATE: Final = 28  # enum bpf_cmd
_AT_RETURN: Final = 1  # BPF_F_UPROBE_MULTI_RETURN
_SYS_BPF: Final = {"x86_64": 321, "aarch64": 280}
_ANY_PROCESS: Final = -1
_EMPTY: Final = (ctypes.c_uint64 * 2)(0xB7, 0x95)  # r0 = 0; exit


class _UprobeOptions(ctypes.Structure):
    """struct bpf_uprobe_opts, as libbpf 1.1 has it; newer ones go by `sz`."""

    _fields_ = (
        ("sz", ctypes.c_size_t), ("ref_ctr_offset", ctypes.c_size_t), ("bpf_cookie", ctypes.c_uint64),
        ("retprobe", ctypes.c_bool), ("func_name", ctypes.c_char_p),
    )  # fmt: skip


class _LinkCreate(ctypes.Structure):
    """union bpf_attr of BPF_LINK_CREATE, for uprobe_multi; libbpf has it from 1.3 on."""

    _fields_ = (
        ("prog_fd", ctypes.c_uint32), ("target_fd", ctypes.c_uint32), ("attach_type", ctypes.c_uint32),
        ("flags", ctypes.c_uint32), ("path", ctypes.c_char_p), ("offsets", ctypes.c_void_p),
        ("ref_ctr_offsets", ctypes.c_void_p), ("cookies", ctypes.c_void_p), ("count", ctypes.c_uint32),
        ("multi_flags", ctypes.c_uint32), ("pid", ctypes.c_uint32), ("pad", ctypes.c_uint32),
    )  # fmt: skip


def multi_accepted(lib: Libbpf) -> bool:
    """Whether this kernel has uprobe_multi: then it looks at the path, which here is no file's. Raises BpfError."""
    options = LoadOptions(expected_attach_type=UPROBE_MULTI)
    options.sz = ctypes.sizeof(options)
    size = len(_EMPTY)
    program = lib.c.bpf_prog_load(_KPROBE, b"stingless_try", b"GPL", _EMPTY, size, ctypes.byref(options))
    if program < 0:
        return False
    try:
        os.close(_link(lib, program, "/", [Point(0, 0)]))
    except BpfError as error:
        return error.errno == errnos.EBADF
    finally:
        os.close(program)
    return False


def _link(lib: Libbpf, program: int, path: str, points: Sequence[Point]) -> int:
    """The descriptor of one uprobe_multi link; the points are all at entries or all at returns."""
    offsets, cookies = ((ctypes.c_uint64 * len(points))() for _ in range(2))
    offsets[:], cookies[:] = [p.offset for p in points], [p.cookie for p in points]
    attr = _LinkCreate(prog_fd=program, attach_type=UPROBE_MULTI, path=path.encode(), count=len(points))
    attr.offsets, attr.cookies = ctypes.addressof(offsets), ctypes.addressof(cookies)
    attr.multi_flags = _AT_RETURN if points[0].at_return else 0
    call = ctypes.CDLL(None, use_errno=True).syscall
    result = call(_SYS_BPF[platform.machine()], _LINK_CREATE, ctypes.byref(attr), ctypes.sizeof(attr))
    return lib.call("attaching uprobes", -ctypes.get_errno() if result < 0 else result)


class Attached:
    """Probes on one file. `close` may be called again."""

    def __init__(self) -> None:
        self._closers: list[Callable[[], object]] = []

    def add(self, closer: Callable[[], object]) -> None:
        self._closers.append(closer)

    def close(self) -> None:
        while self._closers:
            self._closers.pop()()


class Uprobes:
    """Attaches one loaded program (a struct bpf_program *). multi: it was loaded for that."""

    def __init__(self, lib: Libbpf, program: int, multi: bool) -> None:
        self._lib, self._program, self._multi = lib, program, multi

    def attach(self, path: str, points: Sequence[Point]) -> Attached:
        """Returns before entries, so that no call is seen half. Raises BpfError."""
        attached = Attached()
        try:
            for side in ([p for p in points if p.at_return], [p for p in points if not p.at_return]):
                if self._multi and side:
                    program = self._lib.c.bpf_program__fd(self._program)
                    attached.add(partial(os.close, _link(self._lib, program, path, side)))
                    continue
                for point in side:
                    attached.add(partial(self._lib.c.bpf_link__destroy, self._one(path, point)))
        except BpfError:
            attached.close()
            raise
        return attached

    def _one(self, path: str, point: Point) -> int:
        options = _UprobeOptions(bpf_cookie=point.cookie, retprobe=point.at_return)
        options.sz = ctypes.sizeof(options)
        attach = self._lib.c.bpf_program__attach_uprobe_opts
        return self._lib.pointer(
            "attaching a uprobe",
            attach(self._program, _ANY_PROCESS, path.encode(), point.offset, ctypes.byref(options)),
        )
