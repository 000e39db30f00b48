# SPDX-License-Identifier: Apache-2.0
"""What all of it shares: the `watch` fixture, and which part runs under emulation.

In a virtual machine (STINGLESS_VM=1) only tests marked vm_truth run, of the programs those of matrix.IN_GUESTS and in
test_counts.py nginx and http.server: emulation is ten times slower.
"""

from __future__ import annotations

import platform
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from collector import Collector
from running import READY, Agent

from truth.launch import IN_VM, SERVICES, Running
from truth.ledger import Ledger
from truth.matrix import Row, write


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "vm_truth: ground truth that is also run under emulation")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    left = [i for i in items if IN_VM and i.path.is_relative_to(here) and i.get_closest_marker("vm_truth") is None]
    config.hook.pytest_deselected(items=left)
    items[:] = [item for item in items if item not in left]


LOOKED_WITHIN_S = 60.0


class Watch:
    """An agent that exports to a collector. `ledger` ends it first: exit code 0, and nothing left under way."""

    def __init__(self, *flags: str) -> None:
        self.collector = Collector()
        # An interval longer than any test: what is compared is the one export at the end.
        url = self.collector.http_url
        self.agent = Agent(["--otlp", url, "--otlp-protocol", "http/protobuf", "--metrics-interval", "1h", *flags])

    @property
    def attach(self) -> str:
        """How it was attached, by its own account."""
        return str(self.agent.wait_stderr(READY)[2])

    @property
    def account(self) -> tuple[int, int, int, int]:
        """The closing line of an agent that has ended: exported, sampled out, lost, seen."""
        line = next(line for line in self.agent.stderr if "exchanges: " in line)
        found = re.search(r"otlp: (\d+) exported, (\d+) sampled out, (\d+) lost(?: \(.*?\))? of (\d+)", line)
        assert found, line
        exported, sampled_out, lost, seen = map(int, found.groups())
        return exported, sampled_out, lost, seen

    def looked_at(self, pid: int) -> None:
        """Waits until the probes on the process's files are placed. Told with --log-level debug."""
        self.agent.wait_stderr(rf"process {pid}: TLS visible", LOOKED_WITHIN_S)

    def ledger(self) -> Ledger:
        code = self.agent.stop()
        print(self.agent.said())
        by_reason = self.collector.metric_totals("stingless.exchanges.lost", "stingless.service", "reason")
        print("exchanges.lost:", by_reason)
        assert code == 0
        assert not [line for line in self.agent.stderr if "Traceback" in line]
        return Ledger(self.collector)

    def lost(self, reason: str) -> float:
        """The agent's own counter of this reason, of all services."""
        by_reason = self.collector.metric_totals("stingless.exchanges.lost", "reason")
        return sum(count for key, count in by_reason.items() if reason in key)

    def close(self) -> None:
        try:
            self.agent.stop()
        finally:
            self.collector.stop()


@pytest.fixture
def watch() -> Iterator[Callable[..., Watch]]:
    """`watch(*flags)` starts an agent that is ready when it returns."""
    with ExitStack() as stack:

        def start(*flags: str) -> Watch:
            watching = Watch(*flags)
            stack.callback(watching.close)
            watching.agent.ready()
            return watching

        yield start


@pytest.fixture(scope="session")
def matrix_results() -> Iterator[dict[str, dict[Row, str]]]:
    """By way to attach. Written when all tests have ended."""
    results: dict[str, dict[Row, str]] = {}
    yield results
    for attach, of_rows in results.items():
        write(platform.release(), attach, of_rows)


@pytest.fixture
def record_row(matrix_results: dict[str, dict[Row, str]]) -> Callable[[str, Row, str], None]:
    """`record_row(attach, row, result)`: what is known of a row by now."""

    def record(attach: str, row: Row, result: str) -> None:
        matrix_results.setdefault(attach, {})[row] = result

    return record


@pytest.fixture
def nginx(tmp_path: Path) -> Iterator[Running]:
    with Running(SERVICES[0], tmp_path / "nginx") as running:
        yield running.listening()
