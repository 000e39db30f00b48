# SPDX-License-Identifier: Apache-2.0
"""How large the kernel's maps and rings are, and the rest of what is fixed before the probes are loaded.

In: this machine's memory and possible CPUs, the settings. Out: `MapSizes` and one `abi.SETTINGS` record. The rule:
sizes follow from the machine unless a setting gives them, and the kernel's share of memory stays a small, known part.

The maps take memory as entries come (BPF_F_NO_PREALLOC), so a size is a ceiling; `near_conns`, of a fixed size, and the
arrays take theirs at once. So do the rings, which count as the agent's own memory, being mapped.
"""

from __future__ import annotations

import mmap
import os
import time
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from instrumenter.bpf.abi import KNOWN_METHODS, RED, SETTINGS, Sampler, Verdict
from instrumenter.bpf.maps import MapSizes
from instrumenter.config import Settings
from instrumenter.histogram import Histograms, explicit, exponential

GIB = 1 << 30
MIB = 1 << 20
_SERIES = 16_384  # more would cost the agent itself, which holds every series' buckets, more than its 80 MB
_OTEL_CARDINALITY_LIMIT = 2_000  # OpenTelemetry's default limit of series per metric
_CLOCK_MONOTONIC_COARSE = 6  # it goes on by jiffies
_SAMPLERS = {"always_on": Sampler.ALWAYS_ON, "always_off": Sampler.ALWAYS_OFF, "traceidratio": Sampler.RATIO}


class Sizes(NamedTuple):
    """maps: for the loader. series: metric keys before all further ones are `other`; series_per_service: likewise."""

    maps: MapSizes
    series: int
    series_per_service: int


def machine_memory() -> int:
    """Bytes of RAM."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def derive_sizes(total_memory: int, cpus: int, settings: Settings) -> Sizes:
    """total_memory: bytes. cpus: possible CPUs, since per-CPU maps have a place for each.

    The ring of exchanges holds a quarter of a second or more of 100,000 records/s (about 350 bytes each); larger
    machines carry more load. Connections take about 1/128 of memory at most, metric series 1/64.
    """
    ebpf = settings.ebpf
    small = total_memory <= 4 * GIB
    ring = ebpf.ring_bytes or (4 * MIB if small else 8 * MIB if cpus <= 8 else 16 * MIB if cpus <= 32 else 32 * MIB)
    ring = ring_size(ring)
    # A long record is six times as large and for requests whose head does not fit a short one: browsers', mostly.
    long_ring = ring_size(ebpf.long_ring_bytes or max(MIB, ring // 4))
    connections = ebpf.max_connections or _within(total_memory // 128 // 512, 16_384, 1 << 20)
    processes = ebpf.max_processes or _within(total_memory // (64 * 1024), 16_384, 131_072)
    affordable = total_memory // 64 // (cpus * (RED.itemsize + 64))
    series = ebpf.max_series or _within(affordable, 512, _SERIES)
    services = _within(processes // 8, 1_024, 16_384)
    maps = MapSizes(
        exchanges=ring,
        long_exchanges=long_ring,
        frames=ring_size(ring // 2),
        events=ring_size(256 * 1024 if small else 512 * 1024),
        procs=processes,
        conns=connections,
        pending=max(1_024, connections // 4),
        carry=max(1_024, connections // 32),
        long_texts=max(1_024, connections // 16),
        red=series + min(series, services) // 2,  # beyond `series` there are only the services' `other` keys
        red_shared=max(256, series // 4),
        service_keys=services,
        losses=services * 2,
        tls_links=max(4_096, connections // 16),
        go_servings=connections,
        pairs=max(4_096, connections // 4),
        callers=processes,
        causes=max(4_096, connections // 4),
    )
    return Sizes(maps, series, min(ebpf.series_per_service or _OTEL_CARDINALITY_LIMIT, series))


def ring_size(wanted: int) -> int:
    """The next power of two that is a whole number of pages, as BPF ring buffers need it."""
    return max(mmap.PAGESIZE, 1 << max(0, wanted - 1).bit_length())


def _within(value: int, low: int, high: int) -> int:
    return max(low, min(high, value))


def kernel_settings(
    settings: Settings, histograms: Histograms, sizes: Sizes, spans: bool, self_tgid: int
) -> NDArray[Any]:
    """The record abi.SETTINGS, shape (). spans: whether any exporter takes spans."""
    sampling = settings.sampling
    record = np.zeros((), SETTINGS)
    sampler = _SAMPLERS[sampling.sampler.removeprefix("parentbased_")]
    bound = ratio_bound(sampling.arg)
    if sampler is Sampler.RATIO and bound > np.iinfo(np.uint64).max:
        sampler, bound = Sampler.ALWAYS_ON, 0
    record["sampler"] = sampler
    record["ratio_bound"] = bound if sampler is Sampler.RATIO else 0
    record["parent_based"] = sampling.sampler.startswith("parentbased_")
    record["slow_ns"] = round(sampling.keep_slower_than * 1e9)
    record["keep_errors"] = sampling.keep_errors
    record["default_verdict"] = Verdict.UNDECIDED
    record["service_keys"] = sizes.series_per_service
    record["total_keys"] = sizes.series
    record["self_tgid"] = self_tgid
    record["tick_ns"] = round(time.clock_getres(_CLOCK_MONOTONIC_COARSE) * 1e9)
    record["spans"] = spans
    methods = [method.encode() for method in settings.metrics.known_methods[:KNOWN_METHODS]]
    record["methods"][: len(methods)] = methods
    record["duration_bounds"] = histograms.duration.bounds
    record["size_bounds"] = histograms.size.bounds
    return record


def ratio_bound(ratio: float) -> int:
    """OpenTelemetry's TraceIdRatioBased: sampled if the low 64 bits of the trace id are below this."""
    return round(ratio * (1 << 64))


def make_histograms(settings: Settings) -> Histograms:
    """The buckets that the kernel counts in. Raises ConfigError."""
    return exponential() if settings.metrics.histogram == "exponential" else explicit(settings.metrics.boundaries)
