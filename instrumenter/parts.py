# SPDX-License-Identifier: Apache-2.0
"""What settings mean to the stages: one small function for each part that agent.py puts together.

In: `Settings`, the host. Out: the stages' own options. The rule: a stage never sees `Settings`, only what is its own.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version

from instrumenter.config import Settings
from instrumenter.discovery.selection import Selection
from instrumenter.enrich.host import Host
from instrumenter.metrics import RedCollector
from instrumenter.model import Resource, Value
from instrumenter.names import NameOptions
from instrumenter.telemetry import Counters, reconcile


def make_selection(settings: Settings) -> Selection:
    chosen = settings.discovery
    return Selection(**{name: getattr(chosen, name) for name in Selection.__dataclass_fields__})


def name_options(settings: Settings) -> NameOptions:
    sampling = settings.sampling
    return NameOptions(
        methods=settings.metrics.known_methods,
        keep_errors=sampling.keep_errors,
        slow_ns=round(sampling.keep_slower_than * 1e9),
    )


def agent_version() -> str:
    try:
        return version("stingless")
    except PackageNotFoundError:
        return "0"


def own_resource(host: Host) -> Resource:
    """The agent's own, for its own metrics."""
    own: dict[str, Value] = {
        "service.name": "stingless",
        "service.version": agent_version(),
        "process.pid": os.getpid(),
    }
    return Resource(tuple(sorted((dict(host.attributes) | own).items())))


def account(counters: Counters, red: RedCollector, name: Callable[[int], str]) -> str:
    """One line: where every exchange of every selected service went."""
    rows = [row for row in reconcile(counters, red.totals(), name) if row.service]
    parts = []
    for exporter in dict.fromkeys(row.exporter for row in rows):
        own = [row for row in rows if row.exporter == exporter]
        seen, sampled, exported = (sum(getattr(r, f) for r in own) for f in ("seen", "sampled_out", "exported"))
        lost = sum(sum(r.lost.values()) for r in own)
        if not exporter:
            return f"exchanges: {seen} counted, no exporter of spans"
        parts.append(f"{exporter}: {exported} exported, {sampled} sampled out, {lost} lost of {seen}")
    return "exchanges: " + ("; ".join(parts) or "none")
