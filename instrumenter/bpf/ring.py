# SPDX-License-Identifier: Apache-2.0
"""A BPF ring buffer of records of one size, read in batches without a Python call per record.

In: the ring's pages as the kernel maps them. Out: copies of whole records as one structured array. The one rule: no
byte of a record is copied before the kernel has finished it, and no place is given back before its copy is made.

Layout (kernel/bpf/ringbuf.c, Documentation/bpf/ringbuf.rst): page 0 holds the consumer's position, page 1 the
producer's, then `size` bytes of data. Positions are bytes, they only grow, `position & (size - 1)` is the place. Each
record is an 8-byte header {u32 length and bits; u32 page offset} and its data, rounded up to 8. The kernel lets the
data be mapped twice in a row, so that a record over the end is contiguous; here it is mapped once, since every mapping
of a ring counts in full as resident memory, and a batch is copied in one or two pieces.

Memory order. The kernel reserves: length | BUSY, then store-release of the producer's position; it commits by an atomic
exchange of the header. The reader
  1. load-acquires the producer's position: all headers before it are then at least BUSY, never stale;
  2. copies the headers out by plain 4-byte loads (aligned, so each is one access) and decides on that copy alone;
  3. acquire fence: the headers' loads are done before any load of data below, also on arm64, where a plain load may be
     done late; a header that was not BUSY therefore has its data;
  4. copies the data;
  5. store-releases the consumer's position: the copy's loads are done before the kernel may reuse the place.
1, 3 and 5 are calls into libatomic, opaque to any compiler; NumPy gives only 2 and 4.
"""

from __future__ import annotations

import ctypes
import mmap
import platform
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from instrumenter.errors import CannotStart, StinglessError

BUSY, DISCARDED = np.uint32(1 << 31), np.uint32(1 << 30)
LENGTH = np.uint32(0x3FFF_FFFF)
HEADER = 8
_BUSY, _LENGTH = int(BUSY), int(LENGTH)
_ACQUIRE, _RELEASE = 2, 3  # __ATOMIC_ACQUIRE, __ATOMIC_RELEASE


class Atomics:
    """Acquire loads and release stores of 8 aligned bytes, and an acquire fence, by address."""

    def __init__(self) -> None:
        try:
            lib = ctypes.CDLL("libatomic.so.1")
        except OSError as error:
            if platform.machine() != "x86_64":
                raise CannotStart(
                    "libatomic.so.1 cannot be loaded: install it (Debian, Ubuntu: apt install libatomic1)"
                ) from error
            self._plain()
            return
        # By name in brackets: Python would mangle lib.__atomic_load_8 inside a class.
        load, store, fence = lib["__atomic_load_8"], lib["__atomic_store_8"], lib["atomic_thread_fence"]
        load.restype, load.argtypes = ctypes.c_uint64, (ctypes.c_void_p, ctypes.c_int)
        store.restype, store.argtypes = None, (ctypes.c_void_p, ctypes.c_uint64, ctypes.c_int)
        fence.restype, fence.argtypes = None, (ctypes.c_int,)
        self._load: Callable[[int, int], int] = load
        self._store: Callable[[int, int, int], None] = store
        self._fence: Callable[[int], None] = fence

    def _plain(self) -> None:
        """On x86-64 each aligned load is an acquire and each store a release (TSO): ctypes' own accesses will do."""

        def store(address: int, value: int, _: int) -> None:
            ctypes.c_uint64.from_address(address).value = value

        self._load = lambda address, _: ctypes.c_uint64.from_address(address).value
        self._store, self._fence = store, lambda _: None

    def load_acquire(self, address: int) -> int:
        return int(self._load(address, _ACQUIRE))

    def store_release(self, address: int, value: int) -> None:
        self._store(address, value, _RELEASE)

    def fence_acquire(self) -> None:
        self._fence(_ACQUIRE)


class Pages:
    """A ring's memory: any buffers will do, `consumer` (writable) and `producer` of 8 bytes, `data` of a power of 2."""

    def __init__(self, consumer: Any, producer: Any, data: Any, atomics: Atomics | None = None) -> None:
        self._prepare(consumer, producer, len(data), lambda: data, atomics)

    def _prepare(
        self, consumer: Any, producer: Any, size: int, data: Callable[[], Any], atomics: Atomics | None
    ) -> None:
        self._atomics = atomics or Atomics()
        self._consumer, self._producer = np.frombuffer(consumer, np.uint8), np.frombuffer(producer, np.uint8)
        self._consumer_at, self._producer_at = self._consumer.ctypes.data, self._producer.ctypes.data
        self.size, self._find, self._data = size, data, np.empty(0, np.uint8)
        if self.size & (self.size - 1) or not self.size:
            raise StinglessError(f"a ring has a power of 2 of bytes, not {self.size}")
        self._maps: list[mmap.mmap] = []

    @classmethod
    def of_map(cls, fd: int, size: int, atomics: Atomics | None = None) -> Pages:
        """The pages of a loaded BPF_MAP_TYPE_RINGBUF, which must outlive these; raises OSError."""
        page, pages = mmap.PAGESIZE, cls.__new__(cls)

        def data() -> mmap.mmap:
            pages._maps.append(mmap.mmap(fd, size, flags=mmap.MAP_SHARED, prot=mmap.PROT_READ, offset=2 * page))
            return pages._maps[-1]

        consumer = mmap.mmap(fd, page, flags=mmap.MAP_SHARED, prot=mmap.PROT_READ | mmap.PROT_WRITE)
        producer = mmap.mmap(fd, page, flags=mmap.MAP_SHARED, prot=mmap.PROT_READ, offset=page)
        pages._prepare(consumer, producer, size, data, atomics)
        pages._maps += consumer, producer
        return pages

    @property
    def data(self) -> NDArray[np.uint8]:
        """Mapped when it is first asked for, that is, when a record is there: many a ring never has one."""
        if not len(self._data):
            self._data = np.frombuffer(self._find(), np.uint8)
        return self._data

    @property
    def words(self) -> NDArray[np.uint32]:
        return self.data.view(np.uint32)

    @property
    def mapped_bytes(self) -> int:
        """Resident bytes of this process that are the ring's: the kernel maps all pages of its data at once."""
        return sum(len(m) for m in self._maps)

    def produced(self) -> int:
        return self._atomics.load_acquire(self._producer_at)

    def consumed(self) -> int:
        return self._atomics.load_acquire(self._consumer_at)

    def release(self, position: int) -> None:
        self._atomics.store_release(self._consumer_at, position)

    def fence(self) -> None:
        self._atomics.fence_acquire()

    def close(self) -> None:
        """Unmaps. Nothing of the pages may be read after."""
        self._consumer = self._producer = self._data = np.empty(0, np.uint8)
        while self._maps:
            self._maps.pop().close()


class Ring:
    """Records of one dtype from a ring. Not thread-safe: the ring has one consumer."""

    def __init__(self, name: str, pages: Pages, record: np.dtype[np.void], max_records: int, max_bytes: int) -> None:
        self.name, self._pages, self._record = name, pages, record
        self.stride = HEADER + -(-record.itemsize // 8) * 8
        self._most = max(1, min(max_records, max_bytes // self.stride))
        self._nothing: NDArray[np.void] = np.empty(0, record)
        self._next = pages.consumed()  # nobody else moves it
        self.read_bytes = 0  # size of the last batch, headers and discarded records included
        self.fill = 0.0  # share of the ring that was taken at the last read, 0 to 1
        self.more = False  # the last read left finished records behind

    @property
    def size(self) -> int:
        return self._pages.size

    @property
    def mapped_bytes(self) -> int:
        return self._pages.mapped_bytes

    def waiting(self) -> float:
        """Share of the ring that is taken now, 0 to 1."""
        return (self._pages.produced() - self._next) / self._pages.size

    def read(self) -> NDArray[np.void]:
        """The next finished records, (n,), copied; their places are given back. Raises StinglessError: other sizes."""
        start = self._next
        waiting = self._pages.produced() - start
        self.fill = waiting / self._pages.size
        if not waiting:
            self.read_bytes, self.more = 0, False
            return self._nothing
        there = waiting // self.stride
        n = min(there, self._most)
        heads = self._heads(start, n)
        busy = np.flatnonzero(heads & BUSY)
        if len(busy):
            n = int(busy[0])
            heads = heads[:n]
        self.more = not len(busy) and there > n
        if not n:
            self.read_bytes = 0
            return self._nothing
        if (heads & LENGTH != self._record.itemsize).any():
            raise StinglessError(
                f"ring {self.name} holds records of {int((heads & LENGTH).max())} bytes, the agent expects "
                f"{self._record.itemsize}: rebuild the probes with `make bpf`"
            )
        self._pages.fence()
        rows = self._copy(start, n)
        self._next = start + n * self.stride
        self._pages.release(self._next)
        self.read_bytes = n * self.stride
        discarded = heads & DISCARDED
        return rows[discarded == 0] if discarded.any() else rows

    def _heads(self, start: int, n: int) -> NDArray[np.uint32]:
        """The first header word of n records, copied. A header never lies across the end: both are multiples of 8."""
        first = start & (self._pages.size - 1)
        if first + n * self.stride <= self._pages.size:
            return self._pages.words[first // 4 :: self.stride // 4][:n].copy()
        places = (first + np.arange(n) * self.stride) & (self._pages.size - 1)
        heads: NDArray[np.uint32] = self._pages.words[places // 4]
        return heads

    def _copy(self, start: int, n: int) -> NDArray[np.void]:
        """n records without their headers, row by row: that is no slower than one large copy, and less is copied."""
        size, width, data = self._pages.size, self._record.itemsize, self._pages.data
        copy = np.empty((n, width), np.uint8)
        place = (start + HEADER) & (size - 1)
        whole = min(n, max(0, (size - place - width) // self.stride + 1))  # before the ring's end
        self._rows(copy[:whole], place)
        if whole < n:
            place = (place + whole * self.stride) & (size - 1)
            head = min(width, size - place)
            copy[whole, :head], copy[whole, head:] = data[place : place + head], data[: width - head]
            self._rows(copy[whole + 1 :], (place + self.stride) & (size - 1))
        rows: NDArray[np.void] = copy.view(self._record)[:, 0]
        return rows

    def _rows(self, copy: NDArray[np.uint8], place: int) -> None:
        if len(copy):
            copy[:] = np.ndarray(copy.shape, np.uint8, self._pages.data, place, (self.stride, 1))

    def close(self) -> None:
        self._pages.close()


class FramesRing:
    """Records of any size, left as they lie: each behind its header, from multiples of 8 on. One consumer."""

    def __init__(self, name: str, pages: Pages, max_bytes: int) -> None:
        self.name, self._pages, self._most = name, pages, max_bytes
        self.fill = 0.0
        self.more = False

    @property
    def mapped_bytes(self) -> int:
        return self._pages.mapped_bytes

    def read(self) -> bytes:
        """The next finished records, copied; their places are given back."""
        start = self._pages.consumed()
        waiting = self._pages.produced() - start
        self.fill, self.more = waiting / self._pages.size, False
        size = self._finished(start, waiting) if waiting else 0
        if not size:
            return b""
        self._pages.fence()
        first = start & (self._pages.size - 1)
        head = min(size, self._pages.size - first)
        copy = self._pages.data[first : first + head].tobytes() + self._pages.data[: size - head].tobytes()
        self._pages.release(start + size)
        return copy

    def _finished(self, start: int, waiting: int) -> int:
        """Bytes of records up to the first that is busy, at most about `max_bytes`."""
        words, mask, at = self._pages.words, self._pages.size - 1, 0
        while at < waiting:
            if at >= self._most:
                self.more = True
                break
            head = int(words[(start + at & mask) >> 2])
            if head & _BUSY:
                break
            at += HEADER + ((head & _LENGTH) + 7 & ~7)
        return at

    def close(self) -> None:
        self._pages.close()
