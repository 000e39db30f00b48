# SPDX-License-Identifier: Apache-2.0
"""A BPF map as NumPy arrays of keys and values, and how large each is made.

In: a loaded map. Out: arrays. The one rule: reading never changes the map, and a reader holds at most one chunk.
"""

from __future__ import annotations

import ctypes
import errno as errnos
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from instrumenter.bpf.libbpf import ENOTSUPP, BpfError, Libbpf
from instrumenter.errors import StinglessError

PERCPU = frozenset({5, 6, 10})  # enum bpf_map_type: PERCPU_HASH, PERCPU_ARRAY, LRU_PERCPU_HASH
CHUNK_BYTES = 1 << 20
SPARSE = 128  # a key that is asked for costs as much as so many buckets of a batch
_NO_BATCH = frozenset({errnos.EINVAL, errnos.EOPNOTSUPP, ENOTSUPP})  # before Linux 5.6, or not for this type of map

Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class MapSizes:
    """max_entries by map; of the three rings, bytes, each rounded up to a power of 2 that is whole pages."""

    exchanges: int = 4 << 20
    long_exchanges: int = 1 << 20
    frames: int = 1 << 20
    events: int = 256 << 10
    procs: int = 32_768
    conns: int = 65_536
    pending: int = 16_384
    carry: int = 1_024
    long_texts: int = 4_096
    red: int = 4_096
    red_shared: int = 1_024
    service_keys: int = 4_096
    losses: int = 8_192
    tls_links: int = 4_096
    go_servings: int = 65_536
    pairs: int = 16_384
    callers: int = 32_768
    causes: int = 16_384


class Map:
    """A map of fixed dtypes. Values of a per-CPU map have shape (n, possible CPUs), of any other (n,)."""

    def __init__(self, lib: Libbpf, pointer: int, name: str, key: np.dtype[Any], value: np.dtype[Any]) -> None:
        self._lib, self.name, self.key, self.value = lib, name, key, value
        sizes = lib.c.bpf_map__key_size(pointer), lib.c.bpf_map__value_size(pointer)
        if sizes != (key.itemsize, value.itemsize):
            raise StinglessError(
                f"map {name} of the probes has keys and values of {sizes[0]} and {sizes[1]} bytes, the agent expects "
                f"{key.itemsize} and {value.itemsize}: rebuild the probes with `make bpf`"
            )
        self.fd: int = lib.call(f"map {name}", lib.c.bpf_map__fd(pointer))
        self.max_entries: int = lib.c.bpf_map__max_entries(pointer)
        self.per_cpu = lib.c.bpf_map__type(pointer) in PERCPU
        # The kernel rounds each CPU's value up to 8 bytes.
        padded = -(-value.itemsize // 8) * 8 if self.per_cpu else value.itemsize
        self._slot = np.dtype({"names": ["v"], "formats": [value], "offsets": [0], "itemsize": padded})
        self._shape: tuple[int, ...] = (lib.cpus,) if self.per_cpu else ()
        self._row = key.itemsize + padded * (lib.cpus if self.per_cpu else 1)

    def _keys(self, keys: Any) -> Array:
        return np.ascontiguousarray(np.atleast_1d(np.asarray(keys, self.key)))

    def lookup(self, key: Any) -> Array | None:
        """The value under one key, shape () or (cpus,); None if there is none."""
        slot = np.zeros(self._shape, self._slot)
        result = self._lib.c.bpf_map_lookup_elem(self.fd, self._keys(key).ctypes.data, slot.ctypes.data)
        return slot["v"] if self._found(result) else None

    def update(self, key: Any, value: Any) -> None:
        """Sets the value under one key; raises BpfError (E2BIG: the map is full)."""
        slot = np.zeros(self._shape, self._slot)
        slot["v"] = value
        result = self._lib.c.bpf_map_update_elem(self.fd, self._keys(key).ctypes.data, slot.ctypes.data, 0)
        self._lib.call(f"writing to map {self.name}", result)

    def delete(self, key: Any) -> bool:
        """Whether there was such a key."""
        return self._found(self._lib.c.bpf_map_delete_elem(self.fd, self._keys(key).ctypes.data))

    def take(self, keys: Any) -> Array:
        """Deletes the keys and returns the values they had at that moment, zeros for an absent key."""
        keys = self._keys(keys)
        slots = np.zeros((len(keys), *self._shape), self._slot)
        c, base, at = self._lib.c, keys.ctypes.data, slots.ctypes.data
        step = slots.strides[0]
        for i in range(len(keys)):
            key, slot = base + i * self.key.itemsize, at + i * step
            result = c.bpf_map_lookup_and_delete_elem(self.fd, key, slot)
            if -result in _NO_BATCH:  # before Linux 5.14
                c.bpf_map_lookup_elem(self.fd, key, slot)
                result = c.bpf_map_delete_elem(self.fd, key)
            self._found(result)
        return slots["v"]

    def _found(self, result: int) -> bool:
        if result == -errnos.ENOENT:
            return False
        self._lib.call(f"map {self.name}", result)
        return True

    def read(self, expected: int = -1) -> tuple[Array, Array]:
        """All keys (n,) and values, as copies. expected: about how many there are, if that is known.

        A batch locks every bucket of the map; where few keys are expected, it is cheaper to go from one to the next.
        """
        room = expected + expected // 8 + 64
        if 0 <= expected < self.max_entries // SPARSE:
            chunks = self._walk(room)
        else:
            chunks = self.chunks(max(room, CHUNK_BYTES // self._row))
        keys, values = next(chunks, (np.empty(0, self.key), np.empty((0, *self._shape), self.value)))
        following = next(chunks, None)
        if following is None:
            return keys, values
        parts = [(keys, values), following, *chunks]
        return np.concatenate([k for k, _ in parts]), np.concatenate([v for _, v in parts])

    def chunks(self, rows: int = 0) -> Iterator[tuple[Array, Array]]:
        """Keys and values, at most about `rows` (default: 1 MB) at a time, each in arrays of its own.

        A hash map is walked bucket by bucket under the bucket's lock: every key that is there all the time comes once.
        """
        rows = max(rows or CHUNK_BYTES // self._row, 16)
        c, token, first = self._lib.c, ctypes.create_string_buffer(max(self.key.itemsize, 8)), True
        count = ctypes.c_uint32()
        while True:
            keys, slots = np.empty(rows, self.key), np.empty((rows, *self._shape), self._slot)
            count.value = rows
            start = None if first else ctypes.addressof(token)
            result = c.bpf_map_lookup_batch(
                self.fd, start, token, keys.ctypes.data, slots.ctypes.data, ctypes.byref(count), None
            )
            if result == -errnos.ENOSPC:  # one bucket has more than that
                rows *= 2
                continue
            if first and -result in _NO_BATCH:
                yield from self._walk(rows)
                return
            if result not in (0, -errnos.ENOENT):
                raise BpfError(f"reading map {self.name}", -result)
            if count.value:
                yield keys[: count.value], slots["v"][: count.value]
            if result:
                return
            first = False

    def _walk(self, rows: int) -> Iterator[tuple[Array, Array]]:
        """Key by key. The kernel starts over when the key it is asked to go on from is gone, hence `seen`."""
        c, seen = self._lib.c, set()
        key, following = np.zeros(1, self.key), np.zeros(1, self.key)
        keys, slots, n = np.empty(rows, self.key), np.empty((rows, *self._shape), self._slot), 0
        before: int | None = None
        while self._found(c.bpf_map_get_next_key(self.fd, before, following.ctypes.data)):
            key[:] = following
            before = key.ctypes.data
            fresh = key.tobytes()
            if fresh in seen:
                continue
            seen.add(fresh)
            if not self._found(c.bpf_map_lookup_elem(self.fd, before, slots[n:].ctypes.data)):
                continue
            keys[n] = key[0]
            n += 1
            if n == rows:
                yield keys, slots["v"]
                keys, slots, n = np.empty(rows, self.key), np.empty((rows, *self._shape), self._slot), 0
        if n:
            yield keys[:n], slots["v"][:n]
