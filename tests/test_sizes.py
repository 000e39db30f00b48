# SPDX-License-Identifier: Apache-2.0
"""Sizes on machines from a small VM to a large node, and the record that the kernel is given."""

from __future__ import annotations

import mmap

import numpy as np
import pytest

from instrumenter.bpf.abi import RED, Sampler
from instrumenter.config import Settings
from instrumenter.config_load import load
from instrumenter.histogram import exponential
from instrumenter.sizes import GIB, MIB, derive_sizes, kernel_settings, ratio_bound, ring_size

MACHINES = [(GIB // 2, 1), (GIB, 1), (2 * GIB, 2), (4 * GIB, 4), (24 * GIB, 2), (64 * GIB, 16), (2048 * GIB, 512)]


@pytest.mark.parametrize(("memory", "cpus"), MACHINES)
def test_derived_sizes_fit_the_machine(memory: int, cpus: int) -> None:
    sizes = derive_sizes(memory, cpus, Settings())
    maps = sizes.maps
    for ring in (maps.exchanges, maps.long_exchanges, maps.events):
        assert ring & (ring - 1) == 0
        assert ring % mmap.PAGESIZE == 0
    assert (4 * MIB if memory <= 4 * GIB else 8 * MIB) <= maps.exchanges <= 32 * MIB
    assert sizes.series * cpus * RED.itemsize <= max(memory // 64, 512 * cpus * RED.itemsize)
    assert maps.red > sizes.series >= sizes.series_per_service > 0
    assert maps.conns >= 16_384
    assert min(maps.procs, maps.pending, maps.carry, maps.long_texts, maps.service_keys, maps.losses) >= 1_024


def test_the_ring_holds_a_quarter_of_a_second() -> None:
    sizes = derive_sizes(16 * GIB, 4, Settings())
    assert sizes.maps.exchanges / 352 / 100_000 >= 0.23


def test_settings_override() -> None:
    loaded = load(
        {
            "ebpf.ring_bytes": "5MiB",
            "ebpf.long_ring_bytes": "100",
            "ebpf.max_connections": "7000",
            "ebpf.max_series": "900",
            "ebpf.series_per_service": "50",
            "ebpf.max_processes": "123",
        },
        {},
    )
    sizes = derive_sizes(16 * GIB, 4, loaded.settings)
    maps = sizes.maps
    assert (maps.exchanges, maps.long_exchanges) == (8 * MIB, mmap.PAGESIZE)
    assert (maps.conns, maps.procs, sizes.series, sizes.series_per_service) == (7000, 123, 900, 50)


@pytest.mark.parametrize(("wanted", "size"), [(0, 4096), (4096, 4096), (4097, 8192), (3 * MIB, 4 * MIB)])
def test_ring_size(wanted: int, size: int) -> None:
    assert ring_size(wanted) == max(size, mmap.PAGESIZE)


@pytest.mark.parametrize(
    ("sampler", "arg", "expected"),
    [
        ("always_on", "1", (Sampler.ALWAYS_ON, 0, 0)),
        ("parentbased_always_on", "1", (Sampler.ALWAYS_ON, 0, 1)),
        ("always_off", "1", (Sampler.ALWAYS_OFF, 0, 0)),
        ("traceidratio", "0.5", (Sampler.RATIO, 1 << 63, 0)),
        ("parentbased_traceidratio", "0.25", (Sampler.RATIO, 1 << 62, 1)),
        ("traceidratio", "1", (Sampler.ALWAYS_ON, 0, 0)),
        ("traceidratio", "0", (Sampler.RATIO, 0, 0)),
    ],
)
def test_sampler(sampler: str, arg: str, expected: tuple[int, int, int]) -> None:
    settings = load({"sampling.sampler": sampler, "sampling.arg": arg}, {}).settings
    record = kernel_settings(settings, exponential(), derive_sizes(GIB, 1, settings), True, 7)
    assert (int(record["sampler"]), int(record["ratio_bound"]), int(record["parent_based"])) == expected


def test_ratio_bound_is_opentelemetrys() -> None:
    from opentelemetry.sdk.trace.sampling import TraceIdRatioBased

    for ratio in (0.0, 0.001, 0.1, 1 / 3, 0.5, 0.999, 1.0):
        assert ratio_bound(ratio) == TraceIdRatioBased.get_bound_for_rate(ratio)


def test_kernel_settings() -> None:
    flags = {
        "sampling.keep_errors": "true",
        "sampling.keep_slower_than": "250ms",
        "metrics.known_methods": "GET,PROPFIND",
    }
    settings = load(flags, {}).settings
    sizes = derive_sizes(4 * GIB, 2, settings)
    record = kernel_settings(settings, exponential(), sizes, False, 4711)
    assert (int(record["slow_ns"]), int(record["keep_errors"]), int(record["spans"])) == (250_000_000, 1, 0)
    assert (int(record["self_tgid"]), int(record["total_keys"])) == (4711, sizes.series)
    assert record["methods"][:3].tolist() == [b"GET", b"PROPFIND", b""]
    assert np.array_equal(record["duration_bounds"], exponential().duration.bounds)
