# SPDX-License-Identifier: Apache-2.0
"""What the agent costs and keeps up with on this machine, as root: nginx, an unwatched process, the full rate.

Everything that is compared runs interleaved (without, with, without, with ...), and the best round of each counts, so
that other load disturbs least. nginx has CPU 0 to itself; wrk, the agent and the sink share the last one.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from common import Nginx, Sink, cpu_ns, memory_mb, table, wrk
from running import Agent

LAST_CPU = (os.cpu_count() or 1) - 1
CONNECTIONS = 16
CALLS = 100_000  # pairs of send and recv in one round of an unwatched process
STATS = Path("/proc/sys/kernel/bpf_stats_enabled")
PIPELINE = 16  # requests in one write, so that the load leaves the CPU to nginx
LUA = """\
local whole
init = function(args)
  local one = wrk.format("GET", "/fixed")
  whole = string.rep(one, {depth})
end
request = function() return whole end
"""


def start_agent(nginx: Nginx, sink: Sink, flags: list[str]) -> Agent:
    common = ["--pid", str(nginx.process.pid), "--otlp", sink.url, "--otlp-protocol", "http/protobuf", "--no-live"]
    agent = Agent([*common, "--metrics-interval", "2s", *flags]).ready()
    _pin(agent.pid, LAST_CPU)
    return agent


def _pin(pid: int, cpu: int) -> None:
    for task in Path(f"/proc/{pid}/task").iterdir():
        os.sched_setaffinity(int(task.name), {cpu})


def watched(nginx: Nginx, folder: Path, options: argparse.Namespace) -> list[dict[str, Any]]:
    """CPU of nginx per request, without and with the agent, in turn."""
    rows = []
    for number in range(options.rounds):
        rows.append({"round": number, "agent": "without"} | _load(nginx, options.seconds, None))
        with Sink(folder / f"sink{number}") as sink, start_agent(nginx, sink, options.flags) as agent:
            rows.append({"round": number, "agent": "with"} | _load(nginx, options.seconds, agent))
    return rows


def _load(nginx: Nginx, seconds: float, agent: Agent | None) -> dict[str, Any]:
    wrk(nginx.url("/fixed"), 1, CONNECTIONS, LAST_CPU)
    server, own = cpu_ns(nginx.worker), cpu_ns(agent.pid) if agent else 0
    load = wrk(nginx.url("/fixed"), seconds, CONNECTIONS, LAST_CPU)
    return {
        "req/s": load.rate,
        "server us/req": (cpu_ns(nginx.worker) - server) / load.requests / 1e3,
        "agent us/req": (cpu_ns(agent.pid) - own) / load.requests / 1e3 if agent else None,
        "ready s": agent.ready_s if agent else None,
    }


def socket_calls() -> float:
    """Nanoseconds of CPU of one send or recv in this process, which nobody watches."""
    listener = socket.create_server(("127.0.0.1", 0))
    with listener, socket.create_connection(listener.getsockname()) as left, listener.accept()[0] as right:
        start = time.thread_time_ns()
        for _ in range(CALLS):
            left.send(b"x")
            right.recv(1)
        return (time.thread_time_ns() - start) / (2 * CALLS)


def unwatched(nginx: Nginx, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Added ns per call: by the clock of the process, and by the kernel's own statistics of BPF programs."""
    without, with_agent = [], []
    for number in range(options.rounds):
        without.append(min(socket_calls() for _ in range(3)))
        with Sink(folder / f"un{number}") as sink, start_agent(nginx, sink, options.flags):
            with_agent.append(min(socket_calls() for _ in range(3)))
    before = set(_programs())
    with Sink(folder / "stats") as sink, start_agent(nginx, sink, options.flags), _statistics():
        first = _programs()
        socket_calls()
        second = _programs()
    by_program = {
        f"{second[i]['name']}": {
            "ns/run": round(_grown(first[i], second[i], "run_time_ns") / runs, 1),
            "runs/call": round(runs / (2 * CALLS), 3),
        }
        for i in first
        if i not in before and i in second and (runs := _grown(first[i], second[i], "run_cnt")) > CALLS // 10
    }
    total = sum(p["ns/run"] * p["runs/call"] for p in by_program.values())
    return {
        "ns/call without": min(without),
        "ns/call with": min(with_agent),
        "added ns/call": min(with_agent) - min(without),
        "bpf ns/call": total,
        "programs": by_program,
    }


@contextmanager
def _statistics() -> Iterator[None]:
    """The kernel times every run of a BPF program meanwhile, which costs some ns itself."""
    before = STATS.read_text()
    STATS.write_text("1")
    try:
        yield
    finally:
        STATS.write_text(before)


def _programs() -> dict[int, dict[str, Any]]:
    said = subprocess.run(["bpftool", "-j", "prog", "show"], capture_output=True, check=True).stdout
    return {program["id"]: program for program in json.loads(said)}


def _grown(first: dict[str, Any], second: dict[str, Any], name: str) -> int:
    return int(second.get(name, 0)) - int(first.get(name, 0))


def full_rate(nginx: Nginx, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Pipelined load from nginx's own CPU; the agent has the other one. Everything is reconciled with nginx's count."""
    script = folder / "pipeline.lua"
    script.write_text(LUA.format(depth=PIPELINE))
    with Sink(folder / "full") as sink:
        agent = start_agent(nginx, sink, options.flags)
        before = nginx.requests()
        own, start = cpu_ns(agent.pid), time.monotonic()
        load = wrk(nginx.url("/fixed"), options.seconds, CONNECTIONS, 0, script)
        busy = (cpu_ns(agent.pid) - own) / 1e9 / (time.monotonic() - start)
        now, peak = memory_mb(agent.pid)
        handled = nginx.settled() - before + 1
        code = agent.stop()
        totals = sink.totals()
        unanswered = sink.unanswered()
        counted, spans, lost = int(totals.get("http.server.request.duration", 0)), sink.spans(), sink.losses()
    return {
        "exchanges/s": load.rate,
        "agent cores": busy,
        "nginx": handled,
        "counted": counted,
        "unanswered": unanswered,
        "spans": spans,
        "losses": lost,
        "rss MB": now,
        "peak MB": peak,
        "exit": code,
    }


def report(rows: list[dict[str, Any]], calls: dict[str, Any], full: dict[str, Any]) -> None:
    best = {who: min(r["server us/req"] for r in rows if r["agent"] == who) for who in ("without", "with")}
    print(table(rows))
    ratio = best["with"] / best["without"]
    print(f"nginx, best rounds: {best['without']:.2f} -> {best['with']:.2f} us/req, {ratio:.2f}x")
    print(table([{k: v for k, v in calls.items() if k != "programs"}]))
    for name, cost in calls["programs"].items():
        print(f"  {name}: {cost['ns/run']} ns a run, {cost['runs/call']} runs a call")
    print(table([full]))
    print("native: " + json.dumps({"watched": rows, "best": best, "unwatched": calls, "full": full}))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=4.0, help="of each measured load")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--attach", default="auto", choices=["auto", "fentry", "kprobe", "socket", "tracepoint"])
    options = parser.parse_args()
    options.flags = ["--attach", options.attach]
    if os.geteuid() != 0:
        print("native: needs root", file=sys.stderr)
        return 1
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory(dir="/dev/shm") as name, Nginx(Path(name) / "nginx", port) as nginx:
        folder = Path(name)
        _pin(nginx.worker, 0)
        rows = watched(nginx, folder, options)
        report(rows, unwatched(nginx, folder, options), full_rate(nginx, folder, options))
    return 0


if __name__ == "__main__":
    sys.exit(main())
