# SPDX-License-Identifier: Apache-2.0
"""Which requests are sent: a cell is a number of requests of one shape to one front; every request has a number.

In: what the user asked for. Out: cells, whose numbers do not overlap, so that a span says by its path whose it is.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

# What a front does for one request. `one`, `slow`: a call; `seq`, `par`: two, one after the other or at once; `retry`:
# the first answer is 503, so the same call is made again.
SHAPES: Final = ("one", "seq", "par", "retry", "slow")
CALLS: Final = (1, 2)  # that a request may make
CONCURRENCY: Final = (1, 16, 64, 256)
SLOW_EVERY: Final = 8  # of shape `slow`, one in so many is slow
FIRST: Final = 1_000_000  # numbers of one length, so that routes are guessed alike


@dataclass(frozen=True, slots=True)
class Cell:
    """Requests `first` to `first + count - 1`."""

    runtime: str
    concurrency: int
    keep_alive: bool
    shape: str
    first: int
    count: int

    @property
    def numbers(self) -> range:
        return range(self.first, self.first + self.count)

    def requests(self) -> Iterator[tuple[int, str]]:
        """(number, mode), as the front is asked."""
        for number in self.numbers:
            yield number, "one" if self.shape == "slow" and number % SLOW_EVERY else self.shape

    def calls(self) -> int:
        """How many calls the front makes, if nothing else goes wrong."""
        return self.count * (2 if self.shape in ("seq", "par", "retry") else 1)

    def labels(self) -> dict[str, str | int]:
        keep = "kept" if self.keep_alive else "closed"
        return {"runtime": self.runtime, "conc": self.concurrency, "connections": keep, "shape": self.shape}


class Numbers:
    """Numbers that nothing else has."""

    def __init__(self) -> None:
        self._next = FIRST

    def take(self, count: int) -> int:
        """The first of `count` numbers."""
        first, self._next = self._next, self._next + count
        return first


def cells(
    numbers: Numbers, runtime: str, shapes: Iterable[str], concurrency: Iterable[int], keep_alive: Iterable[bool],
    requests: int,
) -> Iterator[Cell]:  # fmt: skip
    """requests: of each cell; at least two for each connection."""
    for keep, connections, shape in itertools.product(keep_alive, concurrency, shapes):
        count = max(requests, 2 * connections)
        yield Cell(runtime, connections, keep, shape, numbers.take(count), count)
