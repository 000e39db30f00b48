# SPDX-License-Identifier: Apache-2.0
"""The services: how each is started, what people would call it, and what its routes answer.

The rule it protects: a service is the program as its users run it, with a clean environment, and is ended with all its
workers. A program that is missing is an error that names the remedy, never a skipped test.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Self

from running import ROOT, until

HERE: Final = Path(__file__).parent
BIN: Final = ROOT / ".venv" / "bin"
IN_VM: Final = os.environ.get("STINGLESS_VM") == "1"
START_WITHIN_S: Final = 240.0 if IN_VM else 60.0
NOT_ASKED: Final = -1  # in Service.odd: a request that the service does not understand
USERS: Final = 50  # /users/1 to /users/50 exist
PROGRAMS: Final = ROOT / "build" / "programs"
_PATH: Final = f"{os.environ.get('PATH', '')}:/usr/local/go/bin:/usr/sbin:/sbin"


def program(name: str) -> str:
    """Where a program is. Raises RuntimeError with the remedy."""
    found = shutil.which(name, path=_PATH)
    if found is None:
        raise RuntimeError(f"{name} is missing: run `make setup`")
    return found


def built(name: str) -> str:
    """Where scripts/programs.sh put a program. Raises RuntimeError with the remedy."""
    path = PROGRAMS / name
    if not path.exists():
        raise RuntimeError(f"{path} is missing: run scripts/programs.sh")
    return str(path)


def clean_environment() -> dict[str, str]:
    """Of a service or client: nothing in it names it, configures telemetry, or sends its requests to a proxy."""
    told = ("OTEL_", "STINGLESS_", "PYTEST_")
    kept = {k: v for k, v in os.environ.items() if not k.startswith(told) and not k.lower().endswith("_proxy")}
    own = {"PYTHONDONTWRITEBYTECODE": "1", "PYTHONUNBUFFERED": "1"}
    return kept | own | {"NODE_PATH": str(PROGRAMS / "node" / "node_modules")}


@dataclass(frozen=True, slots=True)
class Service:
    """command: of (port, empty folder of its own). name: the service.name expected. odd: routes answered otherwise.

    speaks: what clients may talk to it. library: its TLS, "" if its port is plain. hidden: why the agent cannot see it,
    as it has to say. version: a command that prints it.
    """

    label: str
    name: str
    command: Callable[[int, Path], list[str]]
    odd: Mapping[tuple[str, str], int] = field(default_factory=dict)
    sleeps: bool = True  # /slow takes 30 ms
    speaks: tuple[str, ...] = ("HTTP/1",)
    library: str = ""
    hidden: str = ""
    version: tuple[str, ...] = ()

    @property
    def scheme(self) -> str:
        return "https" if self.library else "http"


def files(folder: Path) -> Path:
    """The routes as files, for servers of files."""
    root = folder / "files"
    (root / "users").mkdir(parents=True)
    for name in ("hello", "slow", *(f"users/{i}" for i in range(1, USERS + 1))):
        (root / name).write_text("a file\n")
    (root / "stream").write_bytes(b"x" * (1 << 20))
    return root


def filled(name: str, folder: Path, **words: str) -> str:
    """A file of services/ with these words in the place of their names, and the folder; in the folder."""
    text = (HERE / "services" / name).read_text()
    for word, value in {**words, "FOLDER": str(folder)}.items():
        text = text.replace(word, value)
    (folder / name).write_text(text)
    return str(folder / name)


def _nginx(port: int, folder: Path) -> list[str]:
    return nginx(port, folder, "off", "")


def nginx(port: int, folder: Path, log: str, listen: str) -> list[str]:
    """log: its access log; listen: what else its port is, and directives after it."""
    files(folder)
    configuration = filled("nginx.conf", folder, PORT=str(port), LOG=log, LISTEN=listen)
    return [program("nginx"), "-p", str(folder), "-c", configuration]


def _http_server(port: int, folder: Path) -> list[str]:
    return [sys.executable, "-m", "http.server", "-b", "127.0.0.1", "-d", str(files(folder)), str(port)]


def _gunicorn(port: int, _: Path) -> list[str]:
    app = ["--chdir", str(HERE / "services"), "flaskshop:app"]
    return [str(BIN / "gunicorn"), "-w", "2", "-b", f"127.0.0.1:{port}", "--access-logfile", "-", *app]


def _uvicorn(port: int, _: Path) -> list[str]:
    app = ["--app-dir", str(HERE / "services"), "fastshop:app"]
    return [str(BIN / "uvicorn"), "--host", "127.0.0.1", "--port", str(port), "--no-use-colors", *app]


def _node(port: int, _: Path) -> list[str]:
    return [program("node"), str(HERE / "services" / "nodeshop" / "server.js"), str(port)]


def _go(port: int, _: Path) -> list[str]:
    return [built("goshop"), str(port)]


def pypi(name: str) -> tuple[str, ...]:
    """Prints the version of a package."""
    return (sys.executable, "-c", f"from importlib.metadata import version; print(version({name!r}))")


# Servers of files answer a POST before they have read it, and reset: what of the answer arrives is chance.
NO_ECHO: Final = {("POST", "/echo"): NOT_ASKED}
FILES: Final = {("GET", "/boom"): 404, **NO_ECHO}
SERVICES: Final = (
    Service("nginx", "nginx", _nginx, sleeps=False, version=("nginx", "-v")),
    Service("http.server", "http.server", _http_server, FILES, sleeps=False, version=(sys.executable, "--version")),
    Service("gunicorn+flask", "flaskshop", _gunicorn, version=pypi("gunicorn")),
    Service("uvicorn+fastapi", "fastshop", _uvicorn, version=pypi("uvicorn")),
    Service("node", "nodeshop", _node, version=("node", "--version")),
    Service("go", "goshop", _go, version=("go", "version", str(PROGRAMS / "goshop"))),
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
