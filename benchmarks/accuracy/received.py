# SPDX-License-Identifier: Apache-2.0
"""What the tracer has exported so far, and the tracer's process.

In: the files that benchmarks/sink.py writes when asked. Out: spans, those that came since the last look or all; and
the wait for those that are still to come.
"""

from __future__ import annotations

import gzip
import shlex
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Self

from common import Sink
from truth.launch import clean_environment

from accuracy.spans import Span, spans_of

STOP_WITHIN_S = 60.0


class Received:
    """All spans of a sink. poll() reads what has come since."""

    def __init__(self, sink: Sink) -> None:
        self.spans: list[Span] = []
        self._sink = sink
        self._path = sink.folder / "v1_traces"
        self._at = 0

    def poll(self) -> list[Span]:
        new = [span for body in self._bodies() for span in spans_of(body)]
        self.spans += new
        return new

    def _bodies(self) -> Iterator[bytes]:
        """Whole bodies only: the last may still be being written."""
        self._sink.write()
        if not self._path.exists():
            return
        with self._path.open("rb") as file:
            file.seek(self._at)
            while len(head := file.read(4)) == 4:
                length = int.from_bytes(head, "big")
                body = file.read(length)
                if len(body) < length:
                    return
                self._at += 4 + length
                yield gzip.decompress(body) if body[:2] == b"\x1f\x8b" else body

    def wait(self, wanted: Callable[[Span], bool], count: int, quiet_s: float) -> None:
        """Until so many of the wanted spans have come, or none came for quiet_s."""
        last = time.monotonic()
        came = sum(map(wanted, self.spans))
        while came < count and time.monotonic() - last < quiet_s:
            if new := self.poll():
                last = time.monotonic()
                came += sum(map(wanted, new))
            time.sleep(0.1)


class Tracer:
    """The command of a tracer. `{otlp}` is the sink's address, `{ports}` those that the services listen on (a list).

    The address is also in OTEL_EXPORTER_OTLP_ENDPOINT, with the protocol http/protobuf.
    """

    def __init__(self, template: str, otlp: str, ports: str, log: Path) -> None:
        variables = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": otlp,
            "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
            "OTEL_BSP_SCHEDULE_DELAY": "1000",
        }
        self.log = log
        self.code: int | None = None
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                shlex.split(template.replace("{otlp}", otlp).replace("{ports}", ports)),
                env=clean_environment() | variables, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
            )  # fmt: skip

    def ended(self) -> bool:
        return self.process.poll() is not None

    def stop(self) -> int:
        """Its exit code; negative if it had to be killed or died of a signal."""
        if not self.ended():
            self.process.send_signal(signal.SIGTERM)
        try:
            self.code = self.process.wait(STOP_WITHIN_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.code = self.process.wait()
        return self.code

    def said(self) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-20:])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
