# SPDX-License-Identifier: Apache-2.0
"""The last lines of a run: where every exchange went, and for which service that does not add up.

In: counters and the kernel's counts, when nothing moves any more. Out: log lines. The rule: seen = exported + sampled
out + lost, for every service at every exporter; what breaks it is said aloud, never rounded away.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping

from instrumenter.telemetry import Counters, Reconciled, Seen, reconcile

log = logging.getLogger("stingless")


def report(counters: Counters, seen: Mapping[str, Seen], name: Callable[[int], str]) -> None:
    """Log the account. seen: `RedCollector.totals()` of a last read; name: svc -> service.name."""
    rows = reconcile(counters, seen, name)
    log.info("%s", closing_line(rows))
    for line in discrepancies(rows):
        log.warning("%s", line)


def closing_line(rows: Iterable[Reconciled]) -> str:
    """One line: what became of every exchange of the selected services, by exporter."""
    parts, other = [], 0
    exporters: dict[str, list[Reconciled]] = {}
    for row in rows:
        if row.service:
            exporters.setdefault(row.exporter, []).append(row)
        else:
            other = max(other, row.seen)
    for exporter, own in exporters.items():
        seen, sampled = sum(r.seen for r in own), sum(r.sampled_out for r in own)
        exported, lost = sum(r.exported for r in own), _lost(own)
        if not exporter and not exported:
            parts.append(f"{seen} counted, none exported (no exporter of spans), {_reasons(lost)} of {seen}")
        else:
            parts.append(f"{exporter}: {exported} exported, {sampled} sampled out, {_reasons(lost)} of {seen}")
    left_out = f"; {other} more of processes that are not selected" if other else ""
    return "exchanges: " + ("; ".join(parts) or "none") + left_out


def discrepancies(rows: Iterable[Reconciled]) -> list[str]:
    """A line for each account that does not close."""
    return [
        f"the account of {row.service or 'processes that are not selected'}"
        f"{f' at {row.exporter}' if row.exporter else ''} does not close: {row.seen} seen, {row.exported} exported, "
        f"{row.sampled_out} sampled out, {_reasons(_lost([row]))}, {row.in_flight} under way: {row.difference:+d}"
        for row in rows
        if row.difference or row.in_flight
    ]


def _lost(rows: Iterable[Reconciled]) -> dict[str, int]:
    total: dict[str, int] = {}
    for row in rows:
        for reason, amount in row.lost.items():
            total[reason] = total.get(reason, 0) + amount
    return total


def _reasons(lost: Mapping[str, int]) -> str:
    why = ", ".join(f"{reason} {amount}" for reason, amount in lost.items())
    return f"{sum(lost.values())} lost" + (f" ({why})" if why else "")
