# SPDX-License-Identifier: Apache-2.0
"""make demo: services that nobody changed, load on them, and the live view; at the end, requests sent against counted.

nginx passes /shop to gunicorn+Flask, which asks uvicorn+FastAPI for prices; beside them python's http.server, Node's
http and, where there is a Go toolchain, Go's net/http. Ends after DEMO_SECONDS (60) or at Ctrl-C, with all it started.
"""

from __future__ import annotations

import http.client
import itertools
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BIN = ROOT / ".venv" / "bin"
START_WITHIN_S = 30.0
COUNT_WITHIN_S = 15.0
STEADY_S = 3.0

FLASK = """\
import json, urllib.request
from flask import Flask, abort
app = Flask(__name__)
@app.get("/shop/items/<int:number>")
def item(number):
    if number % 20 == 7:
        abort(404)
    with urllib.request.urlopen(f"http://127.0.0.1:{PRICES}/prices/{number}", timeout=10) as answer:
        return json.load(answer) | {"item": number}
"""
FASTAPI = """\
import asyncio
from fastapi import FastAPI, HTTPException
app = FastAPI()
@app.get("/prices/{number}")
async def price(number: int) -> dict[str, int]:
    await asyncio.sleep(0.002 if number % 10 else 0.08)
    if number % 33 == 3:
        raise HTTPException(503, "no price now")
    return {"price": number * 100}
"""
NODE = """\
require('http').createServer((q, s) => {
  setTimeout(() => { s.statusCode = q.url.startsWith('/missing') ? 404 : 200; s.end('hello ' + q.url + '\\n'); }, 3);
}).listen(%d, '127.0.0.1');
"""
GO = """\
package main

import (
	"fmt"
	"net/http"
	"os"
)

func main() {
	http.HandleFunc("/stock/", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintln(w, "in stock:", r.URL.Path)
	})
	panic(http.ListenAndServe("127.0.0.1:"+os.Args[1], nil))
}
"""
NGINX = """\
user root; daemon off; worker_processes 1; pid {folder}/nginx.pid; error_log {folder}/nginx.log warn;
events {{ worker_connections 256; }}
http {{
  access_log off;
  client_body_temp_path {folder}/b; proxy_temp_path {folder}/p; fastcgi_temp_path {folder}/f;
  uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
  server {{
    listen 127.0.0.1:{port};
    location / {{ return 200 "welcome\\n"; }}
    location /shop/ {{ proxy_pass http://127.0.0.1:{flask}; }}
  }}
}}
"""


@dataclass(frozen=True, slots=True)
class Service:
    """A sample service. `paths` are asked in turn, `#` being a running number. No paths: only other services ask it.

    name: what the agent will call it.
    """

    name: str
    about: str
    port: int
    command: list[str]
    paths: tuple[str, ...] = ()


def free_ports(n: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(n)]
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


def services(folder: Path) -> list[Service]:
    """Writes the samples into `folder`; those whose program is missing are left out."""
    nginx, flask, prices, static, node, go = free_ports(6)
    (folder / "shop.py").write_text(FLASK.replace("{PRICES}", str(prices)))
    (folder / "prices.py").write_text(FASTAPI)
    (folder / "hello.js").write_text(NODE % node)
    (folder / "nginx.conf").write_text(NGINX.format(folder=folder, port=nginx, flask=flask))
    (folder / "files").mkdir()
    (folder / "files" / "a.txt").write_text("a file\n")
    bind = f"127.0.0.1:{flask}"
    found = [
        Service("prices", "uvicorn and FastAPI, asked by shop", prices,
                [str(BIN / "uvicorn"), "prices:app", "--port", str(prices), "--log-level", "error"]),
        Service("shop", "gunicorn and Flask, behind nginx", flask,
                [str(BIN / "gunicorn"), "shop:app", "-w", "2", "-b", bind, "--log-level", "error"]),
        Service("nginx", "nginx, the proxy of shop", nginx,
                ["nginx", "-p", str(folder), "-c", str(folder / "nginx.conf")], ("/", "/shop/items/#")),
        Service("http.server", "python -m http.server", static,
                [sys.executable, "-m", "http.server", "-b", "127.0.0.1", "-d", str(folder / "files"), str(static)],
                ("/a.txt", "/a.txt", "/none.txt")),
    ]  # fmt: skip
    if shutil.which("node"):
        command = ["node", str(folder / "hello.js")]
        found.append(Service("hello", "Node's http", node, command, ("/users/#/profile", "/missing/#")))
    if binary := _go():
        found.append(Service("stock", "Go's net/http", go, [binary, str(go)], ("/stock/#",)))
    return found


def _go() -> str:
    """The built sample, or nothing where there is no Go. Kept in build/demo: the first build takes a minute."""
    go = shutil.which("go") or shutil.which("/usr/local/go/bin/go")
    if go is None:
        return ""
    folder = ROOT / "build" / "demo"
    source, target = folder / "stock.go", folder / "stock"
    if not (target.exists() and source.exists() and source.read_text() == GO):
        print("demo: building the Go sample", file=sys.stderr)
        folder.mkdir(parents=True, exist_ok=True)
        source.write_text(GO)
        env = os.environ | {"GO111MODULE": "off", "GOCACHE": str(folder / "go-cache")}
        built = subprocess.run([go, "build", "-o", target, source], env=env, capture_output=True, check=False)
        if built.returncode != 0:
            print("demo: the Go sample does not build here; going on without it", file=sys.stderr)
            source.unlink()
            return ""
    return str(target)


class Children:
    """Every process of the demo, each in its own group, ended in the reverse order of their start."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._running: list[subprocess.Popen[bytes]] = []

    def start(self, command: list[str], *, quiet: bool = True) -> subprocess.Popen[bytes]:
        output = subprocess.DEVNULL if quiet else None
        child = subprocess.Popen(
            command,
            cwd=self._folder,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
        self._running.append(child)
        return child

    def end(self) -> None:
        for child in reversed(self._running):
            _signal(child, signal.SIGTERM)
            try:
                child.wait(10)
            except subprocess.TimeoutExpired:
                _signal(child, signal.SIGKILL)
                child.wait()


def _signal(child: subprocess.Popen[bytes], number: signal.Signals) -> None:
    if child.poll() is None:
        os.killpg(child.pid, number)


def wait_port(port: int, child: subprocess.Popen[bytes], label: str) -> None:
    deadline = time.monotonic() + START_WITHIN_S
    while time.monotonic() < deadline:
        if child.poll() is not None:
            raise SystemExit(f"demo: {label} ended with {child.returncode} before it served")
        with socket.socket() as probe:
            probe.settimeout(0.5)
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise SystemExit(f"demo: {label} does not serve on port {port} after {START_WITHIN_S:.0f} s")


def load(service: Service, sent: Counter[str], stop: threading.Event) -> None:
    """About 30 requests a second over one kept-alive connection; only answered requests count as sent."""
    connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=10)
    for number in itertools.count():
        if stop.wait(0.03):
            break
        try:
            connection.request("GET", service.paths[number % len(service.paths)].replace("#", str(number)))
            connection.getresponse().read()
            sent[service.name] += 1
        except (OSError, http.client.HTTPException):
            connection.close()
    connection.close()


def counted(port: int) -> Counter[str]:
    """Requests that the agent counted as received, by service of the demo: from its Prometheus endpoint."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
        text = answer.read().decode()
    found: Counter[str] = Counter()
    for labels, value in re.findall(r"^http_server_request_duration_seconds_count\{([^}]*)\} ([0-9.e+]+)", text, re.M):
        server = re.search(r'server_port="(\d+)"', labels)
        name = re.search(r'(?:service_name|job)="([^"]*)"', labels)
        key = server[1] if server else name[1] if name else ""
        found[key] += int(float(value))
    return found


def introduce(samples: list[Service]) -> None:
    print("demo: sample services, all unmodified, and a little load on them:")
    for service in samples:
        print(f"  {service.name:<12} {service.about}", flush=True)


def summary(samples: list[Service], sent: Counter[str], got: Counter[str]) -> None:
    print(f"\n{'service':<47} {'sent by the demo':>16} {'counted':>8}")
    for service in samples:
        asked = str(sent[service.name]) if service.paths else "-"
        print(f"{service.name:<12} {service.about:<34} {asked:>16} {got[service.name]:>8}")
    if all(sent[service.name] == got[service.name] for service in samples if service.paths):
        print("Every request that was sent was counted.")


def main() -> int:
    if os.geteuid() != 0:
        print("demo: needs root for the agent: sudo make demo", file=sys.stderr)
        return 1
    seconds = float(os.environ.get("DEMO_SECONDS", "60"))
    signal.signal(signal.SIGTERM, lambda *_: (_ for _ in ()).throw(KeyboardInterrupt()))
    sent: Counter[str] = Counter()
    with tempfile.TemporaryDirectory(prefix="stingless-demo-") as name:
        return run(Path(name), seconds, sent)


def run(folder: Path, seconds: float, sent: Counter[str]) -> int:
    children, stop = Children(folder), threading.Event()
    try:
        samples = services(folder)
        for service in samples:
            wait_port(service.port, children.start(service.command), service.name)
        introduce(samples)
        ports = ",".join(str(service.port) for service in samples)
        (endpoint,) = free_ports(1)
        flags = ["--port", ports, "--live", "--prometheus", f"127.0.0.1:{endpoint}"]
        agent = children.start([str(BIN / "stingless"), "run", *flags], quiet=False)
        wait_port(endpoint, agent, "the agent")
        _wait_ready(endpoint, agent)
        threads = [threading.Thread(target=load, args=(s, sent, stop)) for s in samples if s.paths]
        for thread in threads:
            thread.start()
        try:
            agent.wait(seconds)
            print(f"demo: the agent ended with {agent.returncode}", file=sys.stderr)
        except (subprocess.TimeoutExpired, KeyboardInterrupt):
            pass
        stop.set()
        for thread in threads:
            thread.join()
        got = _settled(endpoint) if agent.poll() is None else Counter()
        _signal(agent, signal.SIGTERM)
        code = agent.wait(20)
        summary(samples, sent, got)
        return code
    except KeyboardInterrupt:
        return 130
    finally:
        stop.set()
        children.end()


def _wait_ready(endpoint: int, agent: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_WITHIN_S
    while time.monotonic() < deadline:
        if agent.poll() is not None:
            raise SystemExit(f"demo: the agent ended with {agent.returncode} before it was ready")
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{endpoint}/readyz", timeout=2).close()
            return
        except (urllib.error.URLError, OSError):
            time.sleep(0.05)
    raise SystemExit(f"demo: the agent is not ready after {START_WITHIN_S:.0f} s")


def _settled(endpoint: int) -> Counter[str]:
    """The counts once they stay the same for longer than the endpoint caches them, as the load has stopped."""
    deadline = time.monotonic() + COUNT_WITHIN_S
    got, since = counted(endpoint), time.monotonic()
    while time.monotonic() < min(deadline, since + STEADY_S):
        time.sleep(0.2)
        now = counted(endpoint)
        if now != got:
            got, since = now, time.monotonic()
    return got


if __name__ == "__main__":
    sys.exit(main())
