# SPDX-License-Identifier: Apache-2.0
"""Results of reading binaries, by the file's identity: (device, inode, mtime in ns, size).

The rule: bounded; the entry that was not asked for the longest goes first. Not by build id, which can be read only from
the file and is not there in all.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

Value = TypeVar("Value")


class Cache(Generic[Value]):
    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._kept: OrderedDict[Hashable, Value] = OrderedDict()

    def get(self, key: Hashable) -> Value | None:
        if key in self._kept:
            self._kept.move_to_end(key)
        return self._kept.get(key)

    def put(self, key: Hashable, value: Value) -> Value:
        self._kept[key] = value
        if len(self._kept) > self._limit:
            self._kept.popitem(last=False)
        return value

    def __len__(self) -> int:
        return len(self._kept)
