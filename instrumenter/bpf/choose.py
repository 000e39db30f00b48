# SPDX-License-Identifier: Apache-2.0
"""Which of the four ways to each hook this kernel takes, found by trying.

In: what the object holds and what the user forces. Out: a `Choice`: hook -> mode, the programs to load, and what was
refused and why. The one rule: a mode is chosen because the kernel accepted a program of that kind at that function a
moment ago (a next to empty one, loaded, attached and detached), never because of the kernel's version.
"""

from __future__ import annotations

import ctypes
import errno as errnos
import os
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from instrumenter.bpf.libbpf import BpfError, Libbpf, cannot_start, describe
from instrumenter.errors import CannotStart

MODES = ("fentry", "kprobe", "socket", "tracepoint")  # best first


class Hook(NamedTuple):
    """A place to watch, and the programs that watch it in each mode."""

    name: str
    required: bool
    ways: Mapping[str, tuple[str, ...]]


_SYSCALLS = ("tp_sys_enter", "tp_sys_exit")
HOOKS = (
    Hook("send", True, {
        "fentry": ("fentry_send", "fexit_send"), "kprobe": ("kprobe_send", "kretprobe_send"),
        "socket": ("tp_send_begins", "tp_sent"), "tracepoint": _SYSCALLS,
    }),
    Hook("recv", True, {
        "fentry": ("fexit_recv",), "kprobe": ("kprobe_recv", "kprobe_read"),
        "socket": ("tp_received",), "tracepoint": _SYSCALLS,
    }),
    Hook("sendpage", False, {"fentry": ("fexit_sendpage",), "kprobe": ("kprobe_sendpage", "kretprobe_sendpage")}),
)  # fmt: skip
NEEDED_FUNCTION = "bpf_rdonly_cast"  # where the kernel has it, the probes read its structs by plain loads
HELPERS = {
    "bpf_ringbuf_reserve": 131,
    "bpf_loop": 181,
}  # of the UAPI's enum bpf_func_id; the youngest that all modes need
HELPERS_REMEDY = "use Linux 5.17 or newer, or a distribution's kernel with its BPF"
REQUIRED = frozenset({"proc_exec", "proc_fork", "proc_exit", "sock_state", "sock_destroy"})  # whatever the mode


@dataclass(frozen=True)
class Choice:
    """modes: hook -> mode. programs: to load. refused: (program, reason) that the kernel would not take."""

    modes: dict[str, str]
    programs: frozenset[str]
    refused: tuple[tuple[str, str], ...]


def choose(
    present: Sequence[str], accepts: Callable[[str], str | None], forced: str | None, hooks: Sequence[Hook] = HOOKS
) -> Choice:
    """The best accepted mode of each hook, and of all other programs those that are accepted.

    `accepts(program)` is "" if the kernel takes it, the reason if it does not, None if what it would be attached to
    is not in this kernel (an optional program is then left out without a word). The tracepoint mode is for all hooks or
    none: syscalls would see again what the functions below them have seen. Raises CannotStart.
    """
    asked: dict[str, str | None] = {}

    def reason(program: str) -> str | None:
        if program not in asked:
            asked[program] = accepts(program) if program in present else "not in the probes that were built"
        return asked[program]

    def usable(hook: Hook, mode: str) -> bool:
        return mode in hook.ways and all(reason(p) == "" for p in hook.ways[mode])

    order = (forced,) if forced else MODES
    modes: dict[str, str] = {}
    for hook in hooks:
        mode = next((m for m in order if usable(hook, m)), "")
        if mode:
            modes[hook.name] = mode
        elif hook.required:
            raise CannotStart(_hopeless(hook, order, asked, forced))
    if "tracepoint" in modes.values():
        modes = {h.name: "tracepoint" for h in hooks if usable(h, "tracepoint")}
        lost = next((h for h in hooks if h.required and h.name not in modes), None)
        if lost:
            raise CannotStart(_hopeless(lost, ("tracepoint",), asked, forced))
    programs = {p for h in hooks if h.name in modes for p in h.ways[modes[h.name]]}
    programs |= _others(present, reason, hooks)
    refused = tuple((program, why) for program, why in asked.items() if why and program in present)
    return Choice(modes, frozenset(programs), refused)


def _others(present: Sequence[str], reason: Callable[[str], str | None], hooks: Sequence[Hook]) -> set[str]:
    """The accepted programs that belong to no hook; a missing one of REQUIRED raises CannotStart."""
    of_hooks = {p for hook in hooks for ways in hook.ways.values() for p in ways}
    accepted = set()
    for program in present:
        if program in of_hooks:
            continue
        why = reason(program)
        if why == "":
            accepted.add(program)
        elif program in REQUIRED:
            raise CannotStart(
                f"the kernel refuses the probe {program}: {why or 'its tracepoint is not in this kernel'}; "
                f"it needs BTF (CONFIG_DEBUG_INFO_BTF) and BPF tracing programs; {HELPERS_REMEDY}"
            )
    return accepted


def _hopeless(hook: Hook, order: Sequence[str], asked: Mapping[str, str | None], forced: str | None) -> str:
    lines = []
    for mode in order:
        whys = [(p, asked.get(p)) for p in hook.ways.get(mode, ()) if asked.get(p) != ""]
        lines += [f"{mode}: {p}: {why or 'no such function in this kernel'}" for p, why in whys[:1]]
    text = "; ".join(lines)
    if forced:
        return f"--attach {forced} is refused by this kernel ({text}): leave --attach out to take what it accepts"
    return f"this kernel gives no way to watch a socket's {hook.name} ({text})"


# enum bpf_prog_type and bpf_attach_type of the UAPI
_KPROBE, _RAW_TRACEPOINT, _TRACING = 2, 17, 26
_RAW_TP, _FENTRY, _FEXIT = 23, 24, 25
_TYPEDEF, _FUNC = 8, 12  # BTF kinds
_EMPTY = (ctypes.c_uint64 * 2)(0xB7, 0x95)  # r0 = 0; exit
_FUNC_ARG_CNT = 185  # enum bpf_func_id; as bpf_get_func_arg, only for tracing programs
_COUNTS_ARGUMENTS = (ctypes.c_uint64 * 3)(_FUNC_ARG_CNT << 32 | 0x85, 0xB7, 0x95)  # call; r0 = 0; exit
_TRACED = {"fentry": (_FENTRY, _FUNC, ""), "fexit": (_FEXIT, _FUNC, ""), "tp_btf": (_RAW_TP, _TYPEDEF, "btf_trace_")}
_PERF_EVENT_OPEN = {"x86_64": 298, "aarch64": 241}
_IOC_SET_BPF = 0x40042408
_CLOEXEC = 8
KPROBE_PMU = Path("/sys/bus/event_source/devices/kprobe")


class LoadOptions(ctypes.Structure):
    """The head of struct bpf_prog_load_opts, as libbpf 1.1 has it; newer ones go by `sz`."""

    _fields_ = (
        ("sz", ctypes.c_size_t), ("attempts", ctypes.c_int), ("expected_attach_type", ctypes.c_int),
        ("prog_btf_fd", ctypes.c_uint32), ("prog_flags", ctypes.c_uint32), ("prog_ifindex", ctypes.c_uint32),
        ("kern_version", ctypes.c_uint32), ("attach_btf_id", ctypes.c_uint32), ("attach_prog_fd", ctypes.c_int),
    )  # fmt: skip


class _PerfAttr(ctypes.Structure):
    """struct perf_event_attr, PERF_ATTR_SIZE_VER1."""

    _fields_ = (
        ("type", ctypes.c_uint32), ("size", ctypes.c_uint32), ("config", ctypes.c_uint64),
        ("sample_period", ctypes.c_uint64), ("sample_type", ctypes.c_uint64), ("read_format", ctypes.c_uint64),
        ("bits", ctypes.c_uint64), ("wakeup_events", ctypes.c_uint32), ("bp_type", ctypes.c_uint32),
        ("config1", ctypes.c_void_p), ("config2", ctypes.c_uint64),
    )  # fmt: skip


class Trial:
    """Tries empty programs. `sections`: program -> its section in the object, such as `fexit/tcp_recvmsg`."""

    def __init__(self, lib: Libbpf, sections: Mapping[str, str]) -> None:
        """Raises CannotStart: the kernel has no BTF."""
        self._lib, self.sections = lib, sections
        self._answers: dict[str, str | None] = {}
        self._found: dict[tuple[str, int], int] = {}
        self._btf = 0
        self._kernel_btf()

    def _kernel_btf(self) -> int:
        try:
            lib = self._lib
            self._btf = self._btf or lib.pointer("reading the kernel's BTF", lib.c.btf__load_vmlinux_btf())
        except BpfError as error:
            if Path("/sys/kernel/btf/vmlinux").exists():
                raise cannot_start(error) from error
            raise CannotStart(
                "this kernel has no BTF: /sys/kernel/btf/vmlinux is needed; use a kernel built with "
                "CONFIG_DEBUG_INFO_BTF=y (in a container: mount the host's /sys)"
            ) from error
        return self._btf

    def close(self) -> None:
        """Frees the kernel's BTF, about 10 MB; a later question reads it again."""
        self._lib.c.btf__free(self._btf)
        self._btf = 0

    def has(self, name: str, kind: int = _FUNC) -> int:
        """The id of a function (or other kind) in the kernel's BTF, 0 if there is none."""
        if (name, kind) not in self._found:
            found = self._lib.c.btf__find_by_name_kind(self._kernel_btf(), name.encode(), kind)
            self._found[name, kind] = max(0, int(found))
        return self._found[name, kind]

    def accepts(self, program: str) -> str | None:
        """As `choose` wants it; asked of the kernel once. A kind of program not known here is taken at its word."""
        if program not in self._answers:
            self._answers[program] = self._ask(program)
        return self._answers[program]

    def _ask(self, program: str) -> str | None:
        kind, _, target = self.sections[program].partition("/")
        try:
            if kind in _TRACED:
                return self._traced(kind, target)
            if kind in ("kprobe", "kretprobe"):
                return self._kprobe(kind, target)
        except BpfError as error:
            if error.errno == errnos.EPERM:  # of this kind of program only, see `allowed`
                return f"{error.reason} (lockdown or another security policy of this kernel)"
            return error.reason
        return ""

    def allowed(self) -> None:
        """Raises CannotStart if this process may load no tracing program at all."""
        try:
            os.close(self._load(_RAW_TRACEPOINT, LoadOptions()))
        except BpfError as error:
            raise cannot_start(error) from error

    def complete(self, helpers: Mapping[str, int] = HELPERS) -> None:
        """Raises CannotStart if the kernel lacks a function that the probes call, whatever the mode."""
        probe = self._lib.c.libbpf_probe_bpf_helper
        lacking = [name for name, number in helpers.items() if probe(_RAW_TRACEPOINT, number, None) == 0]
        if lacking:
            raise CannotStart(f"this kernel's BPF has no {', '.join(lacking)}: {HELPERS_REMEDY}")

    def _traced(self, kind: str, target: str) -> str | None:
        attach, btf_kind, prefix = _TRACED[kind]
        found = self.has(prefix + target, btf_kind)
        if not found:
            return None
        options = LoadOptions(expected_attach_type=attach, attach_btf_id=found)
        # Returns find their arguments by a helper that is younger than fexit itself.
        program = self._load(_TRACING, options, _COUNTS_ARGUMENTS if kind == "fexit" else _EMPTY)
        try:
            os.close(self._lib.call(f"attaching {kind}", self._lib.c.bpf_raw_tracepoint_open(None, program)))
        finally:
            os.close(program)
        return ""

    def _kprobe(self, kind: str, target: str) -> str | None:
        if not self.has(target):
            return None
        try:
            pmu = int((KPROBE_PMU / "type").read_text())
        except OSError:
            return "no kprobes in this kernel (CONFIG_KPROBES)"
        number = _PERF_EVENT_OPEN.get(platform.machine())
        if number is None:
            return f"not known how to try kprobes on {platform.machine()}"
        name = ctypes.create_string_buffer(target.encode())
        attr = _PerfAttr(type=pmu, config=int(kind == "kretprobe"), config1=ctypes.addressof(name))
        attr.size = ctypes.sizeof(attr)
        program = self._load(_KPROBE, LoadOptions())
        try:
            event = self._libc("perf_event_open", "syscall", number, ctypes.byref(attr), -1, 0, -1, _CLOEXEC)
            try:
                self._libc("attaching kprobe", "ioctl", event, ctypes.c_ulong(_IOC_SET_BPF), program)
            finally:
                os.close(event)
        finally:
            os.close(program)
        return ""

    def _load(self, kind: int, options: LoadOptions, body: ctypes.Array[ctypes.c_uint64] = _EMPTY) -> int:
        options.sz = ctypes.sizeof(options)
        load = self._lib.c.bpf_prog_load
        return self._lib.call(
            "loading a BPF program", load(kind, b"stingless_try", b"GPL", body, len(body), ctypes.byref(options))
        )

    def _libc(self, doing: str, function: str, *arguments: object) -> int:
        result = int(getattr(ctypes.CDLL(None, use_errno=True), function)(*arguments))
        return self._lib.call(doing, -ctypes.get_errno() if result < 0 else result)


def first_reason(log: Sequence[str], errno: int) -> str:
    """Why the kernel refused, in one line: the verifier's last word if it had one, else errno's."""
    ends = [i for i, line in enumerate(log) if "END PROG LOAD LOG" in line]
    body = log[: ends[-1]] if ends else ()
    figures = ("processed ", "verification time ", "stack depth ", "libbpf: ")
    said = [line for line in body if line.strip() and not line.startswith(figures)]
    return f"{describe(errno)}: {said[-1].strip()}" if said else describe(errno)
