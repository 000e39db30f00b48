# SPDX-License-Identifier: Apache-2.0
"""`stingless doctor`: what works on this machine, what does not, and the remedy for each.

In: /proc, /sys, the libraries, and the kernel's answers to real attempts. Out: a list of `Check`. The rules: whatever
can be tried is tried, not guessed from a version; every check that is not ok has a remedy.
Exit code: 0, the agent can run here (perhaps degraded); 1, it cannot.
"""

from __future__ import annotations

import ctypes
import json
import os
import platform
import re
import resource
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from instrumenter.errors import CannotStart, StinglessError

if TYPE_CHECKING:
    from instrumenter.bpf.choose import Trial

State = Literal["ok", "degraded", "missing"]
OBJECTS = Path(__file__).parent / "objects"
SUPPORTED = (5, 17)  # the first Linux with all helpers, docs/decisions/0006-kernel-5.10-not-supported.md
INITIAL_PID_NAMESPACE = 0xEFFFFFFC  # include/linux/proc_ns.h: PROC_PID_INIT_INO

# capabilities(7): bit, what it is for.
_NEEDED = {"CAP_BPF": (39, "load BPF programs and maps"), "CAP_PERFMON": (38, "attach tracing programs")}
_HELPFUL = {
    "CAP_SYS_PTRACE": (19, "read the executable and environment of other users' processes, for service names"),
    "CAP_DAC_READ_SEARCH": (2, "read other users' files under /proc"),
}
_SYS_ADMIN = 21


@dataclass(frozen=True)
class Check:
    """name; state; found: what is there; remedy: empty if ok."""

    name: str
    state: State
    found: str
    remedy: str = ""


@dataclass(frozen=True)
class Machine:
    """Where to look; tests give a tree of their own."""

    proc: Path = Path("/proc")
    sys: Path = Path("/sys")
    objects: Path = OBJECTS
    release: str = platform.release()
    arch: str = platform.machine()

    def read(self, path: Path) -> str | None:
        try:
            return path.read_text(encoding="utf-8", errors="replace").strip()
        except OSError:
            return None


def kernel(machine: Machine) -> Check:
    """Distributions bring younger BPF to older kernels, so a version alone forbids nothing: see `bpf helpers`."""
    found = re.match(r"(\d+)\.(\d+)", machine.release)
    if found and (int(found[1]), int(found[2])) >= SUPPORTED:
        return Check("kernel", "ok", f"{machine.release} {machine.arch}")
    supported = ".".join(map(str, SUPPORTED))
    return Check("kernel", "degraded", f"{machine.release}: older than {supported}", "use it only if all below is ok")


def btf(machine: Machine) -> Check:
    if (machine.sys / "kernel/btf/vmlinux").exists():
        return Check("btf", "ok", "/sys/kernel/btf/vmlinux")
    mounted = (machine.sys / "kernel").exists()
    remedy = "use a kernel built with CONFIG_DEBUG_INFO_BTF=y" if mounted else "mount sysfs: mount -t sysfs sys /sys"
    return Check("btf", "missing", "no /sys/kernel/btf/vmlinux: probes cannot be fitted to this kernel", remedy)


def capabilities(machine: Machine) -> Check:
    status = machine.read(machine.proc / "self/status") or ""
    found = re.search(r"^CapEff:\s*([0-9a-f]+)", status, re.MULTILINE)
    mask = int(found[1], 16) if found else 0
    admin = mask >> _SYS_ADMIN & 1
    lacking = [n for n, (bit, _) in _NEEDED.items() if not (mask >> bit & 1 or admin)]
    if lacking:
        why = "; ".join(f"{name} to {_NEEDED[name][1]}" for name in lacking)
        return Check("capabilities", "missing", f"lacks {why}", rights_remedy())
    lacking = [n for n, (bit, _) in _HELPFUL.items() if not mask >> bit & 1]
    if lacking:
        why = "; ".join(f"{name} to {_HELPFUL[name][1]}" for name in lacking)
        return Check("capabilities", "degraded", f"lacks {why}", f"add {', '.join(lacking)}, or run as root")
    return Check("capabilities", "ok", ", ".join([*_NEEDED, *_HELPFUL]))


def rights_remedy() -> str:
    return f"run as root (sudo stingless ...) or give the container {', '.join([*_NEEDED, *_HELPFUL])}"


def lockdown(machine: Machine) -> Check:
    text = machine.read(machine.sys / "kernel/security/lockdown")
    if text is None:
        return Check("lockdown", "ok", "not visible (securityfs not mounted, or no lockdown in this kernel)")
    mode = (re.search(r"\[(\w+)\]", text) or ["", text])[1]
    if mode == "confidentiality":
        remedy = "boot with lockdown=integrity or lockdown=none"
        return Check("lockdown", "missing", "confidentiality: BPF may not read memory", remedy)
    return Check("lockdown", "ok", f"{mode}{': attach modes may be fewer, see below' if mode == 'integrity' else ''}")


def libraries(_: Machine) -> Iterator[Check]:
    remedies = {
        "libbpf": "Debian, Ubuntu: apt install libbpf1; Fedora: dnf install libbpf; Alpine: apk add libbpf",
        "libatomic": "Debian, Ubuntu: apt install libatomic1; Fedora: dnf install libatomic; Alpine: apk add libatomic",
    }
    for name, file in (("libbpf", "libbpf.so.1"), ("libatomic", "libatomic.so.1")):
        try:
            library = ctypes.CDLL(file)
        except OSError:
            yield Check(name, "missing", f"{file} cannot be loaded", remedies[name])
            continue
        found = file
        if name == "libbpf":
            library.libbpf_version_string.restype = ctypes.c_char_p
            found = f"{file} {library.libbpf_version_string().decode()}"
        yield Check(name, "ok", found)


def objects(machine: Machine) -> Check:
    path = machine.objects / f"probes.{machine.arch}.bpf.o"
    if path.is_file():
        return Check("probes", "ok", path.name)
    built = sorted(p.name for p in machine.objects.glob("probes.*.bpf.o")) if machine.objects.is_dir() else []
    remedy = "run `make bpf`, or install a wheel that has them"
    return Check("probes", "missing", f"no {path.name}{' among ' + ', '.join(built) if built else ''}", remedy)


def pid_namespace(machine: Machine) -> Check:
    try:
        inode = (machine.proc / "self/ns/pid").stat().st_ino
    except OSError:
        return Check("pid namespace", "missing", "no /proc/self/ns/pid", "mount procfs: mount -t proc proc /proc")
    if inode == INITIAL_PID_NAMESPACE:
        return Check("pid namespace", "ok", "the host's")
    remedy = "docker run --pid=host, or hostPID: true in the pod's spec"
    return Check("pid namespace", "missing", "a container's: process numbers are not the kernel's", remedy)


def cgroups(machine: Machine) -> Check:
    if (machine.sys / "fs/cgroup/cgroup.controllers").exists():
        return Check("cgroups", "ok", "version 2")
    if (machine.sys / "fs/cgroup").is_dir() and any((machine.sys / "fs/cgroup").iterdir()):
        return Check("cgroups", "ok", "version 1 or hybrid: containers are recognised by path")
    remedy = "mount the host's /sys/fs/cgroup into the container, read-only"
    return Check("cgroups", "degraded", "not mounted: containers may not be recognised", remedy)


def memlock(machine: Machine) -> Check:
    found = re.match(r"(\d+)\.(\d+)", machine.release)
    limit = resource.getrlimit(resource.RLIMIT_MEMLOCK)[0]
    if found is None or (int(found[1]), int(found[2])) >= (5, 11) or limit == resource.RLIM_INFINITY:
        return Check("memlock", "ok", "BPF memory is charged to the memory cgroup" if found else "unlimited")
    status = machine.read(machine.proc / "self/status") or ""
    mask = re.search(r"^CapEff:\s*([0-9a-f]+)", status, re.MULTILINE)
    if mask and int(mask[1], 16) >> 24 & 1:
        return Check("memlock", "ok", "raised at start")
    return Check("memlock", "degraded", f"limit {limit} bytes", "ulimit -l unlimited, or LimitMEMLOCK=infinity")


def others(machine: Machine) -> Check:
    from instrumenter.discovery.known_agents import KNOWN_AGENTS

    globs = KNOWN_AGENTS.get("eBPF instrumentation", ())
    pattern = re.compile("|".join(re.escape(g).replace(r"\*", ".*") for g in globs) or r"(?!)")
    found = []
    for entry in machine.proc.iterdir():
        if entry.name.isdigit() and entry.name != str(os.getpid()):
            name = machine.read(entry / "comm") or ""
            if pattern.fullmatch(name):
                found.append(f"{name} (pid {entry.name})")
    if found:
        remedy = "stop one of them, or give each its own services with --exclude-exe and --port"
        return Check("other agents", "degraded", f"{', '.join(found)}: requests may be reported twice", remedy)
    return Check("other agents", "ok", "none that traces with eBPF")


def attach(machine: Machine) -> Iterator[Check]:
    """Every mode, tried on this kernel with empty programs; then what the agent would choose."""
    from instrumenter.bpf.choose import HOOKS, MODES, Trial, choose
    from instrumenter.bpf.libbpf import library

    try:
        trial = Trial(library(), _SECTIONS)
    except CannotStart as error:
        yield Check("bpf", "missing", str(error), "see the checks above")
        return
    try:
        try:
            trial.allowed()
        except CannotStart as error:
            yield Check("bpf", "missing", str(error), rights_remedy())
            return
        yield Check("bpf", "ok", "the bpf system call is allowed")
        yield _helpers(trial)
        answers: dict[str, str | None] = {}

        def accepts(program: str) -> str | None:
            if program not in answers:
                answers[program] = trial.accepts(program)
            return answers[program]

        for mode in MODES:
            programs = [p for hook in HOOKS if hook.required for p in hook.ways.get(mode, ())]
            refused = {why or "no such function in this kernel" for p in programs if (why := accepts(p)) != ""}
            yield Check(f"attach {mode}", "ok" if not refused else "degraded", "; ".join(sorted(refused)) or "works",
                        "none needed while another mode works" if refused else "")  # fmt: skip
        yield _chosen(lambda: choose(list(_SECTIONS), accepts, None).modes)
    finally:
        trial.close()


def _helpers(trial: Trial) -> Check:
    from instrumenter.bpf.choose import HELPERS

    try:
        trial.complete()
    except CannotStart as error:
        found, _, remedy = str(error).partition(": ")
        return Check("bpf helpers", "missing", found, remedy)
    return Check("bpf helpers", "ok", ", ".join(HELPERS))


def loading(_: Machine) -> Check:
    """The probes themselves, through the kernel's verifier, as the agent would load them; nothing is attached."""
    from instrumenter.bpf.libbpf import library
    from instrumenter.bpf.program import Program
    from instrumenter.config import Settings
    from instrumenter.sizes import derive_sizes, kernel_settings, machine_memory, make_histograms

    settings = Settings()
    try:
        sizes = derive_sizes(machine_memory(), library().cpus, settings)
        constants = kernel_settings(settings, make_histograms(settings), sizes, spans=True, self_tgid=os.getpid())
        program = Program.load(constants, sizes.maps, None)
    except StinglessError as error:
        return Check("loading", "missing", str(error), "try --attach with each mode that works; please report this")
    modes = "+".join(dict.fromkeys(program.modes.values()))
    program.close()
    return Check("loading", "ok", f"the kernel takes the probes ({modes})")


def _chosen(choice: Callable[[], Mapping[str, str]]) -> Check:
    try:
        modes = choice()
    except StinglessError as error:
        return Check("attach", "missing", str(error), "use a kernel with BPF tracing programs (CONFIG_BPF_EVENTS=y)")
    return Check("attach", "ok", ", ".join(f"{hook}: {mode}" for hook, mode in modes.items()))


# The probes' sections, as `Program` has them; here so that the kernel can be tried before the probes are built.
_SECTIONS = {
    "fentry_send": "fentry/tcp_sendmsg", "fexit_send": "fexit/tcp_sendmsg", "fexit_recv": "fexit/tcp_recvmsg",
    "kprobe_send": "kprobe/tcp_sendmsg", "kretprobe_send": "kretprobe/tcp_sendmsg",
    "kprobe_recv": "kprobe/tcp_recvmsg", "kprobe_read": "kprobe/__tcp_cleanup_rbuf",
    "tp_send_begins": "tp_btf/tcp_sendmsg_locked", "tp_sent": "tp_btf/sock_send_length",
    "tp_received": "tp_btf/sock_recv_length",
    "tp_sys_enter": "tp_btf/sys_enter", "tp_sys_exit": "tp_btf/sys_exit",
    "proc_exec": "tp_btf/sched_process_exec", "proc_fork": "tp_btf/sched_process_fork",
    "proc_exit": "tp_btf/sched_process_exit", "sock_state": "tp_btf/inet_sock_set_state",
    "sock_destroy": "tp_btf/tcp_destroy_sock",
}  # fmt: skip


def examine(machine: Machine | None = None) -> list[Check]:
    """All checks, in the order in which their remedies help."""
    at = machine or Machine()
    checks = [kernel(at), btf(at), capabilities(at), lockdown(at), pid_namespace(at), cgroups(at), memlock(at)]
    checks += [*libraries(at), objects(at)]
    if not any(c.name == "libbpf" and c.state == "missing" for c in checks):
        checks += attach(at)
    if can_run(checks):
        checks.append(loading(at))
    return [*checks, others(at)]


def can_run(checks: list[Check]) -> bool:
    return all(check.state != "missing" for check in checks)


def render(checks: list[Check], as_json: bool, about: str = "stingless") -> str:
    if as_json:
        return json.dumps({"can_run": can_run(checks), "checks": [asdict(c) for c in checks]}, indent=2)
    width = max(len(c.name) for c in checks)
    lines = []
    for check in checks:
        lines.append(f"{check.state:8}  {check.name:{width}}  {check.found}")
        if check.remedy and check.state != "ok":
            lines.append(f"{'':8}  {'':{width}}  -> {check.remedy}")
    if about:
        lines += ["", f"{about} can run here" if can_run(checks) else f"{about} cannot run here"]
    return "\n".join(lines)


def process(pid: int) -> Check:
    """Whether the plaintext of this process's TLS is seen; what is plain on the wire is seen without."""
    from instrumenter.binaries.tls_libraries import NO_LIBRARY, Files
    from instrumenter.discovery.tls import usable

    try:
        name = Path(f"/proc/{pid}/comm").read_text(errors="replace").strip()
    except OSError:
        return Check(
            f"process {pid}", "missing", "there is no such process", "see ps -e; processes of the host's PID namespace"
        )
    view = usable(Files().tls(pid))
    fine = view.visible or view.reasons == (NO_LIBRARY,)
    remedy = "" if fine else "README.md says which libraries are covered"
    return Check(f"process {pid}", "ok" if fine else "degraded", f"{name}: TLS visible: {view}", remedy)


def main(as_json: bool = False, pids: Sequence[int] = ()) -> int:
    """Prints the checks, or those of these processes; returns the exit code."""
    checks = [process(pid) for pid in pids] or examine()
    print(render(checks, as_json, "" if pids else "stingless"))
    return 0 if can_run(checks) else 1
