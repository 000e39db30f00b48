# SPDX-License-Identifier: Apache-2.0
"""What the agent costs a server, in a virtual machine whose clock is its instruction count: the same on any host.

One CPU, 4 ns an instruction; nginx or a Go server (--seat), plain or with TLS, answers a small body to wrk over 16
kept-alive connections: alone, with traces and metrics of every request, and with metrics only. The sink's CPU is not
the agent's, but costs throughput.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from common import ROOT, Nginx, Sink, cpu_ns, memory_mb, table, wrk
from running import Agent
from seats import SEATS, build, serve

CONNECTIONS = 16
PHASES = {"without": None, "traces+metrics": [], "metrics": ["--no-traces"]}
INTERVAL_S = 10.0  # between exports of metrics; what is measured lasts two, so that they have their true share
SETTLE_S = 3.0  # for the agent's queues to empty, so that all its work is measured
IDLE_MS = 5.0
IDLE_WITHIN_S = 60.0
READY_S = 1200.0  # the guest's clock runs ahead while it waits for files of a busy host
MARK = "overhead: "


def phase(name: str, flags: list[str] | None, options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    with serve(options.seat, folder / "server") as nginx, Sink(folder / "sink") as sink:
        agent = None
        if flags is not None:
            common = [
                "--pid",
                str(nginx.process.pid),
                "--otlp",
                sink.url,
                "--otlp-protocol",
                "http/protobuf",
                "--no-live",
            ]
            agent = Agent(
                [*common, "--metrics-interval", f"{INTERVAL_S:.0f}s", "--attach", options.attach, *flags]
            ).ready(READY_S)
        try:
            row = measure(nginx, agent, options.seconds)
            if agent is not None:
                row |= reconcile(nginx, agent, sink, row.pop("before"))
        finally:
            if agent is not None:
                agent.stop()
    row.pop("before", None)
    return {"phase": name} | row


def measure(nginx: Nginx, agent: Agent | None, seconds: float) -> dict[str, Any]:
    before = nginx.requests()
    wrk(nginx.measured(), 1, CONNECTIONS)  # caches, first exchanges
    idle = idle_ms(agent.pid) if agent else None
    server, own = cpu_ns(nginx.worker), cpu_ns(agent.pid) if agent else 0
    load = wrk(nginx.measured(), seconds, CONNECTIONS)
    server = cpu_ns(nginx.worker) - server
    if agent is not None:
        time.sleep(SETTLE_S)
        own = cpu_ns(agent.pid) - own
    now, peak = memory_mb(agent.pid) if agent else (None, None)
    return {
        "requests": load.requests,
        "errors": load.errors,
        "req/s": load.rate,
        "server us/req": server / load.requests / 1e3,
        "agent us/req": own / load.requests / 1e3 if agent else None,
        "idle ms/s": idle,
        "rss MB": now,
        "peak MB": peak,
        "ready s": agent.ready_s if agent else None,
        "before": before,
    }


def idle_ms(pid: int) -> float:
    """Milliseconds of CPU that the agent takes in a second without load, once what it does after its start is over.

    They are in its cost per request, too. Not below IDLE_MS within IDLE_WITHIN_S: the last value.
    """
    deadline = time.monotonic() + IDLE_WITHIN_S
    while True:
        before, start = cpu_ns(pid), time.monotonic()
        time.sleep(INTERVAL_S)
        idle = (cpu_ns(pid) - before) / 1e6 / (time.monotonic() - start)
        if idle < IDLE_MS or time.monotonic() > deadline:
            return idle


def reconcile(nginx: Nginx, agent: Agent, sink: Sink, before: int) -> dict[str, Any]:
    """Everything nginx handled since the agent was ready, by nginx's own count, against what came out."""
    handled = nginx.settled() - before + 1
    code = agent.stop(within_s=240)
    totals = sink.totals()
    lost = sink.losses()
    return {
        "nginx": handled,
        "counted": int(totals.get("http.server.request.duration", 0)),
        "spans": sink.spans(),
        "lost": sum(lost.values()),
        "exit": code,
        "losses": lost,
    }


def report(rows: list[dict[str, Any]], about: dict[str, Any]) -> None:
    base = rows[0]
    columns = ("nginx", "counted", "spans", "lost")
    shown = [
        {k: v for k, v in row.items() if k not in ("losses", "exit")}
        | {name: row.get(name) for name in columns}
        | {"server x": row["server us/req"] / base["server us/req"], "rate x": row["req/s"] / base["req/s"]}
        for row in rows
    ]
    print(table(shown))
    print(MARK + json.dumps(about | {"rows": rows}))


def guest(options: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory(dir="/run") as folder:
        rows = [phase(name, flags, options, Path(folder) / str(i)) for i, (name, flags) in enumerate(PHASES.items())]
    report(
        rows,
        {
            "seat": options.seat,
            "kernel": Path("/proc/sys/kernel/osrelease").read_text().strip(),
            "attach": options.attach,
        },
    )


def host(options: argparse.Namespace) -> int:
    from vm.guest import Machine, boot, find

    build(options.seat)
    command = f".venv/bin/python benchmarks/overhead.py --guest --seat {options.seat} --attach {options.attach}"
    command += f" --seconds {options.seconds}"
    results = ROOT / "build" / "vm" / f"overhead-{options.seat}-{options.kernel}-{options.attach}"
    done = boot(find(options.kernel), command, results, Machine(cpus=1, counted=True), options.timeout)
    print(done.output, end="")
    print(f"{options.seat}, kernel {options.kernel}, attach {options.attach}: {done.seconds:.0f} s in all")
    return done.exit_code


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--attach", default="fentry", choices=["auto", "fentry", "kprobe", "socket", "tracepoint"])
    parser.add_argument("--seat", default="nginx", choices=SEATS, help="who is measured")
    parser.add_argument("--kernel", default="6.12", help="series in build/kernels")
    parser.add_argument(
        "--seconds", type=float, default=2 * INTERVAL_S - SETTLE_S, help="of the guest's clock, per phase"
    )
    parser.add_argument("--timeout", type=float, default=1500.0, help="seconds of this machine's clock")
    parser.add_argument("--guest", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.guest:
        guest(options)
        return 0
    return host(options)


if __name__ == "__main__":
    sys.exit(main())
