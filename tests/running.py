# SPDX-License-Identifier: Apache-2.0
"""Runs the agent as its users do, as a process, for kernel tests, benchmarks and the demo.

The rule it protects: every wait has a deadline and shows what the agent said when it passes.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Self

ROOT = Path(__file__).resolve().parents[1]
STINGLESS = ROOT / ".venv" / "bin" / "stingless"
READY = re.compile(r"^stingless: ready in ([0-9.]+) s \(attach=([^,]*), services=(\d+)\)")
READY_WITHIN_S = 180.0  # under emulation
STOP_WITHIN_S = 120.0


def until(condition: Callable[[], bool], what: str, within_s: float = 20.0, every_s: float = 0.02) -> None:
    """Waits for a condition. Raises TimeoutError that names `what`."""
    deadline = time.monotonic() + within_s
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {within_s:.0f} s: {what}")
        time.sleep(every_s)


class Agent:
    """`stingless run FLAGS`. Use as a context manager, or call stop()."""

    def __init__(self, flags: Sequence[str] = (), env: Mapping[str, str] | None = None, command: str = "run") -> None:
        attach = os.environ.get("STINGLESS_ATTACH")
        forced = ["--attach", attach] if attach and command in ("run", "record") and "--attach" not in flags else []
        # What configures the agent comes from the test alone; STINGLESS_ATTACH is passed as the flag.
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("OTEL_", "STINGLESS_"))}
        self.stderr: list[str] = []
        self.stdout: list[str] = []
        self._changed = threading.Condition()
        self.started = time.monotonic()
        self.process = subprocess.Popen(
            [STINGLESS, command, *forced, *flags],
            env=clean | dict(env or {}),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
        )
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        self._readers = [
            threading.Thread(target=self._read, args=pair, name="agent-output", daemon=True)
            for pair in ((self.process.stdout, self.stdout), (self.process.stderr, self.stderr))
        ]
        for reader in self._readers:
            reader.start()

    def _read(self, stream: IO[str], lines: list[str]) -> None:
        with stream:
            for line in stream:
                with self._changed:
                    lines.append(line.rstrip("\n"))
                    self._changed.notify_all()
        with self._changed:
            self._changed.notify_all()

    @property
    def pid(self) -> int:
        return self.process.pid

    def wait_stderr(self, pattern: str | re.Pattern[str], within_s: float = 20.0) -> re.Match[str]:
        """The first line of stderr that matches, seen already or still to come."""
        compiled = re.compile(pattern)
        deadline = time.monotonic() + within_s
        with self._changed:
            while True:
                for line in self.stderr:
                    if found := compiled.search(line):
                        return found
                left = deadline - time.monotonic()
                if left <= 0 or self.process.poll() is not None:
                    raise AssertionError(f"no line like {compiled.pattern!r} from the agent:\n" + self.said())
                self._changed.wait(min(left, 0.2))

    def ready(self, within_s: float = READY_WITHIN_S) -> Self:
        """Waits for the ready line; after it every hook is in place."""
        self.wait_stderr(READY, within_s)
        self.ready_s = time.monotonic() - self.started
        return self

    def stop(self, number: signal.Signals = signal.SIGTERM, within_s: float = STOP_WITHIN_S) -> int:
        """Ends the agent and returns its exit code (negative: the signal it died of)."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        try:
            code = self.process.wait(within_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise AssertionError(f"the agent did not end within {within_s:.0f} s:\n" + self.said()) from None
        for reader in self._readers:
            reader.join(5)
        return code

    def said(self) -> str:
        return "\n".join([f"exit={self.process.poll()}", *self.stderr[-40:]])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        if self.process.poll() is None:
            self.stop()
