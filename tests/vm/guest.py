# SPDX-License-Identifier: Apache-2.0
"""Boots a stock kernel over this machine's root file system and runs one command in it: for VM tests and benchmarks.

The rule it protects: nothing the guest does reaches this machine, but files in `results`. So never `--rw`, which lets
the guest's init rewrite the host's /etc; the root is mounted read-only, with overlays in memory above it.
"""

from __future__ import annotations

import functools
import os
import shlex
import shutil
import signal
import subprocess
import sysconfig
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
KERNELS = Path(os.environ.get("STINGLESS_KERNELS", ROOT / "build" / "kernels"))
TAIL = 6000  # characters of the console that an error shows
# Without what is slow to emulate: strings byte by byte, five levels of page tables, a flag around copies from users.
EMULATED = {"x86_64": " -cpu max,erms=off,la57=off,smap=off"}
KVM_TRY_S = 10  # a kernel without a root file system has printed its version and ended long before

# /usr, the interpreter and the repository again, through a mount that the guest may cache: the root that virtme-ng
# mounts reads every page from the host each time. What Python imports is in the guest's own memory: of 9p every open
# file is some messages to the host, and CPUs wait for each other at their lock. So nobody is trusted but whom a test
# names, as GnuTLS reads the file of each, for each connection; Java has them in one.
SCRIPT = """\
mkdir -p /run/host /run/results /run/usr /run/usr.work
mount -t 9p -o ro,trans=virtio,version=9p2000.L,msize=512000,cache=loose stingless.root /run/host
mount --bind {results} /run/results
exec >/run/results/output 2>&1
mount -t overlay -o lowerdir=/run/host/usr,upperdir=/run/usr,workdir=/run/usr.work usr /usr
mkdir -p /usr/lib/modules
ln -s /run/host{kernel}/lib/modules/{version} /usr/lib/modules/{version}
for path in {cached}; do mount --bind "/run/host$path" "$path"; done
modprobe virtio_blk
mkdir /run/python
mount -t tmpfs -o mode=755,size=1G python /run/python
tar -xf /dev/vda -C /run/python
for path in {copied}; do mount --bind "/run/python$path" "$path"; done
mount -t tmpfs truth {root}/build/truth
mkdir /run/certs
cp -rL /etc/ssl/certs/java /run/certs
[ ! -d /etc/ssl/certs ] || mount --bind /run/certs /etc/ssl/certs
mountpoint -q /sys/fs/bpf || mount -t bpf bpf /sys/fs/bpf
ip link set lo up
export STINGLESS_VM=1 HOME=/tmp PATH={path}
cd {root}
{command}
echo $? >/run/results/exit.new
mv /run/results/exit.new /run/results/exit
"""


@dataclass(frozen=True, slots=True)
class Kernel:
    """One kernel of the cache. `series` is like "6.1", `version` like "6.1.0-50-amd64"."""

    series: str
    version: str

    @property
    def folder(self) -> Path:
        return KERNELS / self.series

    @property
    def image(self) -> Path:
        return self.folder / "boot" / f"vmlinuz-{self.version}"


@dataclass(frozen=True, slots=True)
class Machine:
    """What is emulated. `counted`: one CPU whose clock is its instruction count (4 ns each), whatever the host does."""

    cpus: int = 2
    memory: str = "2G"
    counted: bool = False


@dataclass(frozen=True, slots=True)
class Finished:
    """`exit_code` is the command's; `output` is what it printed; `seconds`: the whole boot, this machine's clock."""

    exit_code: int
    output: str
    seconds: float


class GuestError(Exception):
    """The guest did not finish its command. str() has the end of its output and console."""


def find(series: str) -> Kernel:
    """The cached kernel. Raises GuestError with the remedy."""
    folder = KERNELS / series
    if not (folder / "version").exists():
        raise GuestError(f"no kernel {series} in {KERNELS}: run scripts/kernels.sh")
    return Kernel(series, (folder / "version").read_text().strip())


def boot(kernel: Kernel, command: str, results: Path, machine: Machine, timeout_s: float) -> Finished:
    """Runs the shell `command` as root in the repository's folder; /run/results in the guest is `results` here."""
    results.mkdir(parents=True, exist_ok=True)
    for name in ("output", "exit"):
        (results / name).unlink(missing_ok=True)
    script = results / "run.sh"
    script.write_text(
        SCRIPT.format(
            results=shlex.quote(str(results)),
            kernel=kernel.folder,
            version=kernel.version,
            cached=" ".join(shlex.quote(str(path)) for path in _cached()),
            copied=" ".join(shlex.quote(str(path)) for path in _copied()),
            path=shlex.quote(f"{ROOT}/.venv/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),
            root=shlex.quote(str(ROOT)),
            command=command,
        )
    )
    start = time.monotonic()
    (ROOT / "build" / "truth").mkdir(parents=True, exist_ok=True)  # where tests write; memory in the guest
    image = _pack(results / "python.tar")
    # `timeout` ends the guest even when this process is killed and cannot.
    limited = ["timeout", "--kill-after=5", f"{timeout_s + 10:.0f}", *_vng(kernel, results, machine, image)]
    try:
        problem = _run([*limited, "--", f"sh {shlex.quote(str(script))}"], results, timeout_s)
    finally:
        image.unlink()
    seconds = time.monotonic() - start
    output = _text(results / "output")
    if not (results / "exit").exists():
        raise GuestError(
            f"{kernel.version}: {problem or 'the guest ended early'} after {seconds:.0f} s\n"
            f"--- output\n{output[-TAIL:]}\n--- console\n{_text(results / 'console')[-TAIL:]}"
        )
    return Finished(int((results / "exit").read_text()), output, seconds)


def _cached() -> list[Path]:
    """The repository, and the interpreter's own prefix if it is not below /usr."""
    prefix = (ROOT / ".venv" / "bin" / "python").resolve().parents[1]
    return [ROOT] if prefix.is_relative_to("/usr") else [ROOT, prefix]


def _copied() -> list[Path]:
    """What Python imports: of the interpreter, the environment and the repository."""
    own = ("instrumenter", "exporters", "tests", "benchmarks")
    return [Path(sysconfig.get_path("stdlib")), ROOT / ".venv" / "lib", *(ROOT / name for name in own)]


def _pack(archive: Path) -> Path:
    """A disk whose bytes are an archive of that, without what no test imports."""
    left = [f"--exclude={Path(sysconfig.get_path('stdlib')) / name}" for name in ("site-packages", "test", "config-*")]
    left += [f"--exclude=*/site-packages/{name}" for name in ("kubernetes", "mypy*", "*__mypyc*", "pip", "virtme")]
    paths = [str(path.relative_to("/")) for path in _copied()]
    subprocess.run(["tar", "-cf", archive, "-C", "/", *(each.replace("=/", "=") for each in left), *paths], check=True)
    return archive


def _vng(kernel: Kernel, results: Path, machine: Machine, image: Path) -> list[str]:
    share = "-virtfs local,path=/,mount_tag=stingless.root,security_model=none,readonly=on,multidevs=remap"
    disk = f" -drive file={image},format=raw,if=virtio,readonly=on"
    emulated = machine.counted or not kvm_usable(kernel.image)
    counted = " -icount shift=2,sleep=off" if machine.counted else EMULATED.get(os.uname().machine, "")
    return [
        str(ROOT / ".venv" / "bin" / "vng"),
        *("--verbose", "--force-9p", "--disable-microvm", *(["--disable-kvm"] if emulated else [])),
        *("--run", str(kernel.image), "--user", "root", f"--rwdir={results}"),
        *("--cpus", str(machine.cpus), "--memory", machine.memory),
        f"--qemu-opts={share}{disk}{counted if emulated else ''}",
    ]


@functools.cache
def kvm_usable(image: Path) -> bool:
    """Whether KVM really runs a stock kernel: inside many virtual machines the device opens, makes a CPU, and hangs."""
    qemu = shutil.which(f"qemu-system-{os.uname().machine}")
    if qemu is None or not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return False
    arm = os.uname().machine == "aarch64"
    machine, serial = (["-M", "virt"], "ttyAMA0") if arm else ([], "ttyS0")
    words = f"console={serial} earlyprintk=serial,{serial},115200 panic=-1"
    command = [qemu, *machine, "-accel", "kvm", "-cpu", "host", "-m", "512", "-nodefaults", "-display", "none"]
    command += ["-serial", "stdio", "-no-reboot", "-kernel", str(image), "-append", words]
    try:
        tried = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=KVM_TRY_S, check=False)
        said = tried.stdout
    except subprocess.TimeoutExpired as error:
        said = error.stdout or b""
    return b"Linux version" in said


def _run(command: list[str], results: Path, timeout_s: float) -> str:
    """Ends the guest and all its helpers at the deadline. Returns what went wrong, or nothing."""
    # vng finds its helpers by PATH, and the guest gets no secrets of this environment.
    env = {
        "PATH": f"{ROOT / '.venv' / 'bin'}:{os.environ.get('PATH', '')}:/usr/sbin:/sbin",
        "HOME": os.environ.get("HOME", "/root"),
        "TERM": "dumb",
    }
    with (results / "console").open("wb") as console:
        guest = subprocess.Popen(
            command,
            cwd=ROOT,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=console,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            guest.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return f"no end within {timeout_s:.0f} s"
        finally:
            if guest.poll() is None:
                os.killpg(guest.pid, signal.SIGKILL)
                guest.wait()
    return f"vng ended with {guest.returncode}" if guest.returncode else ""


def _text(path: Path) -> str:
    return path.read_text(errors="replace") if path.exists() else ""
