# SPDX-License-Identifier: Apache-2.0
"""What the agent costs and keeps up with on this machine, as root: nginx, an unwatched process, the full rate.

Everything that is compared runs interleaved (without, with, without, with ...), and the best round of each counts, so
that other load disturbs least. nginx has CPU 0 to itself; wrk, the agent and the sink share the last one. What the
kernel's statistics say of the programs, they say beside empty ones in the same places.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from bpf_time import empty, programs_of, timed
from common import Nginx, Sink, cpu_ns, memory_mb, table, wrk
from running import Agent

LAST_CPU = (os.cpu_count() or 1) - 1
CONNECTIONS = 16
CALLS = 100_000  # pairs of send and recv in one round of an unwatched process
PIPELINE = 16  # requests in one write, so that wrk needs little of the CPU that it shares with the agent
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
    server, own, start = cpu_ns(nginx.worker), cpu_ns(agent.pid) if agent else 0, time.monotonic()
    load = wrk(nginx.url("/fixed"), seconds, CONNECTIONS, LAST_CPU)
    used = cpu_ns(nginx.worker) - server
    return {
        "req/s": load.rate,
        "server us/req": used / load.requests / 1e3,
        "server cores": used / 1e9 / (time.monotonic() - start),
        "agent us/req": (cpu_ns(agent.pid) - own) / load.requests / 1e3 if agent else None,
        "ready s": agent.ready_s if agent else None,
    }


def watched_programs(nginx: Nginx, folder: Path, options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """What the programs take of a request, nginx's and those of wrk, which nobody watches."""
    with Sink(folder / "programs") as sink, start_agent(nginx, sink, options.flags) as agent:
        ours = programs_of(agent.pid)

        def load() -> float:
            return wrk(nginx.url("/fixed"), options.seconds, CONNECTIONS, LAST_CPU).requests

        measured = timed(load, list(ours))
    return {ours[i]: {"ns/run": ns, "runs": runs} for i, (ns, runs) in measured.items() if runs > 0.1}


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
    by_clock: dict[str, list[float]] = {"without": [], "with": [], "empty": []}
    ran: dict[str, dict[str, float]] = {}
    for number in range(options.rounds):
        by_clock["without"].append(min(socket_calls() for _ in range(3)))
        with Sink(folder / f"un{number}") as sink, start_agent(nginx, sink, options.flags) as agent:
            ours = programs_of(agent.pid)
            by_clock["with"].append(min(socket_calls() for _ in range(3)))
            often = [ours[i] for i, (_, runs) in timed(_calls, list(ours)).items() if runs > 0.1]
            with empty(often, folder) as places:
                _least(ran, timed(_calls, [*ours, *places]), ours, places)
        with empty(often, folder):
            by_clock["empty"].append(min(socket_calls() for _ in range(3)))
    best = {who: min(values) for who, values in by_clock.items()}
    return {
        "ns/call without": best["without"],
        "added by the agent": best["with"] - best["without"],
        "added by empty programs": best["empty"] - best["without"],
        "bpf ns/call": sum(p["ns/run"] * p["runs"] for p in ran.values()),
        "of empty programs": sum(p["empty ns/run"] * p["runs"] for p in ran.values()),
        "programs": ran,
    }


def _calls() -> float:
    socket_calls()
    return 2.0 * CALLS


def _least(
    ran: dict[str, dict[str, float]],
    measured: dict[int, tuple[float, float]],
    ours: dict[int, str],
    places: dict[int, str],
) -> None:
    """Keeps the round in which each program took least, and the empty one in its place."""
    for i, program in places.items():
        own = next(j for j, name in ours.items() if name == program)
        new = {"ns/run": measured[own][0], "runs": measured[own][1], "empty ns/run": measured[i][0]}
        if program not in ran or new["ns/run"] < ran[program]["ns/run"]:
            ran[program] = new


def full_rate(nginx: Nginx, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Pipelined load from the agent's own CPU. Everything is reconciled with what nginx counted.

    When wrk ends, it closes connections on which nginx has read requests that are to be answered. On each, nginx may
    begin one whose response goes to a client that is gone, and one more by which it finds that out: both it has
    counted. The others it drops. The agent counts them all, as requests without an answer.
    """
    script = folder / "pipeline.lua"
    script.write_text(LUA.format(depth=PIPELINE))
    with Sink(folder / "full") as sink:
        agent = start_agent(nginx, sink, options.flags)
        before = nginx.requests()
        own, start = cpu_ns(agent.pid), time.monotonic()
        load = wrk(nginx.url("/fixed"), options.seconds, CONNECTIONS, LAST_CPU, script)
        busy = (cpu_ns(agent.pid) - own) / 1e9 / (time.monotonic() - start)
        now, peak = memory_mb(agent.pid)
        handled = nginx.settled() - before + 1
        code = agent.stop()
        totals = sink.totals()
        unanswered = sink.unanswered()
        counted, spans, lost = int(totals.get("http.server.request.duration", 0)), sink.spans(), sink.losses()
    begun = handled - (counted - unanswered)  # of those without an answer, what nginx has counted
    return {
        "exchanges/s": load.rate,
        "agent cores": busy,
        "nginx": handled,
        "counted": counted,
        "unanswered": unanswered,
        "begun": begun,
        "exact": not begun or (unanswered > 0 and 0 < begun <= 2 * CONNECTIONS),
        "spans": spans,
        "losses": lost,
        "rss MB": now,
        "peak MB": peak,
        "exit": code,
    }


def report(rows: list[dict[str, Any]], programs: dict[str, Any], calls: dict[str, Any], full: dict[str, Any]) -> None:
    best = {who: min(r["server us/req"] for r in rows if r["agent"] == who) for who in ("without", "with")}
    print(table(rows))
    ratio = best["with"] / best["without"]
    print(f"nginx, best rounds: {best['without']:.2f} -> {best['with']:.2f} us/req, {ratio:.2f}x")
    print(table([{"program": name} | cost for name, cost in programs.items()]))
    print(table([{k: v for k, v in calls.items() if k != "programs"}]))
    print(table([{"program": name} | cost for name, cost in calls["programs"].items()]))
    print(table([full]))
    found = {"watched": rows, "best": best, "programs": programs, "unwatched": calls, "full": full}
    print("native: " + json.dumps(found))


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
        rows, programs = watched(nginx, folder, options), watched_programs(nginx, folder, options)
        report(rows, programs, unwatched(nginx, folder, options), full_rate(nginx, folder, options))
    return 0


if __name__ == "__main__":
    sys.exit(main())
