# SPDX-License-Identifier: Apache-2.0
"""What settings mean to the stages: one small function for each part that agent.py puts together.

In: `Settings`, the host. Out: the stages' own options. The rule: a stage never sees `Settings`, only what is its own.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable

from instrumenter.config import Settings
from instrumenter.discovery.procfs import ProcFS
from instrumenter.discovery.registry import Registry, SetProcess
from instrumenter.discovery.selection import Selection
from instrumenter.enrich.host import Host
from instrumenter.enrich.resource import ResourceBuilder
from instrumenter.metrics import GRACE_NS
from instrumenter.model import Resource, Value
from instrumenter.names import NameOptions
from instrumenter.telemetry import Counters

log = logging.getLogger("stingless")


def make_selection(settings: Settings, proc: ProcFS) -> Selection:
    """Says which of the chosen processes are not there."""
    chosen = settings.discovery
    for pid in chosen.pids:
        if proc.stat(pid) is None:
            log.warning("--pid %d: there is no such process, so nothing is watched for it", pid)
    return Selection(**{name: getattr(chosen, name) for name in Selection.__dataclass_fields__})


def name_options(settings: Settings) -> NameOptions:
    sampling = settings.sampling
    return NameOptions(
        methods=settings.metrics.known_methods,
        keep_errors=sampling.keep_errors,
        slow_ns=round(sampling.keep_slower_than * 1e9),
        parent_rule=settings.debug_parents,
    )


def agent_version() -> str:
    """Of the installed distribution, "0" if it is not installed."""
    from importlib.metadata import PackageNotFoundError, version

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


def make_registry(
    settings: Settings, selection: Selection, host: Host,
    set_process: SetProcess, delete_process: Callable[[int], object], counters: Counters,
) -> Registry:  # fmt: skip
    builder = ResourceBuilder(host, agent_version(), settings.resource_attributes)
    return Registry(
        selection, ProcFS(), set_process, counters, builder,
        service_name=settings.discovery.service_name, delete_process=delete_process,
        grace_s=GRACE_NS / 1e9 + 2 * settings.metrics.interval,
    )  # fmt: skip
