# SPDX-License-Identifier: Apache-2.0
"""The services: how each is started, what people would call it, and what its routes answer.

The rule it protects: a service is the program as its users run it, with a clean environment, and is ended with all its
workers. A program that is missing is an error that names the remedy, never a skipped test.
"""

from __future__ import annotations

import functools
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from kernel.tls import certificate
from running import ROOT, until

HERE: Final = Path(__file__).parent
BIN: Final = ROOT / ".venv" / "bin"
START_WITHIN_S: Final = 60.0  # under emulation
USERS: Final = 50  # /users/1 to /users/50 exist
_PATH: Final = f"{os.environ.get('PATH', '')}:/usr/local/go/bin:/usr/sbin:/sbin"


def program(name: str) -> str:
    """Where a program is. Raises RuntimeError with the remedy."""
    found = shutil.which(name, path=_PATH)
    if found is None:
        raise RuntimeError(f"{name} is missing: run `make setup`")
    return found


def clean_environment() -> dict[str, str]:
    """Of a service or client: nothing in it names it, configures telemetry, or sends its requests to a proxy."""
    told = ("OTEL_", "STINGLESS_", "PYTEST_")
    kept = {k: v for k, v in os.environ.items() if not k.startswith(told) and not k.lower().endswith("_proxy")}
    trusting = dict.fromkeys(
        ("SSL_CERT_FILE", "CURL_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "NODE_EXTRA_CA_CERTS"), str(pem())
    )
    return kept | trusting | {"PYTHONDONTWRITEBYTECODE": "1"}


@functools.cache
def pem() -> Path:
    """The key and certificate of all services that speak TLS, which every client trusts."""
    folder = ROOT / "build" / "truth"
    folder.mkdir(parents=True, exist_ok=True)
    return certificate(folder)


@dataclass(frozen=True, slots=True)
class Service:
    """command: of (port, empty folder of its own). name: the service.name expected. odd: routes answered otherwise."""

    label: str
    name: str
    command: Callable[[int, Path], list[str]]
    odd: Mapping[tuple[str, str], int]
    sleeps: bool = True  # /slow takes 30 ms
    scheme: str = "http"


def files(folder: Path) -> Path:
    """The routes as files, for servers of files."""
    files = folder / "files"
    (files / "users").mkdir(parents=True)
    for name in ("hello", "slow", *(f"users/{i}" for i in range(1, USERS + 1))):
        (files / name).write_text("a file\n")
    (files / "stream").write_bytes(b"x" * (1 << 20))
    return files


def nginx(port: int, folder: Path, tls: str = "") -> list[str]:
    """tls: what follows the port in `listen`, and further directives."""
    files(folder)
    text = (HERE / "services" / "nginx.conf").read_text()
    (folder / "nginx.conf").write_text(
        text.replace("PORT", str(port)).replace("FOLDER", str(folder)).replace("TLS", tls)
    )
    return [program("nginx"), "-p", str(folder), "-c", str(folder / "nginx.conf")]


def _http_server(port: int, folder: Path) -> list[str]:
    return [sys.executable, "-m", "http.server", "-b", "127.0.0.1", "-d", str(files(folder)), str(port)]


def _gunicorn(port: int, _: Path) -> list[str]:
    app = ["--chdir", str(HERE / "services"), "flaskshop:app"]
    return [str(BIN / "gunicorn"), "-w", "2", "-b", f"127.0.0.1:{port}", "--log-level", "error", *app]


def _uvicorn(port: int, _: Path) -> list[str]:
    app = ["--app-dir", str(HERE / "services"), "fastshop:app"]
    return [str(BIN / "uvicorn"), "--host", "127.0.0.1", "--port", str(port), "--log-level", "error", *app]


def _node(port: int, _: Path) -> list[str]:
    return [program("node"), str(HERE / "services" / "nodeshop" / "server.js"), str(port)]


def _go(port: int, _: Path) -> list[str]:
    """Built once and kept in build/: the first build of net/http takes a minute."""
    source, target = HERE / "services" / "goshop.go", ROOT / "build" / "truth" / "goshop"
    if not target.exists() or target.stat().st_mtime < source.stat().st_mtime:
        target.parent.mkdir(parents=True, exist_ok=True)
        env = clean_environment() | {"GO111MODULE": "off", "GOCACHE": str(target.parents[1] / "demo" / "go-cache")}
        subprocess.run([program("go"), "build", "-o", target, source], env=env, check=True)
    return [str(target), str(port)]


SERVICES: Final = (
    Service("nginx", "nginx", nginx, {}, sleeps=False),
    Service("http.server", "http.server", _http_server, {("GET", "/boom"): 404, ("POST", "/echo"): 501}, sleeps=False),
    Service("gunicorn+flask", "flaskshop", _gunicorn, {}),
    Service("uvicorn+fastapi", "fastshop", _uvicorn, {}),
    Service("node", "nodeshop", _node, {}),
    Service("go", "goshop", _go, {}),
)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as held:
        return int(held.getsockname()[1])


class Running:
    """A started service, in its own process group. Use as a context manager."""

    def __init__(self, service: Service, folder: Path, port: int = 0) -> None:
        self.service = service
        self.port = port or free_port()
        folder.mkdir(parents=True)
        self.log = folder / "output"
        with self.log.open("wb") as output:
            self.process = subprocess.Popen(
                service.command(self.port, folder),
                cwd=folder,
                env=clean_environment(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        return self.process.pid

    def url(self, target: str) -> str:
        return f"{self.service.scheme}://127.0.0.1:{self.port}{target}"

    def listening(self) -> Self:
        """Waits until the port accepts; what is opened here says nothing and is closed."""
        until(self._accepts, f"{self.service.label} serves", START_WITHIN_S)
        return self

    def _accepts(self) -> bool:
        if self.process.poll() is not None:
            raise RuntimeError(f"{self.service.label} ended with {self.process.returncode}:\n{self.log.read_text()}")
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def stop(self) -> None:
        if self.process.poll() is None:
            os.killpg(self.pid, signal.SIGTERM)
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(self.pid, signal.SIGKILL)
            self.process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
