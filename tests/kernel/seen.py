# SPDX-License-Identifier: Apache-2.0
"""An exchange as a kernel test states it (`Row`) and as the probes gave it (`Seen`), and what must hold of every one.

In: rows of a ring. Out: what harness.py compares. The rule: no field is left out of a comparison silently.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field, fields

import numpy as np
from numpy.typing import NDArray

from instrumenter.bpf.abi import TEXT_SHORT, Direction, Flag, Outcome, Protocol
from instrumenter.config import Settings
from instrumenter.sizes import make_histograms

OFTEN = Flag.FIRST | Flag.SAMPLED | Flag.TRACEPARENT | Flag.IPV6  # checked apart, or depend on earlier tests
COMPLETE, NONE = Outcome.COMPLETE, Flag(0)


@dataclass(frozen=True)
class Row:
    """An exchange as a test states it. `trace`: traceparent as honoured, "" if none."""

    method: str
    target: str
    status: int
    request_bytes: int = 0
    response_bytes: int = 0
    outcome: Outcome = COMPLETE
    flags: Flag = NONE
    host: str = "h"
    version: Protocol = Protocol.HTTP_1_1
    trace: str = ""
    tracestate: str = ""
    agent: str = ""
    full: int | None = None  # length of the target on the wire; None: as kept

    def __repr__(self) -> str:
        """Short: what is as usual is left out."""
        plain = {each.name: each.default for each in fields(self)}
        said = [f"{name}={value!r}" for name, value in vars(self).items() if value != plain[name]]
        return "Row(" + ", ".join(text if len(text) < 60 else text[:57] + "..." for text in said) + ")"


@dataclass(frozen=True)
class Seen:
    """An exchange that came up: its row, and what is compared in other ways."""

    row: Row
    direction: Direction
    x: np.void = field(repr=False)
    local: tuple[str, int] = ("", 0)
    remote: tuple[str, int] = ("", 0)

    def __getattr__(self, name: str) -> int:
        """A field of struct exchange."""
        return int(self.x[name])

    @property
    def first(self) -> bool:
        return bool(self.flags & Flag.FIRST)

    @property
    def sampled(self) -> bool:
        return bool(self.flags & Flag.SAMPLED)


def check_buckets(keys: NDArray[np.void], taken: NDArray[np.void], found: list[Seen]) -> None:
    """Every exchange that the kernel made is in the one bucket that its duration and its sizes belong to."""
    layouts = make_histograms(Settings())
    x = np.array([each.x for each in found], found[0].x.dtype)
    x, taken = x[x["key"]["protocol"] <= Protocol.HTTP_1_1], taken[keys["protocol"] <= Protocol.HTTP_1_1]
    for name, layout, values in (
        ("duration", layouts.duration, x["end_ns"] - x["start_ns"]),
        ("request_size", layouts.size, x["request_bytes"]),
        ("response_size", layouts.size, x["response_bytes"]),
    ):
        counts = taken[name].sum(axis=(0, 1))
        expected = np.bincount(np.searchsorted(layout.bounds, values, side="left"), minlength=len(counts))
        assert counts.tolist() == expected.tolist(), name


def check_times(each: Seen) -> None:
    assert 0 < each.start_ns <= each.end_ns
    assert each.first_ns == 0 or each.start_ns <= each.first_ns <= each.end_ns, each
    assert bool(each.first_ns) or each.row.status == 0, each
    assert each.sampled


def in_order(ring: list[Seen]) -> list[Seen]:
    """Asserts that the exchanges of each connection came up in the order of their requests."""
    last: dict[object, int] = {}
    for each in ring:
        connection = (
            each.connection,
            each.local,
            each.remote,
            int(each.x["key"]["tls"]),
        )  # a socket's memory is soon another's
        before = last.get(connection, each.request_seq)
        assert (each.request_seq - before) & 0xFFFFFFFF < 1 << 31, f"{each.row} came up too late"
        last[connection] = each.request_seq
    return ring


def seen(x: np.void, packed: NDArray[np.uint8]) -> Seen:
    text = packed.tobytes()
    assert len(text) == TEXT_SHORT or x["text_len"] > TEXT_SHORT

    def piece(off: int, name: str) -> str:
        return text[off : off + int(x[f"{name}_len"])].decode("latin-1")

    flags = Flag(int(x["flags"]))
    target = piece(int(x["method_len"]), "target")
    ids = [x[name].tobytes().hex() for name in ("trace_id", "parent_id")]
    row = Row(
        method=piece(0, "method"),
        target=target,
        status=int(x["key"]["status"]),
        request_bytes=int(x["request_bytes"]),
        response_bytes=int(x["response_bytes"]),
        outcome=Outcome(int(x["key"]["outcome"])),
        flags=flags & ~OFTEN,
        host=piece(int(x["host_off"]), "host"),
        version=Protocol(int(x["key"]["protocol"])),
        trace=f"{ids[0]}-{ids[1]}-{int(x['trace_flags']):02x}" if flags & Flag.TRACEPARENT else "",
        tracestate=piece(int(x["state_off"]), "state"),
        agent=piece(int(x["agent_off"]), "agent"),
        full=None if x["target_full"] == len(target) else int(x["target_full"]),
    )
    local, remote = ((address(x[f"{end}_addr"]), int(x[f"{end}_port"])) for end in ("local", "remote"))
    return Seen(row, Direction(int(x["key"]["direction"])), x.copy(), local, remote)


def address(packed: NDArray[np.uint8]) -> str:
    """IPv4-mapped as IPv4."""
    found = ipaddress.IPv6Address(packed.tobytes())
    return str(found.ipv4_mapped or found)
