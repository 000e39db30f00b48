# SPDX-License-Identifier: Apache-2.0
"""The agent's own counters: every drop anywhere in the flow has exactly one name here, and one sentence.

In: `add()` from every stage, absolute kernel losses from the loss map. Out: the agent's own metrics and
`reconcile()`. The rule it protects: seen = exported + sampled out + lost, per service, to the last exchange.

Where a stage knows the kernel's service number it counts with `svc=`; past `names`, where only resources are left,
with the label `service=` (`tally()` makes the pairs of a batch). `reconcile()` folds both by the service's name.
Exporters add `exporter=`, so that two of them do not look like one that sent everything twice.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import numpy as np

from instrumenter.model import Attributes, Spans


class Meaning(NamedTuple):
    """What one counter means and how it is exported: the metric's name, unit and the attributes that set it apart."""

    sentence: str
    metric: str
    unit: str
    attributes: Attributes = ()


# Kernel losses by enum loss of probes/include/abi.h. Reasons 11 and 12 take nothing from the reconciliation.
LOSS_NAMES: Final[Mapping[int, str]] = {
    1: "ring_full",
    2: "red_full",
    3: "connections_full",
    4: "pipeline_full",
    5: "unreadable",
    6: "gap",
    7: "malformed",
    8: "event_full",
    9: "processes_full",
    10: "return_missed",
    11: "series_folded",
    12: "unanswered_response",
    13: "tls_unlinked",
    14: "tls_ambiguous",
    15: "frames_full",
    16: "tls_preempted",
}  # fmt: skip

_KERNEL: Final[Mapping[str, str]] = {
    "ring_full": "The exchange was counted, but its record found no room in the ring: raise the ring's size.",
    "red_full": "The exchange found no room in the metric map, not even under its service's `other` key.",
    "connections_full": "A connection was not tracked because the map of connections was full.",
    "pipeline_full": "A pipelined request was not held because the map of waiting requests was full.",
    "unreadable": "Bytes of a head, or of what may begin one, could not be read from the process's memory.",
    "gap": "Bytes passed unseen where a message's head was expected; the connection was picked up again later.",
    "malformed": "Bytes on a connection that spoke HTTP were not HTTP.",
    "event_full": "A process event found no room in the ring; the process is found by the next scan instead.",
    "processes_full": "A process was not tracked because the map of processes was full.",
    "return_missed": "A return probe did not fire, so what one socket call moved was not seen.",
    "series_folded": "Not a loss: the exchange was counted under `other` because its service has too many metric keys.",
    "frames_full": "Frames of an HTTP/2 connection found no room in the ring; what they said of it is unknown.",
    "unanswered_response": "A response was seen without its request: the agent attached in the middle of the exchange.",
    "tls_unlinked": "Plaintext of a TLS connection was seen, but not on which socket it goes; once per connection.",
    "tls_ambiguous": "Signs of two TLS objects for one socket were seen, so neither was believed.",
    "tls_preempted": "Plaintext passed in a call of a TLS library while the probes' work space of its CPU was in use.",
}

_SPANS_DROPPED: Final[Mapping[str, str]] = {
    "unselected": "The exchange belonged to a process that the selection leaves out; its record went no further.",
    "unnamed": "The exchange could not be turned into a span because its record made no sense.",
    "queue_full": "The span found the exporter's bounded queue full: the receiver is too slow, or too far away.",
    "export_failed": "The span was given up after the receiver failed, refused it for good, or retries ran out.",
    "rejected": "The receiver took the request but rejected the span (OTLP partial success).",
    "shutdown": "The span was still unsent when the time to drain at shutdown had passed.",
    "too_large": "The span alone was larger than the largest request that may be sent.",
}

# name -> (sentence, unit); the exported metric is "stingless." + name.
_OTHERS: Final[Mapping[str, tuple[str, str]]] = {
    "exchanges.received": ("Exchanges read from the kernel's rings.", "{exchange}"),
    "exchanges.taught": ("Exchanges that came up only to teach labels; no span was asked of them.", "{exchange}"),
    "exchanges.unlabelled": ("Exchanges counted whose labels no record has taught yet: not exported.", "{exchange}"),
    "http2.unanswered": ("HTTP/2 responses that ended whose request was not seen.", "{exchange}"),
    "http2.undecodable": ("HTTP/2 field blocks that did not fit what was known of their encoder's table.", "{block}"),
    "http2.nameless": ("HTTP/2 requests whose method or path is unknown.", "{exchange}"),
    "http2.gaps": ("Times that frames of a half of an HTTP/2 connection passed unseen or were lost.", "{gap}"),
    "http2.streams_evicted": ("HTTP/2 streams given up as their connection had too many.", "{exchange}"),
    "http2.connections_evicted": ("HTTP/2 connections given up as there were too many.", "{connection}"),
    "http2.unfollowed": ("Records of HTTP/2 connections that are followed no longer.", "{record}"),
    "events.received": ("Process events read from the kernel's ring.", "{event}"),
    "events.failed": ("Process events that met a fault of the agent.", "{event}"),
    "records.malformed": ("Exchanges that met a fault of the agent while it made spans of them.", "{exchange}"),
    "spans.created": ("Spans made of exchanges.", "{span}"),
    "spans.exported": ("Spans that a receiver took.", "{span}"),
    "spans.in_flight": ("Spans now queued or on their way to a receiver.", "{span}"),
    "spans.tracestate_invalid": ("Spans whose tracestate was dropped because it was not printable ASCII.", "{span}"),
    "spans.parents": ("Spans made, by the `rule` that chose their parent.", "{span}"),
    "metrics.exported": ("Metric points that a receiver took.", "{data_point}"),
    "metrics.export_failed": ("Metric points given up; the next snapshot holds their counts.", "{data_point}"),
    "metrics.rejected": ("Metric points that a receiver rejected (OTLP partial success).", "{data_point}"),
    "metrics.queue_full": ("Metric points replaced unsent by a newer snapshot with their counts.", "{data_point}"),
    "metrics.scrapes": ("Scrapes that the Prometheus endpoint answered.", "{request}"),
    "export.requests": ("Requests sent to receivers, retries included.", "{request}"),
    "export.retries": ("Requests sent again after a failure that may pass.", "{request}"),
    "export.bytes": ("Bytes sent to receivers, after compression.", "By"),
    "discovery.scans": ("Scans of /proc for processes.", "{scan}"),
    "libraries.skipped": ("Libraries of watched processes that tell nothing, by `reason`; once a file.", "{library}"),
    "probes.missed": ("Runs of a probe that the kernel left out, by `program`.", "{run}"),
    "discovery.vanished": ("Processes that ended before they could be looked at.", "{process}"),
}

GAUGES: Final[frozenset[str]] = frozenset({"spans.in_flight", "exchanges.unlabelled"})


def _meanings() -> dict[str, Meaning]:
    """All counters, by name."""
    table = {
        f"kernel.lost.{reason}": Meaning(text, "stingless.exchanges.lost", "{exchange}", (("reason", reason),))
        for reason, text in _KERNEL.items()
    }
    for reason, text in _SPANS_DROPPED.items():
        table[f"spans.dropped.{reason}"] = Meaning(text, "stingless.spans.dropped", "{span}", (("reason", reason),))
    for name, (text, unit) in _OTHERS.items():
        table[name] = Meaning(text, "stingless." + name, unit)
    return table


MEANINGS: Final[Mapping[str, Meaning]] = _meanings()
SENTENCES: Final[Mapping[str, str]] = {name: meaning.sentence for name, meaning in MEANINGS.items()}


class Key(NamedTuple):
    """What one number is kept under. labels: sorted by key."""

    name: str
    svc: int
    labels: tuple[tuple[str, str], ...]


class Counters:
    """Thread-safe named counters. One lock and one dictionary: call it per batch, not per span."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._values: dict[Key, int] = {}
        self._kernel: dict[tuple[int, int], int] = {}  # last absolute reading of the kernel's loss map

    def add(self, name: str, amount: int = 1, svc: int = 0, **labels: str) -> None:
        """Add `amount` (not negative, except for gauges). KeyError if the name has no sentence."""
        if name not in SENTENCES:
            raise KeyError(name)
        if amount < 0 and name not in GAUGES:
            raise ValueError(f"{name} only grows, got {amount}")
        key = Key(name, svc, tuple(sorted(labels.items())) if labels else ())
        with self._lock:
            self._values[key] = self._values.get(key, 0) + amount

    def add_tally(self, name: str, tally: Iterable[tuple[str, int]], sign: int = 1, **labels: str) -> None:
        """`add` for each (service, amount) of a `tally()`; sign=-1 takes a gauge down again."""
        for service, amount in tally:
            self.add(name, sign * amount, 0, service=service, **labels)

    def add_kernel_losses(self, losses: Mapping[tuple[int, int], int]) -> None:
        """Take a reading of the kernel's loss map: (svc, enum loss) -> count since load, as `read_losses()` gives it.

        The differences to the last reading are added, so a row that the kernel forgot and began again loses nothing.
        """
        with self._lock:
            for (svc, reason), value in losses.items():
                last = self._kernel.get((svc, reason), 0)
                grown = value - last if value >= last else value
                self._kernel[svc, reason] = value
                if grown and reason in LOSS_NAMES:
                    key = Key("kernel.lost." + LOSS_NAMES[reason], svc, ())
                    self._values[key] = self._values.get(key, 0) + grown

    def set_missed(self, missed: Mapping[str, int]) -> None:
        """Take a reading of `Program.missed()`: program -> runs left out since the load."""
        with self._lock:
            for program, runs in missed.items():
                self._values[Key("probes.missed", 0, (("program", program),))] = runs

    def retire(self, svc: int, service: str) -> None:
        """A service number is over: keep its counts under the service's name, so that numbers do not pile up."""
        with self._lock:
            for key in [key for key in self._values if key.svc == svc]:
                kept = Key(key.name, 0, tuple(sorted((dict(key.labels) | {"service": service}).items())))
                self._values[kept] = self._values.get(kept, 0) + self._values.pop(key)

    def value(self, name: str, svc: int | None = None, **labels: str) -> int:
        """Sum of all numbers under `name`, or only of those with this svc and with these labels."""
        if name not in SENTENCES:
            raise KeyError(name)
        wanted = labels.items()
        return sum(
            v for k, v in self.items() if k.name == name and svc in (None, k.svc) and wanted <= dict(k.labels).items()
        )

    def items(self) -> list[tuple[Key, int]]:
        """All numbers, one consistent snapshot."""
        with self._lock:
            return list(self._values.items())


def tally(spans: Spans) -> tuple[tuple[str, int], ...]:
    """How many spans of a batch each service has, for `add_tally`: (service.name, n)."""
    if not len(spans):
        return ()
    one = len(spans.resources) == 1
    counts = [len(spans)] if one else np.bincount(spans.resource, minlength=len(spans.resources)).tolist()
    merged: dict[str, int] = {}
    for resource, n in zip(spans.resources, counts, strict=True):
        if n:
            name = str(resource.get("service.name"))
            merged[name] = merged.get(name, 0) + n
    return tuple(merged.items())


@dataclass(frozen=True, slots=True)
class Seen:
    """What the kernel counted for one service since load: RED `count` and RED `sampled_out`."""

    count: int
    sampled_out: int


@dataclass(frozen=True, slots=True)
class Reconciled:
    """One service's account at one exporter. `lost`: reason -> spans. `difference` is 0 when nothing moves."""

    service: str
    exporter: str
    seen: int
    sampled_out: int
    exported: int
    in_flight: int
    lost: Mapping[str, int] = field(default_factory=dict)

    @property
    def difference(self) -> int:
        """seen - sampled out - exported - in flight - lost; positive: unaccounted for, negative: counted twice."""
        return self.seen - self.sampled_out - self.exported - self.in_flight - sum(self.lost.values())


# Exchanges that are in the RED map, or in `red_full`, and did not become an exported span. Other kernel losses happen
# before an exchange exists, so they are no part of `seen`. An exchange that met `red_full` still goes to the ring: it
# is missing in the metrics only, hence part of `seen` and not of what spans lost.
_LOST_EXCHANGES: Final = {"kernel.lost.ring_full": "ring_full", "records.malformed": "malformed"} | {
    f"spans.dropped.{reason}": reason for reason in _SPANS_DROPPED
}


def reconcile(counters: Counters, seen: Mapping[str, Seen], name: Callable[[int], str]) -> list[Reconciled]:
    """The account of every service, at every exporter of spans: seen = exported + sampled out + lost.

    seen: by service.name, "" for the unselected, from `RedCollector.totals()`; name: svc -> service.name
    (`registry.name`). What happened before the exporters (ring_full, unselected) counts against each of them. An
    exchange that came up only to teach labels was sampled out. Totals are the sums over the rows of one exporter.
    """
    items = counters.items()
    of_spans = [dict(key.labels) for key, _ in items if key.name.startswith("spans.")]
    exporters = sorted({labels["exporter"] for labels in of_spans if "exporter" in labels}) or [""]
    accounts: dict[str, dict[str, int]] = {}

    def book(service: str, column: str, amount: int) -> None:
        account = accounts.setdefault(service, {})
        account[column] = account.get(column, 0) + amount

    for service, counted in seen.items():
        book(service, "seen", counted.count)
        book(service, "sampled_out", counted.sampled_out)
    for key, amount in items:
        labels = dict(key.labels)
        service = labels["service"] if "service" in labels else name(key.svc)
        at = "/" + labels["exporter"] if "exporter" in labels else ""
        if key.name == "kernel.lost.red_full":
            book(service, "seen", amount)
        elif key.name == "exchanges.taught":
            book(service, "sampled_out", amount)
        elif key.name in ("spans.exported", "spans.in_flight"):
            book(service, key.name + at, amount)
        elif key.name in _LOST_EXCHANGES:
            book(service, "lost." + _LOST_EXCHANGES[key.name] + at, amount)
    return [_row(service, exporter, accounts[service]) for exporter in exporters for service in sorted(accounts)]


def _row(service: str, exporter: str, account: Mapping[str, int]) -> Reconciled:
    """One service's account as one exporter sees it: its own columns and those of no exporter."""

    def both(column: str) -> int:
        own = account.get(f"{column}/{exporter}", 0) if exporter else 0
        return account.get(column, 0) + own

    lost = {reason: n for reason in _LOST_EXCHANGES.values() if (n := both("lost." + reason))}
    return Reconciled(
        service, exporter, account.get("seen", 0), account.get("sampled_out", 0),
        both("spans.exported"), both("spans.in_flight"), lost,
    )  # fmt: skip
