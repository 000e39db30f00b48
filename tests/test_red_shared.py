# SPDX-License-Identifier: Apache-2.0
"""The two maps of RED counts, per CPU and in common, as one reading."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from instrumenter.bpf.abi import RED, RED_KEY
from instrumenter.bpf.program import _with_shared


def keys(*routes: int) -> NDArray[Any]:
    found = np.zeros(len(routes), RED_KEY)
    found["route"] = routes
    return found


def counts(*numbers: int, cpus: int = 0) -> NDArray[Any]:
    """Of the first CPU; the second has ten times as many."""
    found = np.zeros((len(numbers), cpus) if cpus else len(numbers), RED)
    for cpu in range(max(cpus, 1)):
        column = found[:, cpu] if cpus else found
        column["count"] = np.array(numbers) * 10**cpu
        column["duration"][:, 7] = np.array(numbers) * 10**cpu
    return found


def test_keys_in_one_map_or_both_are_added_up() -> None:
    read, values = _with_shared(keys(1, 2, 3), counts(1, 2, 3, cpus=2), keys(9, 2), counts(5, 100))
    assert read["route"].tolist() == [1, 2, 3, 9]
    assert values.shape == (4, 2)
    assert values["count"].tolist() == [[1, 10], [102, 20], [3, 30], [5, 0]]
    assert values["duration"][:, :, 7].tolist() == [[1, 10], [102, 20], [3, 30], [5, 0]]


def test_buckets_wrap_as_the_kernels() -> None:
    values, shared = counts(1, cpus=1), counts(1)
    values["duration"][0, 0, 7] = 2**32 - 1
    assert _with_shared(keys(1), values, keys(1), shared)[1]["duration"][0, 0, 7] == 0


def test_nothing_in_common_costs_no_copy() -> None:
    values = counts(1, cpus=2)
    assert _with_shared(keys(1), values, keys(), counts())[1] is values
