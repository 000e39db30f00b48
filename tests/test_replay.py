# SPDX-License-Identifier: Apache-2.0
"""A recording through the real pipeline: the same spans and counts as live, without root."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from exchanges import SECOND, FixedRegistry, exchange, together
from protocols.kernel_records import KernelHalf, begin
from protocols.wire import frame

from instrumenter.bpf.abi import EVENT
from instrumenter.histogram import exponential
from instrumenter.protocols.http2_events import Half
from instrumenter.recording import Recorder
from instrumenter.records import Exchanges, Records, nothing
from instrumenter.replay import Recorded, describe


class Given:
    """A source of the batches it is given."""

    exhausted = False
    metadata: dict[str, Any] = {}  # noqa: RUF012

    def __init__(self, *batches: Exchanges) -> None:
        self._batches = [Records((batch,), np.empty(0, EVENT), 5 * SECOND) for batch in batches]

    def poll(self, timeout_s: float) -> Records:
        return self._batches.pop(0) if self._batches else nothing(0)

    def wake(self) -> None: ...

    def close(self) -> None: ...


def record(path: Path) -> None:
    """Four exchanges of service-1 and one of a service that is not selected."""
    rows = [exchange(svc=1), exchange(svc=1), exchange(svc=1, status=500, target=b"/pay"), exchange(svc=2)]
    recorder = Recorder(path, Given(together(rows), together([exchange(svc=1, method=b"PUT")])))
    recorder.poll(0)
    recorder.describe(describe({1, 2}, FixedRegistry((1,))))
    recorder.poll(0)
    recorder.close()


def test_spans_and_metrics_of_a_recording(tmp_path: Path) -> None:
    record(tmp_path / "rec")
    code = "import sys; from instrumenter.cli import main; sys.exit(main())"
    arguments = [sys.executable, "-c", code, "replay", str(tmp_path / "rec"), "--console"]
    done = subprocess.run(arguments, env={}, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert "console: 4 exported, 0 sampled out, 0 lost of 4" in done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    spans = Counter((s["service"], s["name"], s["status"]) for s in lines if "trace_id" in s)
    assert spans == {
        ("service-1", "GET /users/*", "unset"): 2,
        ("service-1", "GET /pay", "error"): 1,
        ("service-1", "PUT /users/*", "unset"): 1,
    }
    counts = Counter[int]()
    for metric in lines:
        if metric.get("metric") == "http.server.request.duration":
            counts[metric["attributes"]["http.response.status_code"]] += metric["count"]
    assert counts == {200: 3, 500: 1}


def test_counts_as_the_kernel_does() -> None:
    recorded = Recorded({}, exponential())
    bounds = exponential().duration.bounds
    took = int(bounds[100])  # on the boundary, which belongs to the bucket below
    batch = together([exchange(svc=svc, duration_ns=took) for svc in (1, 1, 3)])
    recorded.count(Records((batch,), np.empty(0, EVENT), 0))
    recorded.count(Records((batch,), np.empty(0, EVENT), 0))
    keys, values = recorded.read_red()
    assert values.shape == (2, 1)
    by_svc = {int(k["svc"]): v[0] for k, v in zip(keys, values, strict=True)}
    assert {svc: int(v["count"]) for svc, v in by_svc.items()} == {1: 4, 3: 2}
    assert int(by_svc[1]["sum_ns"]) == 4 * took
    assert {int(i): int(by_svc[1]["duration"][i]) for i in np.flatnonzero(by_svc[1]["duration"])} == {100: 4}
    recorded.delete_red(keys[:1])
    assert len(recorded.read_red()[0]) == 1


def test_frames_of_a_recording_become_spans(tmp_path: Path) -> None:
    """An HTTP/2 exchange of a selected service, read out of the recorded frames; counted and exported once."""
    asked = frame(1, 5, 1, b"\x82\x86\x84")
    answered = frame(1, 5, 1, b"\x88")
    halves = [KernelHalf(64, half) for half in Half]
    raw = begin(64) + b"".join(halves[0].feed(asked, 10**9) + halves[1].feed(answered, 2 * 10**9))
    recorder = Recorder(tmp_path / "day.rec", Given())
    recorder.write(nothing(5 * SECOND)._replace(frames=raw))
    recorder.describe(describe({1}, FixedRegistry((1,))))
    recorder.close()
    code = "import sys; from instrumenter.cli import main; sys.exit(main())"
    arguments = [sys.executable, "-c", code, "replay", str(tmp_path / "day.rec"), "--console"]
    done = subprocess.run(arguments, env={}, capture_output=True, text=True, timeout=60, check=False)
    spans = [said for line in done.stdout.splitlines() if "trace_id" in (said := json.loads(line))]
    found = [(s["name"], s["duration"], s["attributes"]["http.response.status_code"]) for s in spans]
    assert found == [("GET /", 1.0, 200)], done.stderr
    assert "1 exported, 0 sampled out, 0 lost of 1" in done.stderr
