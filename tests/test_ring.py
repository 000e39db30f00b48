# SPDX-License-Identifier: Apache-2.0
"""Reading a ring, without a kernel: the test fills the ring's memory as the kernel would."""

from __future__ import annotations

import mmap
import os
import threading
import time

import numpy as np
import pytest
from fake_ring import PAGE, Kernel
from numpy.typing import NDArray

from instrumenter.bpf.ring import Pages, Ring
from instrumenter.errors import StinglessError

SMALL = np.dtype([("number", "<u8"), ("odd", "u1", (5,))])  # 13 bytes: 24 in the ring, with the header


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


def test_data_is_mapped_when_a_record_is_there() -> None:
    """A file in the place of the kernel's map, of the same pages: consumer, producer, data."""
    kernel, size = Kernel(16 * PAGE), 16 * PAGE
    fd = os.memfd_create("ring")
    try:
        os.truncate(fd, 2 * mmap.PAGESIZE + size)
        pages = Pages.of_map(fd, size)
        reader = Ring("test", pages, SMALL, 1000, 1 << 20)
        assert len(reader.read()) == 0
        assert reader.mapped_bytes == 2 * mmap.PAGESIZE
        kernel.submit(map(small, range(9)))
        os.pwrite(fd, kernel.data, 2 * mmap.PAGESIZE)
        os.pwrite(fd, kernel.producer, mmap.PAGESIZE)
        assert numbers(reader.read()) == list(range(9))
        assert reader.mapped_bytes == 2 * mmap.PAGESIZE + size
        reader.close()
        assert reader.mapped_bytes == 0
    finally:
        os.close(fd)


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
    dropped = kernel.reserve(small(6))
    assert busy is not None
    assert dropped is not None
    kernel.commit(dropped, discard=True)
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
