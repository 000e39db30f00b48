# SPDX-License-Identifier: Apache-2.0
"""Recordings: given again as they were, in time, and never misread when cut, foreign or damaged."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from fake_ring import event, exchange

from instrumenter.bpf.abi import EVENT, EXCHANGE_LONG, EXCHANGE_SHORT
from instrumenter.errors import CannotStart, StinglessError
from instrumenter.recording import CHUNK, HEADER, MAGIC, FileSource, Recorder
from instrumenter.records import Exchanges, Records, nothing


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


def test_frames_are_given_again_with_their_poll(tmp_path: Path) -> None:
    """As they lay in the ring, beside the exchanges and events of the same poll."""
    frames = bytes(range(256)) * 3
    record(tmp_path / "r", batch(1)._replace(frames=frames), nothing(7)._replace(frames=frames[:8]), batch(events=(5,)))
    source = FileSource(tmp_path / "r")
    polls = []
    while not source.exhausted:
        polls.append(source.poll(0.0))
    source.close()
    assert [(flat(poll)[0], flat(poll)[1], poll.frames) for poll in polls] == [
        ([1], [], frames), ([], [], frames[:8]), ([], [5], b""),
    ]  # fmt: skip
