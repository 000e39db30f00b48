# SPDX-License-Identifier: Apache-2.0
"""What an HTTP/2 exchange costs the agent: records of the `frames` ring, through the Python path, to rows and spans.

Needs no root: the records are made here, as the kernel makes them of a busy server's connections. Prints microseconds
of one core for each exchange, by stage, and exchanges a second.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from struct import Struct
from typing import Final

import numpy as np
from hpack import Encoder

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from exchanges import FixedRegistry

from instrumenter.bpf.abi import Direction, FramesKind
from instrumenter.histogram import exponential
from instrumenter.names import Namer
from instrumenter.protocols.http2_records import FrameRecords
from instrumenter.replay import Recorded
from instrumenter.streams import Streams
from instrumenter.telemetry import Counters

CONNECTIONS: Final = 16
A_CALL: Final = 10  # exchanges whose frames one socket call carries
_RECORD: Final = Struct("<I4xQQIIIIHHBBBBB7x")


def framed(kind: int, flags: int, stream: int, payload: bytes, extra: bytes) -> bytes:
    return len(payload).to_bytes(3) + bytes((kind, flags)) + stream.to_bytes(4) + extra + payload


class Traffic:
    """Records of `exchanges` exchanges, half by half, in calls of A_CALL."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.raw = bytearray()
        self.encoders = [(Encoder(), Encoder()) for _ in range(CONNECTIONS)]
        self.numbers = [[0, 0] for _ in range(CONNECTIONS)]
        self.streams = [1] * CONNECTIONS
        self.now = 1_000_000_000
        for connection in range(CONNECTIONS):
            self._record(connection, FramesKind.BEGIN, 0, 0, bytes(40))

    def _record(self, connection: int, kind: int, half: int, number: int, data: bytes) -> None:
        self.now += 10_000
        head = (48 + len(data), 0x1000 + connection, self.now, number, 1, 7, 8, len(data), 0, kind, 0, half,
                Direction.SERVER, 0)  # fmt: skip
        self.raw += (_RECORD.pack(*head) + data).ljust(-(-(56 + len(data)) // 8) * 8, b"\0")

    def add(self, exchanges: int) -> bytes:
        """So many more."""
        for batch in range(exchanges // A_CALL):
            connection = batch % CONNECTIONS
            streams = range(self.streams[connection], self.streams[connection] + 2 * A_CALL, 2)
            self.streams[connection] += 2 * A_CALL
            for half in (0, 1):
                encoder = self.encoders[connection][half]
                make = self._asked if half == 0 else self._answered
                data = b"".join(make(encoder, stream) for stream in streams)
                for at in range(0, len(data), 2048):
                    number = self.numbers[connection][half]
                    self.numbers[connection][half] += 1
                    self._record(connection, FramesKind.BYTES, half, number, data[at : at + 2048])
        raw, self.raw = bytes(self.raw), bytearray()
        return raw

    def _asked(self, encoder: Encoder, stream: int) -> bytes:
        if self.kind == "grpc":
            fields = [(":method", "POST"), (":scheme", "http"), (":path", "/shop.v1.Basket/Get"),
                      (":authority", "shop:8080"), ("te", "trailers"), ("content-type", "application/grpc"),
                      ("user-agent", "grpc-go/1.71.0")]  # fmt: skip
            data = framed(0, 1, stream, bytes(0), bytes(8) + b"\1\0\0\0")
            return framed(1, 4, stream, encoder.encode(fields), bytes(4)) + data
        path = "/items/1" if self.kind == "same" else f"/items/{stream}"
        fields = [(":method", "GET"), (":scheme", "http"), (":authority", "shop:8080"), (":path", path),
                  ("user-agent", "h2load nghttp2/1.52.0"), ("accept", "*/*")]  # fmt: skip
        if self.kind == "traced":
            fields.append(("traceparent", f"00-{stream + 1:032x}-{stream:016x}-01"))
        return framed(1, 5, stream, encoder.encode(fields), bytes(4))

    def _answered(self, encoder: Encoder, stream: int) -> bytes:
        data = framed(0, int(self.kind != "grpc"), stream, bytes(0), bytes(8) + b"\1\0\0\0")
        if self.kind == "grpc":
            head = framed(
                1, 4, stream, encoder.encode([(":status", "200"), ("content-type", "application/grpc")]), bytes(4)
            )
            return head + data + framed(1, 5, stream, encoder.encode([("grpc-status", "0")]), bytes(4))
        fields = [(":status", "200"), ("server", "nginx"), ("date", "Sat, 21 Nov 2026 14:00:00 GMT"),
                  ("content-type", "text/plain"), ("content-length", "10")]  # fmt: skip
        return framed(1, 4, stream, encoder.encode(fields), bytes(4)) + data


def measure(kind: str, exchanges: int) -> dict[str, float]:
    """Microseconds an exchange: frames alone, rows and counts with them, and with spans."""
    traffic = Traffic(kind)
    raws = [traffic.add(2000) for _ in range(exchanges // 2000)]
    counters = Counters()

    def frames() -> int:
        records = FrameRecords()
        return sum(len(records.take(raw)) for raw in raws)

    def rows() -> int:
        streams = Streams(Recorded.sampling(), exponential(), counters)
        return sum(len(batch.x) for raw in raws for batch in streams.take(raw))

    def spans() -> int:
        streams, namer = Streams(Recorded.sampling(), exponential(), counters), Namer(FixedRegistry(), counters)
        return sum(len(named) for raw in raws for batch in streams.take(raw) for named in namer.batches(batch, 0))

    out = {}
    for name, stage in (("frames", frames), ("rows", rows), ("spans", spans)):
        best = float("inf")
        for _ in range(3):
            began = time.process_time()
            assert stage() == exchanges, stage()
            best = min(best, time.process_time() - began)
        out[name] = best / exchanges * 1e6
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--exchanges", type=int, default=20_000)
    options = parser.parse_args()
    found = {kind: measure(kind, options.exchanges) for kind in ("grpc", "same", "paths", "traced")}
    print(f"{'':8} {'frames':>8} {'+ rows':>8} {'+ spans':>8}  us an exchange        exchanges/s")
    for kind, took in found.items():
        print(f"{kind:8} {took['frames']:8.1f} {took['rows']:8.1f} {took['spans']:8.1f} {1e6 / took['spans']:32,.0f}")
    print(json.dumps({"numpy": np.__version__, "us": found}))


if __name__ == "__main__":
    main()
