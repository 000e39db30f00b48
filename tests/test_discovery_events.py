# SPDX-License-Identifier: Apache-2.0
"""The registry and the kernel's events: births, replaced images, deaths, in any order."""

from __future__ import annotations

import shutil
from pathlib import Path

from proc_tree import add_process
from registry_bench import EXEC, EXIT, FORK, SECOND, SEEN, SVC, Bench, event

from instrumenter.bpf.abi import Verdict
from instrumenter.discovery.selection import Selection


def test_exec_is_decided_at_once(tmp_path: Path) -> None:
    add_process(tmp_path, 50, "node /srv/cart/server.js", exe="/usr/bin/node")
    add_process(tmp_path, 51, "otelcol", exe="/usr/bin/otelcol")
    bench = Bench(tmp_path)
    bench.handle(event(EXEC, 50, SVC), event(EXEC, 51, SVC + 1), event(SEEN, 7, SVC + 2))
    assert bench.kernel.procs == {
        50: (SVC, Verdict.WATCH), 51: (SVC + 1, Verdict.IGNORE), 7: (SVC + 2, Verdict.IGNORE),
    }  # fmt: skip
    assert bench.registry.name(SVC) == "cart"
    assert bench.registry.resource(SVC + 1) is None
    assert bench.registry.active() == 0
    assert bench.registry.resource(SVC) is not None
    assert bench.registry.active() == 1  # seen with an exchange


def test_vanished_process_is_named_after_its_event(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.handle(event(EXEC, 50, SVC, filename="/usr/bin/curl", parent=40))
    resource = bench.registry.resource(SVC)
    assert resource is not None
    assert (resource.get("service.name"), resource.get("process.pid")) == ("curl", 50)
    assert resource.get("process.executable.path") == "/usr/bin/curl"
    assert bench.counters.value("discovery.vanished") == 1


def test_process_that_is_just_ending_is_named_after_its_event(tmp_path: Path) -> None:
    add_process(tmp_path, 50, [])  # without exe and command line, and no zombie yet
    bench = Bench(tmp_path, Selection(exe=("*/curl",)))
    bench.handle(event(EXEC, 50, SVC, filename="/usr/bin/curl"))
    assert bench.registry.name(SVC) == "curl"
    assert bench.counters.value("discovery.vanished") == 1


def test_exec_and_exit_in_one_batch_do_not_bring_the_process_back(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.handle(event(EXEC, 50, SVC, filename="/usr/bin/curl"), event(EXIT, 50, SVC))
    assert bench.kernel.told == []
    assert bench.registry.name(SVC) == "curl"


def test_verdict_that_came_after_the_end_is_taken_back(tmp_path: Path) -> None:
    add_process(tmp_path, 50, "curl x", exe="/usr/bin/curl")
    bench = Bench(tmp_path)
    bench.handle(event(EXEC, 50, SVC, time_ns=99 * SECOND))  # decided at 100 s
    assert 50 in bench.kernel.procs
    bench.handle(event(EXIT, 50, SVC, time_ns=100 * SECOND - 1))
    assert bench.kernel.procs == {}


def test_image_that_was_replaced_in_the_same_batch(tmp_path: Path) -> None:
    """sh -c 'exec node ...': the shell's number must not be told again, and /proc shows node already."""
    add_process(tmp_path, 50, "node /srv/cart/server.js", exe="/usr/bin/node")
    bench = Bench(tmp_path)
    bench.handle(event(EXEC, 50, SVC, filename="/bin/sh"), event(EXEC, 50, SVC + 1, filename="/usr/bin/node"))
    assert bench.kernel.told == [(50, SVC + 1, Verdict.WATCH)]
    assert (bench.registry.name(SVC), bench.registry.name(SVC + 1)) == ("sh", "cart")


def test_second_exec_keeps_the_first_ones_history(tmp_path: Path) -> None:
    add_process(tmp_path, 50, "ruby /srv/a.rb", exe="/usr/bin/ruby")
    bench = Bench(tmp_path)
    bench.handle(event(EXEC, 50, SVC))
    shutil.rmtree(tmp_path / "50")
    add_process(tmp_path, 50, "ruby /srv/b.rb", exe="/usr/bin/ruby")
    bench.handle(event(EXEC, 50, SVC + 1))
    assert (bench.registry.name(SVC), bench.registry.name(SVC + 1)) == ("a", "b")
    assert [info.name for info in bench.registry.services()] == ["b"]


def test_fork_before_the_verdict_is_told_again(tmp_path: Path) -> None:
    add_process(tmp_path, 50, "otelcol", exe="/usr/bin/otelcol")
    bench = Bench(tmp_path)
    bench.handle(
        event(EXEC, 50, SVC, time_ns=99 * SECOND),
        event(FORK, 51, SVC, parent=50, time_ns=100 * SECOND - 1),  # copied UNDECIDED
        event(FORK, 52, SVC, parent=50, time_ns=100 * SECOND + 1),  # copied IGNORE
    )
    assert bench.kernel.told == [(50, SVC, Verdict.IGNORE), (51, SVC, Verdict.IGNORE)]


def test_service_outlives_its_last_worker_by_the_grace_period(tmp_path: Path) -> None:
    add_process(tmp_path, 50, "ruby /srv/a.rb", exe="/usr/bin/ruby")
    bench = Bench(tmp_path)
    bench.handle(event(EXEC, 50, SVC), event(FORK, 51, SVC, parent=50))
    assert bench.registry.resource(SVC) is not None
    bench.handle(event(EXIT, 50, SVC))
    bench.pass_time(100)
    assert [info.processes for info in bench.registry.services()] == [1]
    bench.handle(event(EXIT, 51, SVC))
    assert bench.registry.services() == []
    bench.pass_time(59)
    assert bench.registry.name(SVC) == "a"
    bench.pass_time(2)
    assert bench.registry.resource(SVC) is None
    assert len(bench.registry) == 0


def test_idle_images_are_few_and_used_ones_stay(tmp_path: Path) -> None:
    bench = Bench(tmp_path, idle_max=10)
    bench.handle(event(EXEC, 50, SVC, filename="/bin/first"), event(EXIT, 50, SVC))
    assert bench.registry.resource(SVC) is not None  # an exchange of it came
    for n in range(1, 8_001, 1000):
        rows = []
        for svc in range(SVC + n, SVC + n + 1000):
            rows += [event(EXEC, 60, svc, filename="/bin/true"), event(FORK, 61, svc)]
            rows += [event(EXIT, 60, svc), event(EXIT, 61, svc)]
        bench.handle(*rows)
    assert len(bench.registry) == 11
    assert bench.registry.name(SVC) == "first"
    bench.pass_time(61)
    assert len(bench.registry) == 0


def test_ignored_processes_are_forgotten_at_once(tmp_path: Path) -> None:
    bench = Bench(tmp_path, Selection(exe=("nginx",)))
    bench.handle(event(EXEC, 50, SVC, filename="/bin/true"), event(FORK, 51, SVC), event(EXIT, 50, SVC))
    assert len(bench.registry) == 1
    bench.handle(event(EXIT, 51, SVC))
    assert len(bench.registry) == 0
