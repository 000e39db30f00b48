# SPDX-License-Identifier: Apache-2.0
"""libbpf.so.1 by ctypes, as thin as it can be: signatures, errors, log lines.

In: names and numbers. Out: pointers, file descriptors, `BpfError`. The one rule: every libbpf call of the agent goes
through here, so that no negative return value passes unread and every errno is turned into words at one place.
Works with libbpf 1.1 (Debian 12) and newer: only functions and struct heads that 1.1 has are used.

RLIMIT_MEMLOCK is left alone: since Linux 5.11 BPF memory is charged to the memory cgroup, and libbpf 1.x itself
raises the limit on older kernels, and only there.
"""

from __future__ import annotations

import ctypes
import errno as errnos
import os
import platform
import re
from collections import deque
from ctypes import POINTER, c_char_p, c_int, c_size_t, c_uint32, c_uint64, c_void_p
from functools import lru_cache
from pathlib import Path
from typing import Any

from instrumenter.errors import CannotStart, StinglessError

OBJECTS = Path(__file__).resolve().parent.parent / "objects"
LOG_LINES = 60  # kept of what libbpf and the verifier print
TAIL_BYTES = 32_768  # a verifier log can have 16 MB; its end says why
PRINT_DEBUG = 2  # enum libbpf_print_level
ENOTSUPP = 524  # the kernel's own, not in errno.h

# name -> (result, arguments). Pointers to opaque structs are c_void_p.
_SIGNATURES: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "libbpf_num_possible_cpus": (c_int, ()),
    "bpf_object__open_file": (c_void_p, (c_char_p, c_void_p)),
    "bpf_object__load": (c_int, (c_void_p,)),
    "bpf_object__close": (None, (c_void_p,)),
    "bpf_object__btf": (c_void_p, (c_void_p,)),
    "bpf_object__next_program": (c_void_p, (c_void_p, c_void_p)),
    "bpf_object__find_map_by_name": (c_void_p, (c_void_p, c_char_p)),
    "bpf_program__name": (c_char_p, (c_void_p,)),
    "bpf_program__section_name": (c_char_p, (c_void_p,)),
    "bpf_program__set_autoload": (c_int, (c_void_p, ctypes.c_bool)),
    "bpf_program__set_expected_attach_type": (c_int, (c_void_p, c_int)),
    "bpf_program__fd": (c_int, (c_void_p,)),
    "bpf_program__attach": (c_void_p, (c_void_p,)),
    "bpf_program__attach_uprobe_opts": (c_void_p, (c_void_p, c_int, c_char_p, c_size_t, c_void_p)),
    "bpf_link__destroy": (c_int, (c_void_p,)),
    "bpf_map__fd": (c_int, (c_void_p,)),
    "bpf_map__type": (c_int, (c_void_p,)),
    "bpf_map__key_size": (c_uint32, (c_void_p,)),
    "bpf_map__value_size": (c_uint32, (c_void_p,)),
    "bpf_map__max_entries": (c_uint32, (c_void_p,)),
    "bpf_map__set_max_entries": (c_int, (c_void_p, c_uint32)),
    "bpf_map__initial_value": (c_void_p, (c_void_p, POINTER(c_size_t))),
    "bpf_map_lookup_elem": (c_int, (c_int, c_void_p, c_void_p)),
    "bpf_map_lookup_and_delete_elem": (c_int, (c_int, c_void_p, c_void_p)),
    "bpf_map_update_elem": (c_int, (c_int, c_void_p, c_void_p, c_uint64)),
    "bpf_map_delete_elem": (c_int, (c_int, c_void_p)),
    "bpf_map_get_next_key": (c_int, (c_int, c_void_p, c_void_p)),
    "bpf_map_lookup_batch": (c_int, (c_int, c_void_p, c_void_p, c_void_p, c_void_p, POINTER(c_uint32), c_void_p)),
    "bpf_prog_load": (c_int, (c_int, c_char_p, c_char_p, c_void_p, c_size_t, c_void_p)),
    "bpf_raw_tracepoint_open": (c_int, (c_char_p, c_int)),
    "libbpf_probe_bpf_helper": (c_int, (c_int, c_int, c_void_p)),
    "bpf_obj_get_info_by_fd": (c_int, (c_int, c_void_p, POINTER(c_uint32))),
    "bpf_enable_stats": (c_int, (c_int,)),
    "btf__load_vmlinux_btf": (c_void_p, ()),
    "btf__free": (None, (c_void_p,)),
    "btf__find_by_name_kind": (c_int, (c_void_p, c_char_p, c_uint32)),
    "btf__type_by_id": (c_void_p, (c_void_p, c_uint32)),
    "btf__name_by_offset": (c_char_p, (c_void_p, c_uint32)),
}


class BpfError(StinglessError):
    """A BPF call was refused. `errno` is positive; `reason` is short; `log` is the end of what libbpf printed."""

    def __init__(self, doing: str, errno: int, log: tuple[str, ...] = ()) -> None:
        self.errno, self.log = errno, log
        self.reason = describe(errno)
        super().__init__(f"{doing}: {self.reason}")


def describe(errno: int) -> str:
    """An errno in words; the kernel's ENOTSUPP, which escapes from BPF calls, included."""
    return "not supported by this kernel" if errno in (ENOTSUPP, errnos.EOPNOTSUPP) else os.strerror(errno)


class Log:
    """libbpf's print function: keeps the last lines of warnings and infos, the verifier's log among them."""

    def __init__(self, libc: ctypes.CDLL, keep: int = LOG_LINES) -> None:
        self.lines: deque[str] = deque(maxlen=keep)
        self._vasprintf = libc.vasprintf
        # On x86-64 and arm64 a va_list argument is passed as a pointer (to its one element; to its copy).
        self._vasprintf.argtypes = (POINTER(c_void_p), c_void_p, c_void_p)
        self._free = libc.free
        self._free.argtypes, self._free.restype = (c_void_p,), None

    def __call__(self, level: int, form: int, args: int) -> int:
        if level >= PRINT_DEBUG:
            return 0
        text = c_void_p()
        size: int = self._vasprintf(ctypes.byref(text), form, args)
        if size < 0 or text.value is None:
            return 0
        skip = max(0, size - TAIL_BYTES)
        self.lines.extend(ctypes.string_at(text.value + skip, size - skip).decode(errors="replace").splitlines())
        self._free(text)
        return size

    def take(self) -> tuple[str, ...]:
        """The lines since the last take."""
        lines = tuple(self.lines)
        self.lines.clear()
        return lines


class Libbpf:
    """The library: `call` and `pointer` check results; `log` has what it printed. One per process: see `library`."""

    def __init__(self) -> None:
        try:
            self.c = ctypes.CDLL("libbpf.so.1", use_errno=True)
        except OSError as error:
            raise CannotStart(
                "libbpf.so.1 cannot be loaded: install libbpf 1.1 or newer (Debian, Ubuntu: apt install libbpf1; "
                "Fedora: dnf install libbpf; Alpine: apk add libbpf)"
            ) from error
        for name, (result, arguments) in _SIGNATURES.items():
            try:
                function = getattr(self.c, name)
            except AttributeError as error:
                raise CannotStart(f"libbpf.so.1 is too old, it has no {name}: install libbpf 1.1 or newer") from error
            function.restype, function.argtypes = result, arguments
        self.log = Log(ctypes.CDLL(None))
        # Kept here, since libbpf has the only other reference to it.
        self._print = ctypes.CFUNCTYPE(c_int, c_int, c_void_p, c_void_p)(self.log)
        self.c.libbpf_set_print.restype = c_void_p
        self.c.libbpf_set_print(self._print)
        try:
            self.cpus: int = self.call("counting possible CPUs", self.c.libbpf_num_possible_cpus())
        except BpfError as error:
            raise CannotStart(f"{error}: /sys is needed; mount it: mount -t sysfs sys /sys") from error

    def call(self, doing: str, result: int) -> int:
        """`result` of a function that returns a negative errno; raises BpfError."""
        if result < 0:
            raise BpfError(doing, -result, self.log.take())
        return result

    def pointer(self, doing: str, result: int | None) -> int:
        """`result` of a function that returns NULL and sets errno; raises BpfError."""
        if not result:
            raise BpfError(doing, ctypes.get_errno(), self.log.take())
        return result


@lru_cache(maxsize=1)
def library() -> Libbpf:
    """The process's only binding: libbpf's print function is one for the whole process."""
    return Libbpf()


def object_path(machine: str | None = None) -> Path:
    """The probes' object for this machine (`platform.machine()`); raises CannotStart."""
    machine = machine or platform.machine()
    path = OBJECTS / f"probes.{machine}.bpf.o"
    if not path.exists():
        built = sorted(p.name.split(".")[1] for p in OBJECTS.glob("probes.*.bpf.o"))
        if built:
            raise CannotStart(f"no probes for {machine} (there are: {', '.join(built)}): build them with `make bpf`")
        raise CannotStart(f"the probes are not built ({path} is missing): run `make bpf`")
    return path


def lockdown() -> str:
    """The kernel's lockdown mode: "none", "integrity", "confidentiality", or "" where it cannot be read."""
    try:
        text = Path("/sys/kernel/security/lockdown").read_text()
    except OSError:
        return ""
    chosen = re.search(r"\[(\w+)\]", text)
    return chosen[1] if chosen else ""


def cannot_start(error: BpfError) -> CannotStart:
    """A refusal that nothing can be done about, as the line that ends the program, with its remedy."""
    if error.errno in (errnos.EPERM, errnos.EACCES):
        if lockdown() == "confidentiality":
            return CannotStart(f"{error}: the kernel is locked down (confidentiality); boot with lockdown=integrity")
        if os.geteuid() != 0:
            return CannotStart(f"{error}: needs root (sudo), or the capabilities CAP_BPF and CAP_PERFMON")
        return CannotStart(f"{error}: needs CAP_BPF and CAP_PERFMON (in a container: --privileged, or --cap-add both)")
    if error.errno == errnos.ENOMEM:
        return CannotStart(f"{error}: lower the sizes of the maps and rings, or raise the memory limit")
    last = next((line for line in reversed(error.log) if line.strip()), "")
    return CannotStart(f"{error}{f' ({last})' if last else ''}: `stingless doctor` says what this kernel lacks")
