# SPDX-License-Identifier: Apache-2.0
"""The probes in a real kernel: every mode it accepts is loaded, attached, fed by real sockets, and gone afterwards."""

from __future__ import annotations

import http.client
import http.server
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from instrumenter.bpf.abi import RED, RED_KEY, SETTINGS, UNUSED_BOUND, EventKind, Verdict
from instrumenter.bpf.choose import MODES, Trial
from instrumenter.bpf.libbpf import BpfError, library, object_path
from instrumenter.bpf.maps import Map, MapSizes
from instrumenter.bpf.objfile import BpfObject
from instrumenter.bpf.program import Program
from instrumenter.errors import CannotStart
from instrumenter.source import Records, RingSource

pytestmark = pytest.mark.kernel

SMALL = MapSizes(exchanges=1 << 16, long_exchanges=1 << 16, events=1 << 16, procs=4096, conns=1024, red=512)
REQUESTS = 7


def settings() -> NDArray[np.void]:
    record = np.zeros((), SETTINGS)
    record["service_keys"], record["total_keys"], record["spans"] = 100, 400, 1
    record["methods"][:2] = (b"GET", b"POST")
    record["duration_bounds"] = record["size_bounds"] = UNUSED_BOUND
    record["duration_bounds"][:200] = 1000 * 1.1 ** np.arange(200)
    record["size_bounds"][:60] = 2 ** np.arange(60, dtype=np.uint64)
    return record


class Quiet(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"ok")

    def log_message(self, format: str, *args: object) -> None:
        return


@pytest.fixture
def server() -> Iterator[int]:
    """A port of this process that answers HTTP/1.1."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet) as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield running.server_address[1]
        running.shutdown()
        thread.join()


def refusals() -> dict[str, str | None]:
    """Mode -> "" if this kernel takes it; all are tried by name where nothing can be tried."""
    if os.geteuid() != 0:
        return dict.fromkeys(MODES, "")
    opened = BpfObject(library(), object_path())
    trial = Trial(library(), opened.sections())
    tried = {"fentry": "fexit_recv", "kprobe": "kprobe_read", "socket": "tp_received", "tracepoint": "tp_sys_exit"}
    answers = {mode: trial.accepts(program) for mode, program in tried.items()}
    trial.close()
    opened.close()
    return answers


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """`program` in each mode that this kernel takes, or in the one that the run forces."""
    if "program" in metafunc.fixturenames:
        forced = os.environ.get("STINGLESS_ATTACH")
        modes = [forced] if forced else [mode for mode, why in refusals().items() if why == ""]
        metafunc.parametrize("program", modes, indirect=True, scope="module")


@pytest.fixture(scope="module")
def program(request: pytest.FixtureRequest) -> Iterator[Program]:
    """Loaded and attached."""
    loaded = Program.load(settings(), SMALL, request.param)
    loaded.attach()
    assert loaded.modes["send"] == loaded.modes["recv"] == request.param
    yield loaded
    loaded.close()


def test_a_refused_mode_is_one_line() -> None:
    """On a kernel that takes all of them there is nothing to refuse."""
    for mode, why in refusals().items():
        if why != "":
            with pytest.raises(CannotStart, match=rf"--attach {mode} is refused by this kernel \({mode}: "):
                Program.load(settings(), SMALL, mode)


def ask(port: int) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port)
    for _ in range(REQUESTS):
        connection.request("GET", "/orders/17?full=1")
        assert connection.getresponse().read() == b"ok"
    connection.close()


def gather(source: RingSource, enough: int, tgid: int) -> list[Records]:
    """Polls until `enough` exchanges of that process came, at most 10 s."""
    found, deadline = [], time.monotonic() + 10
    while time.monotonic() < deadline:
        found.append(source.poll(0.2))
        if sum(int((e.x["tgid"] == tgid).sum()) for r in found for e in r.exchanges) >= enough:
            break
    return found


def test_requests_come_up_and_are_counted(program: Program, server: int) -> None:
    me = os.getpid()
    program.set_process(me, 77, Verdict.WATCH)
    assert program.processes()[me] == (77, Verdict.WATCH)
    source = program.source()
    ask(server)
    records = gather(source, 2 * REQUESTS, me)
    rows = [e for r in records for e in r.exchanges]
    mine = np.concatenate([e.x[e.x["tgid"] == me] for e in rows])
    assert len(mine) == 2 * REQUESTS  # this process is both ends
    assert set(mine["key"]["svc"].tolist()) == {77}
    assert set(mine["key"]["status"].tolist()) == {200}
    texts = {bytes(t[:20]) for e in rows for t in e.text[e.x["tgid"] == me]}
    assert texts == {b"GET/orders/17?full=1"}
    wall = mine["end_ns"].astype(np.int64) + records[-1].clock_offset_ns
    assert (np.abs(wall - time.time_ns()) < 60e9).all()
    keys, values = program.read_red()
    assert keys.dtype == RED_KEY
    assert values.shape == (len(keys), library().cpus)
    assert values.dtype == RED
    ours = keys["svc"] == 77
    assert values["count"][ours].sum(axis=1).tolist() == [REQUESTS] * 2
    assert values["duration"][ours].sum() == 2 * REQUESTS
    chunks = list(program.red_chunks())
    assert sum(len(k) for k, _ in chunks) == len(keys)
    source.close()


def test_deleted_keys_give_their_counts_and_their_places_back(program: Program, server: int) -> None:
    program.set_process(os.getpid(), 78, Verdict.WATCH)
    ask(server)
    keys, values = program.read_red()
    ours = keys["svc"] == 78
    taken = program.delete_red(keys[ours])
    assert taken["count"].sum() == values["count"][ours].sum() == 2 * REQUESTS
    left, _ = program.read_red()
    assert not (left["svc"] == 78).any()
    assert program._service_keys.lookup(78) is None


def test_an_ignored_process_gives_nothing(program: Program, server: int) -> None:
    program.set_process(os.getpid(), 79, Verdict.IGNORE)
    source = program.source()
    ask(server)
    found = source.drain()
    assert not any((e.x["key"]["svc"] == 79).any() for e in found.exchanges)
    assert not (program.read_red()[0]["svc"] == 79).any()
    source.close()


def test_a_new_process_wakes_the_source(program: Program) -> None:
    source = program.source()
    child = subprocess.Popen([sys.executable, "-c", "pass"])
    seen: dict[int, bytes] = {}
    deadline = time.monotonic() + 10
    while {EventKind.EXEC, EventKind.EXIT} - seen.keys() and time.monotonic() < deadline:
        events = source.poll(1.0).events
        for event in events[events["tgid"] == child.pid]:
            seen[int(event["kind"])] = bytes(event["filename"])
    assert child.wait() == 0
    assert seen[EventKind.EXEC] == sys.executable.encode()
    assert EventKind.EXIT in seen
    source.close()


def test_ports_are_bits_and_only_changed_words_are_written(program: Program) -> None:
    for ports in ([0, 63, 64, 8080, 65535], [8080], []):
        program.set_ports(ports)
        bits = np.unpackbits(program._port_words.read()[1].view(np.uint8), bitorder="little")
        assert np.flatnonzero(bits).tolist() == ports


def test_stats(program: Program, server: int) -> None:
    assert program.enable_stats()
    program.set_process(os.getpid(), 80, Verdict.WATCH)
    ask(server)
    stats = program.stats()
    assert stats["sock_state"].run_cnt > 0
    assert stats["sock_state"].run_time_ns > 0
    assert program.missed() == {name: stat.missed for name, stat in program.stats().items() if stat.missed} == {}


def test_losses_are_read_by_service_and_reason(program: Program) -> None:
    program._losses.update((5, 1), 3)
    program._losses.update((0, 8), 1)
    losses = program.read_losses()
    assert losses[5, 1] == 3
    assert losses[0, 8] >= 1


def test_nothing_stays_in_the_kernel() -> None:
    before = descriptors()
    loaded = Program.load(settings(), SMALL, None)
    loaded.attach()
    source = loaded.source()
    loaded.enable_stats()
    assert len(descriptors()) > len(before)
    loaded.close()
    loaded.close()
    source.close()
    del source
    assert descriptors() == before


def descriptors() -> set[str]:
    """What this process holds: BPF lives as long as one of these."""
    return {f"{p.name} {p.readlink()}" for p in Path("/proc/self/fd").iterdir() if p.exists()}


@pytest.fixture(scope="module")
def idle() -> Iterator[Program]:
    """Loaded but not attached."""
    loaded = Program.load(settings(), SMALL, None)
    yield loaded
    loaded.close()


@pytest.fixture
def procs(idle: Program) -> Iterator[Map]:
    """A plain hash that only the test writes to, empty."""
    yield idle._procs
    for tgid in idle._procs.read()[0].tolist():
        assert idle._procs.delete(tgid)


def test_maps_are_read_whole_in_chunks_of_any_size_and_key_by_key(procs: Map) -> None:
    wanted = {i: (i * 2, i % 3) for i in range(1, 2000)}
    for tgid, value in wanted.items():
        procs.update(tgid, value)
    for walk in (procs.chunks, procs._walk):
        for rows in (16, 100, 1999, 5000):
            read = [(k, v) for keys, values in walk(rows) for k, v in zip(keys.tolist(), values.tolist(), strict=True)]
            assert len(read) == len(wanted)
            assert dict(read) == wanted
    for hint in (0, 10, 3000):
        keys, values = procs.read(hint)
        assert dict(zip(keys.tolist(), values.tolist(), strict=True)) == wanted


def test_a_full_map_is_an_error(procs: Map) -> None:
    for tgid in range(SMALL.procs):
        procs.update(tgid, (1, 0))
    with pytest.raises(BpfError, match="writing to map procs: Argument list too long"):
        procs.update(SMALL.procs, (1, 0))
    assert procs.delete(0)
    assert not procs.delete(0)
    assert procs.lookup(0) is None


def test_a_map_of_another_size_is_an_error_of_the_build() -> None:
    opened = BpfObject(library(), object_path())
    with pytest.raises(Exception, match="keys and values of 4 and 8 bytes, the agent expects 4 and 16"):
        Map(library(), opened.map("procs"), "procs", np.dtype("<u4"), np.dtype("<u8,<u8"))
    with pytest.raises(CannotStart, match=f"have {SETTINGS.itemsize} bytes of `settings`, the agent 1: run `make bpf`"):
        opened.write_constant("settings", b"x")
    with pytest.raises(CannotStart, match="have no map nope"):
        opened.map("nope")
    opened.close()


def test_no_object_and_no_object_at_all(tmp_path: Path) -> None:
    (tmp_path / "x.o").write_bytes(b"not ELF")
    with pytest.raises(CannotStart, match=r"cannot open the probes .*make bpf"):
        Program.load(settings(), SMALL, None, tmp_path / "x.o")
    with pytest.raises(CannotStart, match=r"no probes for riscv64 .*make bpf"):
        object_path("riscv64")
