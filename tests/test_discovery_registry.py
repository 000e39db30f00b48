# SPDX-License-Identifier: Apache-2.0
"""The registry: a fixture tree or a real child in, verdicts and resources out."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from proc_tree import add_process, python_child
from registry_bench import EXEC, EXIT, FORK, LISTEN, PYTHON, SPAWNED, SVC, TREE, Bench, event

from instrumenter.bpf.abi import FIRST_KERNEL_SVC, Verdict
from instrumenter.discovery.procfs import Facts, ProcFS
from instrumenter.discovery.registry import Registry
from instrumenter.discovery.selection import Selection
from instrumenter.enrich.host import Host
from instrumenter.enrich.resource import ResourceBuilder


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
    bench.registry.rescan({400: (SVC + 5, 0)})
    assert bench.kernel.procs[400] == (SVC + 5, Verdict.WATCH)
    bench.kernel.told.clear()
    bench.handle(event(EXEC, 400, SVC + 5))
    assert bench.kernel.told == []


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


@pytest.mark.parametrize("late", [False, True], ids=["scan", "rescan"])
def test_process_that_ended_during_the_scan(tmp_path: Path, late: bool) -> None:
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
    if late:
        registry.scan()
    add_process(tmp_path, 50, "ruby /srv/a.rb", exe="/usr/bin/ruby")
    if not late:
        registry.scan()
    registry.rescan(dict(kernel.procs))
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


def test_resync_puts_a_missed_fork_beside_its_kin(tmp_path: Path) -> None:
    """A second image under the number would take the service along when the fork ends."""
    add_process(tmp_path, 50, "ruby /srv/a.rb", exe="/usr/bin/ruby")
    add_process(tmp_path, 51, "ruby /srv/a.rb", exe="/usr/bin/ruby", ppid=50)
    bench = Bench(tmp_path, grace_s=60.0)
    bench.handle(event(EXEC, 50, SVC))
    bench.registry.resync({50: (SVC, 1), 51: (SVC, 0), 52: (0, 0)})
    assert [(info.name, info.processes) for info in bench.registry.services()] == [("a", 2)]
    assert bench.kernel.procs[51] == (SVC, Verdict.WATCH)
    assert bench.registry.resource(SVC) is not None
    bench.handle(event(EXIT, 51, SVC))
    bench.pass_time(100)
    assert bench.registry.resource(SVC) is not None


def test_a_process_born_after_the_scan_is_decided_on_by_the_rescan(tmp_path: Path) -> None:
    add_process(tmp_path, 50, "ruby /srv/a.rb", exe="/usr/bin/ruby")
    bench = Bench(tmp_path)
    bench.registry.scan()
    before = dict(bench.kernel.procs)
    add_process(tmp_path, 51, "ruby /srv/b.rb", exe="/usr/bin/ruby")
    add_process(tmp_path, 52, "ruby /srv/c.rb", exe="/usr/bin/ruby")
    bench.kernel.told.clear()
    bench.registry.rescan({50: before[50], 52: (SVC, 0)})  # 52 has begun after the attaching
    assert {tgid for tgid, _, _ in bench.kernel.told} == {51, 52}  # 50 is not asked about again
    assert bench.kernel.procs[50] == before[50]
    assert bench.kernel.procs[51][0] < FIRST_KERNEL_SVC
    assert bench.kernel.procs[52] == (SVC, Verdict.WATCH)
    assert [info.name for info in bench.registry.services()] == ["a", "b", "c"]


def replace_process(root: Path, pid: int, command: str, exe: str, **options: Any) -> None:
    shutil.rmtree(root / str(pid))
    add_process(root, pid, command, exe=exe, **options)


@pytest.mark.parametrize("change", [{"stack": 4711}, {"start": 4712}], ids=["exec", "pid of another"])
def test_another_image_under_the_same_pid_is_found_by_the_rescan(tmp_path: Path, change: dict[str, int]) -> None:
    add_process(tmp_path, 50, "ruby /srv/a.rb", exe="/usr/bin/ruby")
    bench = Bench(tmp_path, Selection(cmd=("b.rb",)))
    bench.registry.scan()
    assert [verdict for _, _, verdict in bench.kernel.told] == [Verdict.IGNORE]
    replace_process(tmp_path, 50, "ruby /srv/b.rb", exe="/usr/bin/ruby", **change)
    bench.registry.rescan(dict(bench.kernel.procs))
    assert bench.kernel.procs[50][1] == Verdict.WATCH
    assert bench.registry.name(bench.kernel.procs[50][0]) == "b"


def test_a_port_opened_between_scan_and_attach_is_found_by_the_rescan(tmp_path: Path) -> None:
    """Nothing but its descriptors tells: the probes were not attached yet."""
    add_process(tmp_path, 50, "ruby /srv/a.rb", exe="/usr/bin/ruby")
    bench = Bench(tmp_path, Selection(ports=((80, 80),)))
    bench.registry.scan()
    replace_process(tmp_path, 50, "ruby /srv/a.rb", "/usr/bin/ruby", listens={80: 4242})
    bench.registry.rescan(dict(bench.kernel.procs))
    assert bench.kernel.procs[50][1] == Verdict.WATCH


def test_who_ended_between_scan_and_attach_leaves_nothing_in_the_kernel(tmp_path: Path) -> None:
    add_process(tmp_path, 50, "ruby /srv/a.rb", exe="/usr/bin/ruby")
    add_process(tmp_path, 51, "ruby /srv/b.rb", exe="/usr/bin/ruby")
    bench = Bench(tmp_path)
    bench.registry.scan()
    shutil.rmtree(tmp_path / "50")
    replace_process(tmp_path, 51, "ruby /srv/b.rb", "/usr/bin/ruby", state="Z")
    bench.registry.rescan(dict(bench.kernel.procs))
    assert bench.kernel.procs == {}
    assert bench.registry.services() == []
