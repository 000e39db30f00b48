# SPDX-License-Identifier: Apache-2.0
"""Reading rings and recordings, without a kernel: the test fills the ring's memory as the kernel would."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from instrumenter.bpf.abi import EVENT, EXCHANGE_LONG, EXCHANGE_SHORT, TEXT_LONG, TEXT_SHORT, EventKind
from instrumenter.bpf.ring import Pages, Ring
from instrumenter.errors import CannotStart, StinglessError
from instrumenter.recording import CHUNK, HEADER, MAGIC, FileSource, Recorder
from instrumenter.records import Exchanges, Records, nothing
from instrumenter.source import LONGEST_S, SHORTEST_S, RingSource, clock_offset_ns, next_period

PAGE = 4096
SMALL = np.dtype([("number", "<u8"), ("odd", "u1", (5,))])  # 13 bytes: 24 in the ring, with the header


class Kernel:
    """The producer's side of kernel/bpf/ringbuf.c, over plain memory."""

    def __init__(self, size: int = PAGE) -> None:
        self.consumer, self.producer, self.data = bytearray(8), bytearray(8), bytearray(size)
        self.pages = Pages(self.consumer, self.producer, self.data)
        self.size = size

    def _position(self, page: bytearray) -> int:
        return int.from_bytes(page[:8], "little")

    def reserve(self, body: bytes) -> int | None:
        """Position of a BUSY record holding `body`, or None if there is no room."""
        at = self._position(self.producer)
        after = at + 8 + -(-len(body) // 8) * 8
        if after - self._position(self.consumer) > self.size:
            return None
        for i, byte in enumerate((len(body) | 1 << 31).to_bytes(4, "little") + bytes(4) + body):
            self.data[(at + i) % self.size] = byte
        self.producer[:8] = after.to_bytes(8, "little")
        return at

    def commit(self, at: int, discard: bool = False) -> None:
        place = at % self.size
        head = int.from_bytes(self.data[place : place + 4], "little") & ~(1 << 31)
        self.data[place : place + 4] = (head | discard << 30).to_bytes(4, "little")

    def submit(self, bodies: Iterable[bytes]) -> int:
        """How many found room."""
        count = 0
        for body in bodies:
            at = self.reserve(body)
            if at is None:
                break
            self.commit(at)
            count += 1
        return count

    def start_at(self, position: int) -> Kernel:
        self.consumer[:8] = self.producer[:8] = position.to_bytes(8, "little")
        return self

    @property
    def free(self) -> bool:
        return self.consumer == self.producer


def small(number: int) -> bytes:
    return np.array((number, [number % 251] * 5), SMALL).tobytes()


def ring(kernel: Kernel, max_records: int = 1000, max_bytes: int = 1 << 20) -> Ring:
    return Ring("test", kernel.pages, SMALL, max_records, max_bytes)


def numbers(rows: NDArray[np.void]) -> list[int]:
    assert (rows["odd"] == (rows["number"] % 251)[:, None]).all()
    found: list[int] = rows["number"].tolist()
    return found


def test_empty_ring() -> None:
    reader = ring(Kernel())
    rows = reader.read()
    assert rows.dtype == SMALL
    assert (len(rows), reader.fill, reader.more) == (0, 0.0, False)


@pytest.mark.parametrize("start", [0, 8, PAGE - 24, PAGE - 16, PAGE - 8, 3 * PAGE - 8, (1 << 40) - 8])
def test_records_wherever_the_ring_ends(start: int) -> None:
    """Around the end, also with the header before it and the data after, and far beyond 32 bits."""
    kernel = Kernel().start_at(start)
    assert kernel.submit(map(small, range(9))) == 9
    assert numbers(ring(kernel).read()) == list(range(9))
    assert kernel.free


def test_full_ring_again_and_again() -> None:
    kernel = Kernel()
    reader = ring(kernel)
    room = PAGE // 24
    for turn in range(50):
        bodies = [small(turn * 1000 + i) for i in range(room + 5)]
        assert kernel.submit(bodies) == room
        assert numbers(reader.read()) == [turn * 1000 + i for i in range(room)]
        assert reader.fill == pytest.approx(room * 24 / PAGE)
        assert kernel.free


def test_stops_before_a_busy_record_and_goes_on_after_it() -> None:
    kernel = Kernel().start_at(PAGE - 48)
    reader = ring(kernel)
    kernel.submit(map(small, range(3)))
    busy = kernel.reserve(small(3))
    kernel.submit(map(small, (4, 5)))
    assert busy is not None
    assert numbers(reader.read()) == [0, 1, 2]
    assert not reader.more
    assert numbers(reader.read()) == []
    kernel.commit(busy)
    assert numbers(reader.read()) == [3, 4, 5]
    assert kernel.free


@pytest.mark.parametrize("dropped", [{0}, {4}, {1, 2}, set(range(5))])
def test_discarded_records_are_left_out_and_their_places_given_back(dropped: set[int]) -> None:
    kernel = Kernel()
    for i in range(5):
        at = kernel.reserve(small(i))
        assert at is not None
        kernel.commit(at, discard=i in dropped)
    assert numbers(ring(kernel).read()) == [i for i in range(5) if i not in dropped]
    assert kernel.free


def test_batches_are_bounded_by_records_and_by_bytes() -> None:
    for bounds in ((4, 1 << 20), (1000, 4 * 24 + 23)):
        kernel = Kernel()
        reader = ring(kernel, *bounds)
        kernel.submit(map(small, range(10)))
        seen = []
        for expected_more in (True, True, False):
            seen.append(numbers(reader.read()))
            assert reader.more is expected_more
        assert seen == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


def test_a_batch_is_a_copy() -> None:
    kernel = Kernel()
    kernel.submit([small(7)])
    rows = ring(kernel).read()
    kernel.data[:] = bytes(len(kernel.data))
    assert numbers(rows) == [7]


def test_records_of_another_size_are_an_error_of_the_build() -> None:
    kernel = Kernel()
    kernel.submit([small(1) + b"more"])
    with pytest.raises(StinglessError, match=r"ring test holds records of 17 bytes, the agent expects 13.*make bpf"):
        ring(kernel).read()


def test_a_ring_that_is_written_while_it_is_read() -> None:
    """A producer thread against the reader: everything once, in order, nothing torn."""
    kernel, total = Kernel(), 20_000
    reader = ring(kernel)

    def produce() -> None:
        i = 0
        while i < total:
            i += kernel.submit(map(small, range(i, min(i + 40, total))))

    thread = threading.Thread(target=produce)
    thread.start()
    seen: list[int] = []
    deadline = time.monotonic() + 20
    while len(seen) < total and time.monotonic() < deadline:
        seen += numbers(reader.read())
    thread.join()
    assert seen == list(range(total))


@pytest.mark.parametrize(
    ("period", "waited", "fill", "expected"),
    [
        (LONGEST_S, LONGEST_S, 0.0, LONGEST_S),
        (LONGEST_S, LONGEST_S, 0.25, LONGEST_S),
        (LONGEST_S, LONGEST_S, 0.5, LONGEST_S / 2),
        (LONGEST_S, LONGEST_S, 1.0, LONGEST_S / 4),
        (LONGEST_S, 0.0, 1.0, SHORTEST_S),
        (0.004, 0.004, 0.0, 0.008),
        (0.004, 0.004, 0.01, 0.008),
        (LONGEST_S, LONGEST_S, 0.01, LONGEST_S),
    ],
)
def test_next_period(period: float, waited: float, fill: float, expected: float) -> None:
    assert next_period(period, waited, fill) == pytest.approx(expected)


def exchange(number: int, long: bool = False) -> NDArray[np.void]:
    record = np.zeros((), EXCHANGE_LONG if long else EXCHANGE_SHORT)
    record["x"]["connection"] = number
    record["x"]["text_len"] = len(str(number))
    record["text"][: len(str(number))] = list(str(number).encode())
    return record


def event(tgid: int) -> NDArray[np.void]:
    record = np.zeros((), EVENT)
    record["tgid"], record["kind"], record["comm"] = tgid, EventKind.EXEC, b"nginx"
    return record


class Rings:
    """Three rings in memory and the source over them."""

    def __init__(self) -> None:
        self.short, self.long, self.events = Kernel(16 * PAGE), Kernel(16 * PAGE), Kernel(16 * PAGE)
        self.source = RingSource(self.short.pages, self.long.pages, self.events.pages)


def test_source_gives_both_kinds_of_exchanges_and_events() -> None:
    rings = Rings()
    rings.short.submit(exchange(i).tobytes() for i in range(3))
    rings.long.submit([exchange(99, long=True).tobytes()])
    rings.events.submit([event(1234).tobytes()])
    records = rings.source.poll(1.0)
    assert [e.x["connection"].tolist() for e in records.exchanges] == [[0, 1, 2], [99]]
    assert [e.text.shape for e in records.exchanges] == [(3, TEXT_SHORT), (1, TEXT_LONG)]
    assert records.exchanges[1].text[0, :2].tobytes() == b"99"
    assert records.events["tgid"].tolist() == [1234]
    assert records.events["comm"].tolist() == [b"nginx"]
    assert abs(records.clock_offset_ns - (time.time_ns() - time.monotonic_ns())) < 50_000_000
    assert rings.source.fill()["exchanges"] > 0
    rings.source.close()


def test_poll_without_records_returns_empty_at_its_timeout() -> None:
    source = Rings().source
    began = time.monotonic()
    records = source.poll(0.12)
    assert not records
    assert 0.1 < time.monotonic() - began < 5
    source.close()


def test_poll_with_a_backlog_does_not_wait() -> None:
    rings = Rings()
    kernel = Kernel(8 << 20)
    rings.source.close()
    source = RingSource(kernel.pages, rings.long.pages, rings.events.pages)
    body = exchange(5).tobytes()
    kernel.submit(body for _ in range(18_000))  # more than one batch of 4 MiB
    first = source.poll(5.0)
    began = time.monotonic()
    second = source.poll(5.0)
    assert len(first.exchanges[0].x) + len(second.exchanges[0].x) == 18_000
    assert time.monotonic() - began < LONGEST_S
    source.close()


@pytest.mark.parametrize("how", ["wake", "close"])
def test_a_waiting_poll_can_be_ended(how: str) -> None:
    source = Rings().source
    results: list[Records] = []
    thread = threading.Thread(target=lambda: results.append(source.poll(60.0)))
    thread.start()
    getattr(source, how)()
    thread.join(10)
    assert not thread.is_alive()
    assert not results[0]
    assert source.exhausted is (how == "close")
    source.close()
    source.close()
    assert not source.poll(0)
    assert not source.drain()


def test_clock_offset_is_steady() -> None:
    offsets = [clock_offset_ns() for _ in range(100)]
    assert np.ptp(offsets) < 1_000_000


class Given:
    """A source of prepared batches."""

    def __init__(self, *batches: Records) -> None:
        self._batches = list(batches)
        self.metadata: dict[str, object] = {}
        self.closed = False

    @property
    def exhausted(self) -> bool:
        return not self._batches

    def poll(self, timeout_s: float) -> Records:
        return self._batches.pop(0) if self._batches else nothing(0)

    def wake(self) -> None:
        return

    def close(self) -> None:
        self.closed = True


def batch(*connections: int, long: bool = False, events: Iterable[int] = (), offset: int = 77) -> Records:
    rows = np.array([exchange(c, long) for c in connections], EXCHANGE_LONG if long else EXCHANGE_SHORT)
    exchanges = (Exchanges.of(rows),) if len(rows) else ()
    return Records(exchanges, np.array([event(tgid) for tgid in events], EVENT), offset)


def flat(records: Records) -> tuple[list[int], list[int], int]:
    connections = [c for e in records.exchanges for c in e.x["connection"].tolist()]
    return connections, records.events["tgid"].tolist(), records.clock_offset_ns


BATCHES = (batch(1, 2, events=(10,)), batch(), batch(3, long=True, offset=-5), batch(events=(11, 12)))


def record(path: Path, *batches: Records) -> None:
    given = Given(*batches)
    recorder = Recorder(path, given)
    while not recorder.exhausted:
        recorder.poll(0)
    recorder.describe({"services": {"1": {"service.name": "shop"}}})
    recorder.describe({"services": {"2": {"service.name": "cart"}}, "host": "a"})
    recorder.close()
    assert given.closed


def test_replay_gives_what_was_recorded(tmp_path: Path) -> None:
    path = tmp_path / "run.stingless"
    record(path, *BATCHES)
    source = FileSource(path)
    assert source.metadata == {
        "services": {"1": {"service.name": "shop"}, "2": {"service.name": "cart"}},
        "host": "a",
    }
    seen = []
    while not source.exhausted:
        seen.append(source.poll(0))
    assert [flat(s) for s in seen] == [flat(b) for b in BATCHES if b]
    for got, recorded in zip(seen, (b for b in BATCHES if b), strict=True):
        for a, b in zip(got.exchanges, recorded.exchanges, strict=True):
            assert a.records().tobytes() == b.records().tobytes()
        assert got.events.tobytes() == recorded.events.tobytes()
    assert not source.truncated
    assert not source.poll(0)
    source.close()


def test_a_recording_of_nothing(tmp_path: Path) -> None:
    record(tmp_path / "r")
    source = FileSource(tmp_path / "r")
    assert not source.poll(0)
    assert source.exhausted
    source.close()


def test_recording_cut_anywhere(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """What is whole is replayed, the rest is warned about, and nothing is invented."""
    path = tmp_path / "cut"
    record(path, batch(1), batch(2))
    data, chunk = path.read_bytes(), CHUNK.itemsize + EXCHANGE_SHORT.itemsize
    wholes = [HEADER.itemsize, HEADER.itemsize + chunk, HEADER.itemsize + 2 * chunk]
    for size in sorted({*range(HEADER.itemsize, wholes[2] + 20, 7), *wholes, *(w - 1 for w in wholes[1:])}):
        path.write_bytes(data[:size])
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            source = FileSource(path)
        seen = []
        while records := source.poll(0):
            seen.append(flat(records)[0])
        assert seen == [[1], [2]][: sum(size >= w for w in wholes[1:])]
        assert source.exhausted
        assert source.truncated == (size not in wholes) == ("cut short" in caplog.text)
        source.close()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is not a recording of stingless"),
        (b"\x7fELF" + bytes(100), "is not a recording of stingless"),
        (MAGIC + b"\x01", "is not a recording of stingless"),
        (MAGIC + b"\x63\x00" + bytes(100), "another version of stingless .format 99"),
        (MAGIC + b"\x01\x00\x18\x00" + bytes(100), "another version of stingless .format 1"),
    ],
)
def test_foreign_files(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "foreign"
    path.write_bytes(content)
    with pytest.raises(CannotStart, match=message):
        FileSource(path)


def test_files_that_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(CannotStart, match=r"cannot read the recording .*: No such file"):
        FileSource(tmp_path / "absent")
    with pytest.raises(CannotStart, match=r"cannot write the recording .*: No such file"):
        Recorder(tmp_path / "absent" / "file", Given())


def test_a_full_disk_is_one_line() -> None:
    with pytest.raises(StinglessError, match="No space left on device"):
        Recorder("/dev/full", Given(*BATCHES)).poll(0)


def test_damage_is_told_from_the_format(tmp_path: Path) -> None:
    record(tmp_path / "r", batch(1))
    data = bytearray((tmp_path / "r").read_bytes())
    data[HEADER.itemsize + 4] = 9  # count of the first chunk
    (tmp_path / "r").write_bytes(data)
    with pytest.raises(CannotStart, match="is damaged at byte"):
        FileSource(tmp_path / "r")


def test_replay_in_time(tmp_path: Path) -> None:
    """Two polls 0.2 s apart, at double speed: the second is due 0.1 s after the first, and not given before."""
    path = tmp_path / "r"
    record(path, batch(1), batch(2))
    data = bytearray(path.read_bytes())
    first, second = HEADER.itemsize, HEADER.itemsize + CHUNK.itemsize + EXCHANGE_SHORT.itemsize
    at = 24  # of time_ns in CHUNK
    began = int.from_bytes(data[first + at : first + at + 8], "little")
    data[second + at : second + at + 8] = (began + 200_000_000).to_bytes(8, "little")
    path.write_bytes(data)
    source = FileSource(path, speed=2.0)
    start = time.monotonic()
    assert flat(source.poll(1))[0] == [1]
    assert not source.poll(0.01)
    assert not source.exhausted
    assert flat(source.poll(5))[0] == [2]
    assert 0.09 < time.monotonic() - start < 5
    source.close()
