# SPDX-License-Identifier: Apache-2.0
"""What both benchmarks use: nginx, wrk, a cheap OTLP sink, CPU and memory of processes, and what the sink was given.

The rule it protects: what the agent says is compared with someone else's count: nginx's own, wrk's, the kernel's.
"""

from __future__ import annotations

import gzip
import re
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from running import until  # noqa: E402  (shared with the tests)

NGINX = """\
user root;
worker_processes 1;
daemon off;
pid {folder}/nginx.pid;
error_log {folder}/error.log warn;
events {{ worker_connections 1024; }}
http {{
  access_log off;
  sendfile on;
  tcp_nopush on;
  keepalive_timeout 600s;
  keepalive_requests 1000000000;
  client_body_temp_path {folder}/b; proxy_temp_path {folder}/p; fastcgi_temp_path {folder}/f;
  uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
  server {{
    listen 127.0.0.1:{port} reuseport;
    {more}
    location / {{ root {folder}; }}
    location = /fixed {{ return 200 "a small body, as an API gives\\n"; }}
    location = /status {{ stub_status; }}
  }}
}}
"""


LOSS = re.compile(r"lost|dropped|failed|\bshed")


class Nginx:
    """One worker that serves `/index.html` (a file of 128 bytes), `/fixed` (from memory) and `/status`."""

    def __init__(self, folder: Path, port: int, more: str = "") -> None:
        self.port = port
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "index.html").write_text("x" * 127 + "\n")
        (folder / "nginx.conf").write_text(NGINX.format(folder=folder, port=port, more=more))
        self.process = subprocess.Popen(
            ["nginx", "-p", str(folder), "-c", str(folder / "nginx.conf")], stdin=subprocess.DEVNULL
        )
        until(lambda: self.process.poll() is not None or self._answers(), "nginx answers", 60)
        if self.process.poll() is not None:
            raise SystemExit(f"nginx did not start: {(folder / 'error.log').read_text()}")
        pid = self.process.pid
        self.worker = int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}{path}"

    def measured(self) -> str:
        """The address that is put under load."""
        return self.url("/index.html")

    def _answers(self) -> bool:
        try:
            self.requests()
        except OSError:
            return False
        return True

    def requests(self) -> int:
        """Requests that nginx has handled, this one for its status included."""
        with urllib.request.urlopen(self.url("/status"), timeout=30) as answer:
            return int(answer.read().decode().splitlines()[2].split()[2])

    def settled(self) -> int:
        """Like requests(), once nginx has worked off what wrk left in its sockets; every look is one request more."""
        last = self.requests()
        deadline = time.monotonic() + 30
        while True:
            time.sleep(0.5)
            now = self.requests()
            if now == last + 1 or time.monotonic() > deadline:
                return now
            last = now

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.process.terminate()
        self.process.wait(20)


@dataclass(frozen=True, slots=True)
class Load:
    """What wrk says it did. `errors`: socket errors and timeouts together with answers that are not 2xx or 3xx."""

    requests: int
    seconds: float
    errors: int

    @property
    def rate(self) -> float:
        return self.requests / self.seconds


def wrk(url: str, seconds: float, connections: int, cpu: int | None = None, script: Path | None = None) -> Load:
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds:.0f}s", "--timeout", "30s", url]
    if script is not None:
        command += ["-s", str(script)]
    if cpu is not None:
        command = ["taskset", "-c", str(cpu), *command]
    said = subprocess.run(command, capture_output=True, text=True, check=True, stdin=subprocess.DEVNULL).stdout
    total = re.search(r"(\d+) requests in ([0-9.]+)(ms|s|m)", said)
    assert total is not None, said
    scale = {"ms": 1e-3, "s": 1.0, "m": 60.0}[total[3]]
    wrong = re.search(r"Non-2xx or 3xx responses: (\d+)", said)
    broken = re.search(r"Socket errors: (.*)", said)
    errors = (int(wrong[1]) if wrong else 0) + (sum(map(int, re.findall(r"\d+", broken[1]))) if broken else 0)
    return Load(int(total[1]), float(total[2]) * scale, errors)


class Sink:
    """sink.py as a process; what it got is decoded after the measurement."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        for old in folder.glob("v1_*"):
            old.unlink()
        self.process = subprocess.Popen(
            [sys.executable, str(ROOT / "benchmarks" / "sink.py"), str(folder)], stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        self.url = f"http://127.0.0.1:{int(self.process.stdout.readline())}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.process.terminate()
        self.process.wait(20)

    def write(self) -> None:
        """Has it write all that it holds to its files."""
        with urllib.request.urlopen(f"{self.url}/write", timeout=60):
            pass

    def _bodies(self, name: str) -> Iterator[bytes]:
        self.write()
        path = self.folder / name
        if not path.exists():
            return
        with path.open("rb") as file:
            while head := file.read(4):
                body = file.read(int.from_bytes(head, "big"))
                yield gzip.decompress(body) if body[:2] == b"\x1f\x8b" else body

    def spans(self) -> int:
        from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

        parse: Any = ExportTraceServiceRequest
        return sum(
            len(scope.spans)
            for body in self._bodies("v1_traces")
            for resource in parse.FromString(body).resource_spans
            for scope in resource.scope_spans
        )

    def totals(self) -> dict[str, float]:
        """Per metric name, summed over series: the last cumulative count of histograms, value of sums."""
        totals: dict[str, float] = {}
        for (name, _), value in self._series().items():
            totals[name] = totals.get(name, 0) + value
        return totals

    def unanswered(self) -> int:
        """Requests counted that got no response: pipelined ones, when their connection breaks."""
        return int(
            sum(
                value
                for (name, labels), value in self._series().items()
                if name == "http.server.request.duration" and "http.response.status_code" not in labels
            )
        )

    def losses(self) -> dict[str, float]:
        """The agent's own counters of what is missing, with their attributes, without zeros."""
        found: dict[str, float] = {}
        for (name, labels), value in self._series().items():
            if value and LOSS.search(name):
                key = f"{name}{{{labels}}}"
                found[key] = found.get(key, 0) + value
        return found

    def _series(self) -> dict[tuple[str, str], float]:
        """Last value by (metric, resource and attributes)."""
        from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

        parse: Any = ExportMetricsServiceRequest
        return {
            (metric.name, f"{_service(resource.resource.attributes)}{_labels(point.attributes)}"): _value(point)
            for body in self._bodies("v1_metrics")
            for resource in parse.FromString(body).resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
            for point in getattr(metric, metric.WhichOneof("data")).data_points
        }


def _value(point: Any) -> float:
    return float(point.count if hasattr(point, "count") else point.as_int or point.as_double)


def _labels(attributes: Any) -> str:
    return ",".join(sorted(f"{a.key}={getattr(a.value, a.value.WhichOneof('value'))}" for a in attributes))


def _service(attributes: Any) -> str:
    """What tells resources apart that are the same process: its instance, which is empty for most."""
    return "".join(f"[{a.value.string_value}]" for a in attributes if a.key == "service.instance.id")


def cpu_ns(pid: int) -> int:
    """Nanoseconds of CPU of all threads that live."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks)


def memory_mb(pid: int) -> tuple[float, float]:
    """Resident memory now and at its peak, MB (10^6 bytes)."""
    status = Path(f"/proc/{pid}/status").read_text()
    now, peak = (re.search(rf"{name}:\s+(\d+) kB", status) for name in ("VmRSS", "VmHWM"))
    assert now is not None
    assert peak is not None
    return int(now[1]) * 1024 / 1e6, int(peak[1]) * 1024 / 1e6


def table(rows: list[dict[str, Any]]) -> str:
    """Rows of the same columns as aligned text."""
    heads = list(rows[0])
    return aligned(heads, ([row[head] for head in heads] for row in rows))


def aligned(heads: list[str], rows: Iterable[list[Any]]) -> str:
    cells = [heads, *([_text(value) for value in row] for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(heads))]
    return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in cells)


def _text(value: Any) -> str:
    return "-" if value is None else f"{value:.2f}" if isinstance(value, float) else str(value)
