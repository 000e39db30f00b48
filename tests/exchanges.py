# SPDX-License-Identifier: Apache-2.0
"""Exchange records for tests and benchmarks: one at a time by what differs from a plain request, or many of a mix.

In: keyword arguments or a seed. Out: what `source` hands on. The one rule: bytes as the kernel writes them, laid out
as probes/include/abi.h says.
"""

from __future__ import annotations

import ipaddress
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from instrumenter.bpf.abi import EXCHANGE, TEXT_LONG, TEXT_SHORT, Direction, Flag, Outcome, Protocol
from instrumenter.model import Resource
from instrumenter.records import Exchanges
from instrumenter.routes import template
from instrumenter.semantics import METHODS

SECOND = 1_000_000_000
START = 1000 * SECOND


class FixedRegistry:
    """A registry that selects the given services only."""

    def __init__(self, selected: Sequence[int] = tuple(range(1, 11))) -> None:
        self._resources = {svc: _resource(svc) for svc in selected}

    def resource(self, svc: int) -> Resource | None:
        return self._resources.get(svc)


def _resource(svc: int) -> Resource:
    return Resource(
        (
            ("host.name", "node-1"),
            ("process.executable.path", "/usr/bin/python3.11"),
            ("process.pid", 4000 + svc),
            ("service.instance.id", f"node-1:{4000 + svc}"),
            ("service.name", f"service-{svc}"),
            ("telemetry.sdk.language", "python"),
            ("telemetry.sdk.name", "stingless"),
        )
    )


def packed(address: str) -> bytes:
    """16 bytes in network order, IPv4 as IPv4-mapped."""
    ip = ipaddress.ip_address(address)
    return ip.packed if ip.version == 6 else b"\0" * 10 + b"\xff\xff" + ip.packed


def route_hash(target: bytes) -> int:
    """Stands for the kernel's hash: equal templates, equal numbers, never 0."""
    return zlib.crc32(template(target).encode()) + 1


def exchange(
    *,
    method: bytes = b"GET",
    target: bytes = b"/users/12345",
    host: bytes = b"shop.example:8080",
    agent: bytes = b"curl/8.5.0",
    state: bytes = b"",
    status: int = 200,
    direction: Direction = Direction.SERVER,
    outcome: Outcome = Outcome.COMPLETE,
    protocol: Protocol = Protocol.HTTP_1_1,
    svc: int = 1,
    tls: int = 0,
    tls_version: int = 0,
    route: int | None = None,
    flags: Flag = Flag.SAMPLED,
    local: tuple[str, int] = ("10.0.0.2", 8080),
    remote: tuple[str, int] = ("192.0.2.7", 51234),
    duration_ns: int = 2_000_000,
    first_ns: int | None = 1_000_000,
    request_bytes: int = 0,
    response_bytes: int = 512,
    trace_id: bytes = bytes(range(1, 17)),
    span_id: bytes = bytes(range(1, 9)),
    parent_id: bytes = bytes(8),
    text_size: int | None = None,
) -> Exchanges:
    """One exchange. first_ns: after the start, None: no response; text_size: of the ring, None: the one it fits in."""
    x = np.zeros(1, EXCHANGE)
    r, token = x[0], method.decode("latin-1")
    peer = zlib.crc32(host) if direction == Direction.CLIENT and not flags & Flag.SERVER_NAME else 0
    number = METHODS.index(token) + 1 if token in METHODS else 0
    route = route_hash(target) if route is None else route
    r["key"] = (route, svc, peer, status, number, protocol, direction, outcome, tls, 0)
    r["start_ns"], r["end_ns"] = START, START + duration_ns
    r["first_ns"] = 0 if first_ns is None else START + first_ns
    r["request_bytes"], r["response_bytes"] = request_bytes, response_bytes
    for name, value in (
        ("trace_id", trace_id), ("span_id", span_id), ("parent_id", parent_id),
        ("local_addr", packed(local[0])), ("remote_addr", packed(remote[0])),
    ):  # fmt: skip
        r[name] = np.frombuffer(value, np.uint8)
    r["local_port"], r["remote_port"], r["flags"], r["trace_flags"] = local[1], remote[1], flags, 1
    r["tls_version"] = tls_version
    return Exchanges(x, _texts(r, (method, target, host, agent, state), text_size))


def _texts(r: Any, texts: tuple[bytes, bytes, bytes, bytes, bytes], text_size: int | None) -> NDArray[np.uint8]:
    """The texts as the kernel lays them out, their lengths and places put into the record."""
    at = 0
    for name, part in zip(("method", "target", "host", "agent", "state"), texts, strict=True):
        r[f"{name}_len"] = len(part)
        if name in ("host", "agent", "state"):
            r[f"{name}_off"] = at
        at += len(part)
    text = b"".join(texts)
    r["target_full"], r["text_len"] = len(texts[1]), len(text)
    size = text_size or (TEXT_SHORT if len(text) <= TEXT_SHORT else TEXT_LONG)
    room = np.full((1, size), 0xEE, np.uint8)  # what is behind the text is not zero
    room[0, : min(len(text), size)] = np.frombuffer(text, np.uint8)[:size]
    return room


def together(parts: Sequence[Exchanges]) -> Exchanges:
    """One batch of exchanges of the same ring."""
    return Exchanges(np.concatenate([p.x for p in parts]), np.concatenate([p.text for p in parts]))


AGENTS = (
    b"curl/8.5.0",
    b"python-requests/2.32.3",
    b"Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0.0.0",
    b"Go-http-client/1.1",
)


def mix(rows: int, seed: int = 1, diverse: bool = False) -> Exchanges:
    """A realistic mix: 10 services, 50 routes, unique paths, a fifth with a query, a fifth clients.

    diverse: texts, addresses, sizes and statuses of every row are its own.
    """
    rng = np.random.default_rng(seed)
    parts = [_one_of_mix(rng, i, diverse) for i in range(rows)]
    batch = together(parts)
    batch.x["trace_id"] = rng.integers(1, 256, (rows, 16), dtype=np.uint8)
    batch.x["span_id"] = rng.integers(1, 256, (rows, 8), dtype=np.uint8)
    with_parent = rng.random(rows) < 0.5
    batch.x["parent_id"][with_parent] = rng.integers(1, 256, (int(with_parent.sum()), 8), dtype=np.uint8)
    return batch


def _one_of_mix(rng: np.random.Generator, row: int, diverse: bool) -> Exchanges:
    svc = int(rng.integers(1, 11))
    client = rng.random() < 0.2
    target = b"/api/v%d/%s/%d" % (
        svc,
        (b"users", b"orders", b"carts", b"items", b"sessions")[row % 5],
        rng.integers(10**6),
    )
    if rng.random() < 0.2:
        target += b"?page=%d&sort=name" % rng.integers(100)
    agent, host = AGENTS[row % 4], b"service-%d.shop.svc.cluster.local:8080" % svc
    remote = (f"10.2.{rng.integers(4)}.{rng.integers(250)}", int(rng.integers(1024, 65536)))
    if diverse:
        target += b"/" + b"x" * int(rng.integers(1, 40))
        agent = rng.bytes(int(rng.integers(1, 20))).hex().encode()
        host = b"h%d.example" % rng.integers(10**6)
        remote = (str(ipaddress.ip_address(int(rng.integers(1, 2**32)))), remote[1])
    return exchange(
        svc=svc,
        method=(b"GET", b"GET", b"GET", b"POST")[row % 4],
        target=target,
        host=host,
        agent=agent,
        status=int(rng.choice([200, 200, 200, 200, 201, 404, 500])),
        direction=Direction.CLIENT if client else Direction.SERVER,
        remote=(f"10.3.0.{svc}", 8080) if client and not diverse else remote,
        local=("10.2.0.9", int(rng.integers(32768, 61000))) if client else ("10.3.0.1", 8080),
        duration_ns=int(rng.lognormal(15, 1.5)) + 2000,
        first_ns=1000 + int(rng.integers(1000)),
        request_bytes=0 if row % 4 else int(rng.integers(3000)),
        response_bytes=int(rng.lognormal(7, 2)),
        text_size=TEXT_SHORT,
    )
