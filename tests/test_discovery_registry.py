# SPDX-License-Identifier: Apache-2.0
"""The registry: a fixture tree or a real child in, events in, verdicts and resources out."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from proc_tree import add_process, python_child

from instrumenter.bpf.abi import EVENT, FIRST_KERNEL_SVC, EventKind, Verdict
from instrumenter.discovery.procfs import Facts, ProcFS
from instrumenter.discovery.registry import Registry
from instrumenter.discovery.selection import Selection
from instrumenter.enrich.host import Host
from instrumenter.enrich.resource import ResourceBuilder
from instrumenter.telemetry import Counters

TREE = Path(__file__).parent / "proc"
SVC = FIRST_KERNEL_SVC
SECOND = 1_000_000_000
PYTHON = "/usr/bin/python3.11"
SPAWNED = "from multiprocessing.spawn import spawn_main; spawn_main(tracker_fd=5, pipe_handle=7)"
EXEC, FORK, EXIT, LISTEN, SEEN = (
    EventKind.EXEC, EventKind.FORK, EventKind.EXIT, EventKind.LISTEN, EventKind.SEEN,
)  # fmt: skip


@dataclass
class Kernel:
    """The map of processes, as the kernel side keeps it, and a clock that only moves when told to."""

    now: int = 100 * SECOND
    procs: dict[int, tuple[int, Verdict]] = field(default_factory=dict)
    told: list[tuple[int, int, Verdict]] = field(default_factory=list)

    def set_process(self, tgid: int, svc: int, verdict: Verdict) -> None:
        self.told.append((tgid, svc, verdict))
        self.procs[tgid] = (svc, verdict)

    def delete_process(self, tgid: int) -> bool:
        return self.procs.pop(tgid, None) is not None

    def clock(self) -> int:
        return self.now


def event(
    kind: EventKind, tgid: int, svc: int, *, parent: int = 1, port: int = 0, time_ns: int = 0, filename: str = ""
) -> tuple[Any, ...]:
    comm = filename.rpartition("/")[2][:15].encode()
    return (time_ns or 200 * SECOND, 0, kind, tgid, parent, svc, port, 0, comm, filename.encode())


def batch(*rows: tuple[Any, ...]) -> NDArray[np.void]:
    return np.array(list(rows), EVENT)


class Bench:
    """A registry over a directory, with the kernel's end in the test's hands."""

    def __init__(self, root: Path, selection: Selection | None = None, **options: Any) -> None:
        self.kernel = Kernel()
        self.counters = Counters()
        self.registry = Registry(
            selection or Selection(), ProcFS(root), self.kernel.set_process, self.counters,
            ResourceBuilder(Host((), "machine", "boot"), "0"), delete_process=self.kernel.delete_process,
            clock_ns=self.kernel.clock, **({"self_pid": 7, "grace_s": 60.0} | options),
        )  # fmt: skip

    def handle(self, *rows: tuple[Any, ...]) -> None:
        self.registry.handle(batch(*rows))

    def pass_time(self, seconds: int) -> None:
        self.kernel.now += seconds * SECOND
        self.handle()


@pytest.fixture
def scanned() -> Bench:
    bench = Bench(TREE)
    bench.registry.scan()
    return bench


def test_scan_decides_on_every_process(scanned: Bench) -> None:
    verdicts = {tgid: verdict.name for tgid, (_, verdict) in scanned.kernel.procs.items()}
    watched = {100, 101, 102, 200, 201, 202, 300, 310, 400}
    assert {tgid for tgid, name in verdicts.items() if name == "WATCH"} == watched
    assert {tgid for tgid, name in verdicts.items() if name == "IGNORE"} == {1, 500}  # init, the collector
    assert all(0 < svc < FIRST_KERNEL_SVC for svc, _ in scanned.kernel.procs.values())
    assert scanned.counters.value("discovery.scans") == 1


def test_workers_share_their_leaders_number(scanned: Bench) -> None:
    svcs = {tgid: svc for tgid, (svc, _) in scanned.kernel.procs.items()}
    assert svcs[100] == svcs[101] == svcs[102]
    assert svcs[200] == svcs[201] == svcs[202]
    assert len(set(svcs.values())) == 7  # five services and the two ignored


def test_services_for_people(scanned: Bench) -> None:
    found = {info.name: info for info in scanned.registry.services()}
    assert sorted(found) == ["cart", "checkout", "files", "nginx", "shop"]
    assert found["shop"].processes == 3
    assert (found["nginx"].ports, found["nginx"].pid) == ((80, 443), 100)
    assert (found["files"].namespace, found["files"].language) == ("web", "python")
    assert scanned.registry.active() == 5


def test_resource_of_a_scanned_service(scanned: Bench) -> None:
    svc = scanned.kernel.procs[400][0]
    resource = scanned.registry.resource(svc)
    assert resource is not None
    assert resource is scanned.registry.resource(svc)
    assert (resource.get("service.name"), resource.get("service.namespace")) == ("files", "web")
    assert resource.get("service.version") == "1.2+dev"
    assert resource.get("process.pid") == 400
    assert scanned.registry.name(svc) == "files"
    nginx = scanned.registry.resource(scanned.kernel.procs[102][0])
    assert nginx is not None
    assert nginx.get("process.command") == "nginx"  # not the whole title
    checkout = scanned.registry.resource(scanned.kernel.procs[300][0])
    assert checkout is not None
    assert len(str(checkout.get("container.id"))) == 64


@pytest.mark.parametrize("svc", [0, 4711, SVC])
def test_unknown_number(scanned: Bench, svc: int) -> None:
    assert scanned.registry.resource(svc) is None
    assert scanned.registry.name(svc) == ""


def test_scan_keeps_the_kernels_numbers() -> None:
    bench = Bench(TREE)
    bench.registry.scan({400: (SVC + 5, 0)})
    assert bench.kernel.procs[400] == (SVC + 5, Verdict.WATCH)
    bench.kernel.told.clear()
    bench.handle(event(EXEC, 400, SVC + 5))
    assert bench.kernel.told == []


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


def test_listening_on_a_selected_port(tmp_path: Path) -> None:
    for pid in (50, 51):
        add_process(tmp_path, pid, "ruby /srv/a.rb", exe="/usr/bin/ruby")
    bench = Bench(tmp_path, Selection(ports=((80, 90),), exclude_ports=((99, 99),)))
    bench.handle(event(EXEC, 50, SVC), event(FORK, 51, SVC, parent=50))
    assert {v for _, v in bench.kernel.procs.values()} == {Verdict.IGNORE}
    bench.handle(event(LISTEN, 50, SVC, port=8080))
    assert bench.registry.resource(SVC) is None
    bench.handle(event(LISTEN, 50, SVC, port=85))
    assert bench.kernel.procs == {50: (SVC, Verdict.WATCH), 51: (SVC, Verdict.WATCH)}
    assert [info.ports for info in bench.registry.services()] == [(85,)]
    bench.handle(event(LISTEN, 50, SVC, port=99))
    assert bench.kernel.procs == {50: (SVC, Verdict.IGNORE), 51: (SVC, Verdict.IGNORE)}
    bench.handle(event(LISTEN, 50, SVC, port=86))  # still listens on 99, too
    assert bench.kernel.procs[50] == (SVC, Verdict.IGNORE)
    assert bench.registry.services() == []


def test_exclusion_undoes_what_the_kernel_set_by_port(tmp_path: Path) -> None:
    add_process(tmp_path, 50, "ruby /srv/a.rb", exe="/usr/bin/ruby")
    bench = Bench(tmp_path, Selection(ports=((80, 80),), exclude_exe=("ruby",)))
    bench.handle(event(EXEC, 50, SVC))
    bench.kernel.procs[50] = (SVC, Verdict.WATCH)  # as the kernel does
    bench.handle(event(LISTEN, 50, SVC, port=80))
    assert bench.kernel.procs[50] == (SVC, Verdict.IGNORE)


def test_inherited_listener_counts_at_exec(tmp_path: Path) -> None:
    """Socket activation: the program never calls listen itself."""
    add_process(tmp_path, 50, "ruby /srv/a.rb", exe="/usr/bin/ruby", listens={80: 4242})
    bench = Bench(tmp_path, Selection(ports=((80, 80),)))
    bench.handle(event(EXEC, 50, SVC))
    assert bench.kernel.procs[50] == (SVC, Verdict.WATCH)


def test_port_selection_at_the_scan() -> None:
    bench = Bench(TREE, Selection(ports=((8000, 8100),)))
    bench.registry.scan()
    watched = {tgid for tgid, (_, verdict) in bench.kernel.procs.items() if verdict == Verdict.WATCH}
    assert watched == {200, 201, 202, 300}


def test_selected_pid_and_its_descendants(tmp_path: Path) -> None:
    add_process(tmp_path, 50, "make serve", exe="/usr/bin/make")
    bench = Bench(tmp_path, Selection(pids=(50,)))
    bench.registry.scan()
    svc = bench.kernel.procs[50][0]
    add_process(tmp_path, 51, "ruby /srv/a.rb", ppid=1, exe="/usr/bin/ruby")  # its parent has ended meanwhile
    add_process(tmp_path, 60, "ruby /srv/b.rb", ppid=1, exe="/usr/bin/ruby")
    bench.handle(event(FORK, 51, svc, parent=50), event(EXEC, 51, SVC), event(EXEC, 60, SVC + 1))
    assert bench.kernel.procs[51] == (SVC, Verdict.WATCH)
    assert bench.kernel.procs[60] == (SVC + 1, Verdict.IGNORE)


def test_excluded_services(tmp_path: Path) -> None:
    add_process(tmp_path, 50, "ruby /srv/a.rb", exe="/usr/bin/ruby")
    add_process(tmp_path, 51, "ruby /srv/b.rb", exe="/usr/bin/ruby")
    bench = Bench(tmp_path, Selection(exclude_services=("a*",)))
    bench.handle(event(EXEC, 50, SVC), event(EXEC, 51, SVC + 1))
    assert bench.kernel.procs == {50: (SVC, Verdict.IGNORE), 51: (SVC + 1, Verdict.WATCH)}


@pytest.mark.parametrize("selection", [Selection(), Selection(cmd=("multiprocessing",))], ids=["both", "workers only"])
def test_executed_workers_are_one_instance(tmp_path: Path, selection: Selection) -> None:
    """uvicorn --workers: each worker is executed anew, so has its own number, but is the same service instance."""
    add_process(tmp_path, 50, "/v/bin/python /v/bin/uvicorn quotes:app --workers 2", exe=PYTHON)
    for pid in (51, 52):
        add_process(tmp_path, pid, ["/v/bin/python", "-c", SPAWNED], ppid=50, exe=PYTHON)
    bench = Bench(tmp_path, selection)
    bench.handle(event(EXEC, 50, SVC), event(EXEC, 51, SVC + 1, parent=50), event(EXEC, 52, SVC + 2, parent=50))
    one, other = bench.registry.resource(SVC + 1), bench.registry.resource(SVC + 2)
    assert one is not None
    assert one == other
    assert (one.get("service.name"), one.get("process.pid")) == ("quotes", 50)


def test_child_of_another_name_is_another_service(tmp_path: Path) -> None:
    add_process(tmp_path, 50, "python /srv/supervisor.py", exe=PYTHON)
    add_process(tmp_path, 51, "python /srv/ledger.py", ppid=50, exe=PYTHON)
    bench = Bench(tmp_path)
    bench.handle(event(EXEC, 50, SVC), event(EXEC, 51, SVC + 1, parent=50))
    one, other = bench.registry.resource(SVC), bench.registry.resource(SVC + 1)
    assert one is not None
    assert other is not None
    assert one.get("service.instance.id") != other.get("service.instance.id")


def test_process_that_ended_during_the_scan(tmp_path: Path) -> None:
    add_process(tmp_path, 50, "ruby /srv/a.rb", exe="/usr/bin/ruby")
    bench = Bench(tmp_path)

    class Ends(ProcFS):
        """Looked at, then gone before the verdict reaches the kernel."""

        def facts(self, pid: int) -> Facts | None:
            found = super().facts(pid)
            shutil.rmtree(tmp_path / str(pid))
            return found

    builder = ResourceBuilder(Host((), "machine", "boot"), "0")
    kernel = bench.kernel
    registry = Registry(
        Selection(), Ends(tmp_path), kernel.set_process, bench.counters, builder, delete_process=kernel.delete_process
    )
    registry.scan()
    assert len(kernel.told) == 1
    assert kernel.procs == {}
    assert registry.services() == []


def test_listener_whose_fork_was_lost(tmp_path: Path) -> None:
    add_process(tmp_path, 50, "ruby /srv/a.rb", exe="/usr/bin/ruby")
    bench = Bench(tmp_path)
    bench.handle(event(EXEC, 50, SVC), event(LISTEN, 51, SVC, port=80), event(EXIT, 50, SVC))
    assert [info.processes for info in bench.registry.services()] == [1]


def test_resync_finds_what_lost_events_told(tmp_path: Path) -> None:
    add_process(tmp_path, 50, "ruby /srv/a.rb", exe="/usr/bin/ruby")
    bench = Bench(tmp_path)
    bench.handle(event(EXEC, 50, SVC), event(EXEC, 51, SVC + 1, filename="/bin/true"))
    shutil.rmtree(tmp_path / "50")
    add_process(tmp_path, 50, "ruby /srv/b.rb", exe="/usr/bin/ruby")
    add_process(tmp_path, 52, "ruby /srv/c.rb", exe="/usr/bin/ruby")
    bench.registry.resync({50: (SVC + 2, 0), 52: (SVC + 3, 0)})
    assert [info.name for info in bench.registry.services()] == ["b", "c"]
    assert bench.kernel.procs[50] == (SVC + 2, Verdict.WATCH)
    assert bench.kernel.procs[52] == (SVC + 3, Verdict.WATCH)


def test_listen_of_a_number_that_was_never_announced(tmp_path: Path) -> None:
    add_process(tmp_path, 50, "ruby /srv/a.rb", exe="/usr/bin/ruby")
    bench = Bench(tmp_path)
    bench.handle(event(LISTEN, 50, SVC, port=80))
    assert [(info.name, info.ports) for info in bench.registry.services()] == [("a", (80,))]


def test_real_child() -> None:
    with python_child("print()", OTEL_SERVICE_NAME="child") as (pid, _):
        bench = Bench(Path("/proc"), self_pid=os.getpid())
        bench.registry.scan()
        bench.handle(event(EXEC, pid, SVC, parent=os.getpid()))
        assert bench.kernel.procs[os.getpid()][1] == Verdict.IGNORE
        assert bench.kernel.procs[pid] == (SVC, Verdict.WATCH)
        resource = bench.registry.resource(SVC)
    assert resource is not None
    assert resource.get("service.name") == "child"
    assert resource.get("process.pid") == pid
    assert resource.get("telemetry.sdk.language") == "python"
