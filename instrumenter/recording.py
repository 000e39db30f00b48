# SPDX-License-Identifier: Apache-2.0
"""Recordings: what a source gave, in a file, and a source that gives it again.

In: any `RecordSource`. Out: the same batches, elsewhere or later. The one rule: a recording says itself what it is, so
that one of another version, a foreign file or one that was cut short is told apart, never misread.

Format, version 1, all little-endian. The file begins with HEADER: magic `STINGREC`, version, the size of HEADER, and
the sizes of the records it holds (struct exchange_short, exchange_long and event of probes/include/abi.h, whose times
are nanoseconds of the recording machine's CLOCK_MONOTONIC). Then come chunks until the end, each a CHUNK header {kind,
number of records, bytes that follow, clock offset, time of the poll} and its payload:
  kind 1, 2, 3: the records as they lay in the ring; the chunks of one poll have the same time, its events come last;
  kind 5: struct frames and their bytes as they lay in the ring, each behind the ring's header; count: bytes;
  kind 4: a JSON object of metadata, such as {"services": {"1": {...}}}; objects under the same key are merged.
A reader skips kinds it does not know.
"""

from __future__ import annotations

import contextlib
import json
import logging
import threading
import time
from collections.abc import Generator, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from instrumenter.bpf.abi import EVENT, EXCHANGE_LONG, EXCHANGE_SHORT
from instrumenter.errors import CannotStart, StinglessError
from instrumenter.records import Exchanges, Records, RecordSource, nothing

MAGIC, VERSION = b"STINGREC", 1
SHORT, LONG, EVENTS, METADATA, FRAMES = 1, 2, 3, 4, 5
RECORD = {SHORT: EXCHANGE_SHORT, LONG: EXCHANGE_LONG, EVENTS: EVENT}
HEADER = np.dtype(
    [("magic", "S8"), ("version", "<u2"), ("header", "<u2"), ("short", "<u4"), ("long", "<u4"), ("event", "<u4")]
)
CHUNK = np.dtype(
    [("kind", "<u4"), ("count", "<u4"), ("bytes", "<u8"), ("clock_offset_ns", "<i8"), ("time_ns", "<u8")]
)  # time_ns: CLOCK_MONOTONIC
SIZES = {"short": EXCHANGE_SHORT.itemsize, "long": EXCHANGE_LONG.itemsize, "event": EVENT.itemsize}


class Recorder:
    """A source that writes down what it passes on."""

    def __init__(self, path: Path | str, source: RecordSource) -> None:
        """Begins the file, replacing an older one. Raises CannotStart if it cannot be written."""
        self._path, self._source = Path(path), source
        self._lock = threading.Lock()  # metadata may come from another thread
        self._closed = False
        try:
            self._file: BinaryIO = self._path.open("wb")
        except OSError as error:
            raise CannotStart(f"cannot write the recording {path}: {error.strerror}; choose another place") from error
        self._write(np.array((MAGIC, VERSION, HEADER.itemsize, *SIZES.values()), HEADER).tobytes())

    @property
    def exhausted(self) -> bool:
        return self._source.exhausted

    @property
    def metadata(self) -> Mapping[str, Any]:
        return self._source.metadata

    def poll(self, timeout_s: float) -> Records:
        """The source's batch, after it was written. Raises StinglessError if the file cannot take it."""
        records = self._source.poll(timeout_s)
        self.write(records)
        return records

    def write(self, records: Records) -> None:
        """Appends a batch; an empty one leaves no trace."""
        now, parts = time.monotonic_ns(), []
        for exchanges in records.exchanges:
            rows = exchanges.records()
            parts += self._chunk(SHORT if rows.dtype == EXCHANGE_SHORT else LONG, rows, records.clock_offset_ns, now)
        if records.frames:
            head = (FRAMES, len(records.frames), len(records.frames), records.clock_offset_ns, now)
            parts += [np.array(head, CHUNK).tobytes(), records.frames]
        if len(records.events):
            parts += self._chunk(EVENTS, np.ascontiguousarray(records.events), records.clock_offset_ns, now)
        if parts:
            self._write(*parts)

    def describe(self, metadata: Mapping[str, Any]) -> None:
        """Appends metadata, anything that JSON can hold, such as the services seen since the last time."""
        text = json.dumps(metadata, separators=(",", ":")).encode()
        self._write(np.array((METADATA, 0, len(text), 0, time.monotonic_ns()), CHUNK).tobytes(), text)

    @staticmethod
    def _chunk(kind: int, rows: NDArray[np.void], offset: int, now: int) -> list[bytes]:
        return [np.array((kind, len(rows), rows.nbytes, offset, now), CHUNK).tobytes(), rows.tobytes()]

    def _write(self, *parts: bytes) -> None:
        with self._lock:
            if self._closed:
                return
            try:
                self._file.write(b"".join(parts))
                self._file.flush()
            except OSError as error:
                self._closed = True
                with contextlib.suppress(OSError):  # it tries once more to write
                    self._file.close()
                raise StinglessError(
                    f"the recording {self._path} cannot be continued: {error.strerror}; what is there can be replayed"
                ) from error

    def wake(self) -> None:
        self._source.wake()

    def close(self) -> None:
        with self._lock:
            self._closed = True
            try:
                self._file.close()
            except OSError as error:
                raise StinglessError(f"the recording {self._path} is not whole: {error.strerror}") from error
            finally:
                self._source.close()


class FileSource:
    """A recording as a source. `truncated` says that its end is missing."""

    def __init__(self, path: Path | str, speed: float | None = None) -> None:
        """speed: 1.0 as it was, 2.0 in half the time, None as fast as it is polled.

        Raises CannotStart: not a recording, or one of another version.
        """
        self._path, self._speed = Path(path), speed
        self._wake = threading.Event()
        self.exhausted = self.truncated = False
        self.metadata: dict[str, Any] = {}
        try:
            self._file: BinaryIO = self._path.open("rb")
        except OSError as error:
            raise CannotStart(f"cannot read the recording {path}: {error.strerror}") from error
        try:
            self._size = self._path.stat().st_size
            self._check_header()
            self._learn()
        except OSError as error:
            self._file.close()
            raise CannotStart(f"cannot read the recording {path}: {error.strerror}") from error
        except CannotStart:
            self._file.close()
            raise
        if self.truncated:
            logging.getLogger(__name__).warning("the recording %s was cut short: replaying what is whole", self._path)
        self._polls = self._batches()
        self._next = next(self._polls, None)
        self._first_ns, self._began = (self._next[0] if self._next else 0), time.monotonic()
        self._offset = 0

    def _check_header(self) -> None:
        raw = self._file.read(HEADER.itemsize)
        if raw[: len(MAGIC)] != MAGIC or len(raw) < HEADER.itemsize:
            raise CannotStart(f"{self._path} is not a recording of stingless: make one with `stingless record FILE`")
        header = np.frombuffer(raw, HEADER)[0]
        if int(header["version"]) != VERSION or any(int(header[name]) != size for name, size in SIZES.items()):
            raise CannotStart(
                f"{self._path} was recorded by another version of stingless (format {header['version']}, here "
                f"{VERSION}, or records of other sizes): replay it with the version that recorded it"
            )
        self._file.seek(int(header["header"]))

    def _chunks(self) -> Iterator[np.void]:
        """The headers of whole chunks from here on, the file standing at the payload. Sets `truncated`."""
        while raw := self._file.read(CHUNK.itemsize):
            chunk = np.frombuffer(raw, CHUNK)[0] if len(raw) == CHUNK.itemsize else None
            if chunk is None or self._file.tell() + int(chunk["bytes"]) > self._size:
                self.truncated = True
                return
            after = self._file.tell() + int(chunk["bytes"])
            record = RECORD.get(int(chunk["kind"]))
            if record is not None and int(chunk["count"]) * record.itemsize != int(chunk["bytes"]):
                raise CannotStart(f"the recording {self._path} is damaged at byte {after - int(chunk['bytes'])}")
            yield chunk
            self._file.seek(after)

    def _learn(self) -> None:
        """Reads all metadata beforehand: names may have been learnt after the first exchanges."""
        start = self._file.tell()
        for chunk in self._chunks():
            if int(chunk["kind"]) != METADATA:
                continue
            try:
                said = json.loads(self._file.read(int(chunk["bytes"])))
            except ValueError as error:
                raise CannotStart(f"the recording {self._path} is damaged: its metadata is not JSON") from error
            for key, value in said.items():
                old = self.metadata.get(key)
                self.metadata[key] = {**old, **value} if isinstance(old, dict) and isinstance(value, dict) else value
        self._file.seek(start)

    def _batches(self) -> Generator[tuple[int, Records], None, None]:
        """(time of the poll, its batch)"""
        exchanges: list[Exchanges] = []
        events = np.empty(0, EVENT)
        frames = b""
        current, offset = -1, 0
        for chunk in self._chunks():
            kind = int(chunk["kind"])
            if kind not in (*RECORD, FRAMES):
                continue
            if current not in (-1, int(chunk["time_ns"])):
                yield current, Records(tuple(exchanges), events, offset, frames)
                exchanges, events, frames = [], np.empty(0, EVENT), b""
            current, offset = int(chunk["time_ns"]), int(chunk["clock_offset_ns"])
            raw = self._file.read(int(chunk["bytes"]))
            if kind == FRAMES:
                frames = raw
            elif kind == EVENTS:
                events = np.frombuffer(raw, EVENT)
            else:
                exchanges.append(Exchanges.of(np.frombuffer(raw, RECORD[kind])))
        if current != -1:
            yield current, Records(tuple(exchanges), events, offset, frames)

    def poll(self, timeout_s: float) -> Records:
        """The next batch, when its time has come; an empty one after timeout_s or at the end."""
        if self._next is None or self.exhausted:
            self.exhausted = True
            return nothing(self._offset)
        if self._speed:
            due = self._began + (self._next[0] - self._first_ns) / 1e9 / self._speed
            wait = due - time.monotonic()
            if wait > 0:
                woken = self._wake.wait(min(wait, timeout_s))
                self._wake.clear()
                if woken or wait > timeout_s:
                    return nothing(self._offset)
        records = self._next[1]
        self._offset = records.clock_offset_ns
        self._next = next(self._polls, None)
        self.exhausted = self._next is None
        return records

    def wake(self) -> None:
        self._wake.set()

    def close(self) -> None:
        self.exhausted = True
        self._wake.set()
        self._polls.close()
        self._file.close()
