# SPDX-License-Identifier: Apache-2.0
"""The probes in the kernel: chosen, loaded, attached, and their maps.

In: the fixed settings and the maps' sizes. Out: a `Program`: rings to read, maps to read and write. The one rule: what
the kernel refuses is known by name and reason and costs the agent no more than it must; and nothing stays behind, since
every program, map and link hangs on a descriptor of this process and none is pinned.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from instrumenter.bpf.abi import LOSS_KEY, PROCESS, RED, RED_KEY, SETTINGS
from instrumenter.bpf.choose import HOOKS, NEEDED_FUNCTION, REQUIRED, Choice, Trial, choose
from instrumenter.bpf.libbpf import BpfError, Libbpf, cannot_start, library, object_path
from instrumenter.bpf.maps import Map, MapSizes
from instrumenter.bpf.objfile import BpfObject
from instrumenter.bpf.ring import Atomics, Pages
from instrumenter.bpf.uprobes import UPROBE_MULTI, Uprobes, multi_accepted
from instrumenter.errors import CannotStart
from instrumenter.source import RingSource

PORTS = 65_536
_NOT_KNOWN = 3 << 62  # NOT_KNOWN of state.h, in a number that the kernel does not give out
_U32, _U64 = np.dtype("<u4"), np.dtype("<u8")
_PROG_INFO_U64 = 32  # struct bpf_prog_info; the kernel fills what it knows of it
_RUN_TIME_NS, _RUN_CNT, _MISSED = 24, 25, 26  # places of its u64 run_time_ns, run_cnt, recursion_misses
_STATS_RUN_TIME = 0  # enum bpf_stats_type
_ENTRIES = ("fentry_", "kprobe_", "tp_send_begins", "tp_sys_enter")
_ON_FILES = "tls_call"  # attached to files, as they are found


class Stats(NamedTuple):
    """Of one program since its load. Runs are counted only after `enable_stats` or with kernel.bpf_stats_enabled=1."""

    run_cnt: int
    run_time_ns: int
    missed: int  # runs the kernel left out because the program was already running on that CPU


class Program:
    """The loaded probes: made by `load`, taken out of the kernel by `close`. The maps may be read by several threads.

    modes: hook -> one of choose.MODES. refused: (program, reason) of all that the kernel did not take.
    """

    def __init__(self, lib: Libbpf, loaded: BpfObject, choice: Choice, multi: bool) -> None:
        self._lib, self._object, self._choice, self._multi = lib, loaded, choice, multi
        self.modes, self.refused = dict(choice.modes), list(choice.refused)
        self._links: dict[str, int] = {}  # by program
        self._stats_fd = -1
        self._ports, self._expected = np.zeros(PORTS // 64, _U64), [0, 0, 0]  # keys of red, red_shared and losses, last
        self._procs = self.map("procs", _U32, PROCESS)
        self._known, self._forgotten = self.map("known", _U32, _U64), 0
        self._red = self.map("red", RED_KEY, RED)
        self._red_shared = self.map("red_shared", RED_KEY, RED)
        self._losses = self.map("losses", LOSS_KEY, _U64)
        self._port_words = self.map("ports", _U32, _U64)
        self._service_keys = self.map("service_keys", _U32, _U32)

    def map(self, name: str, key: np.dtype[Any], value: np.dtype[Any]) -> Map:
        """Raises StinglessError if it has others."""
        return Map(self._lib, self._object.map(name), name, key, value)

    @classmethod
    def load(
        cls,
        settings: NDArray[np.void] | np.void,
        sizes: MapSizes,
        attach: str | None,
        path: Path | None = None,
        trial: Trial | None = None,
    ) -> Program:
        """Loads, hook by hook, the best probes that this kernel accepts. Nothing runs before `attach`.

        settings: one record of dtype abi.SETTINGS. attach: one of choose.MODES forces it; None: the best. path: the
        object, if not the one built for this machine. trial: of that object, with answers already. Raises CannotStart
        with the remedy.
        """
        constants = np.array(settings, SETTINGS)
        lib, path = library(), path or object_path()
        trial = trial or Trial(lib, _sections(lib, path))
        sections = trial.sections
        refused: dict[str, str] = {}
        try:
            trial.allowed()
            trial.complete()
            constants["direct_loads"] = bool(trial.has(NEEDED_FUNCTION))
            multi = multi_accepted(lib)
            while True:
                choice = choose(list(sections), lambda p: refused.get(p) or trial.accepts(p), attach)
                trial.close()  # before libbpf reads the same BTF again: it would be the peak of the agent's memory
                loaded, failed = _load(lib, path, choice, sizes, constants.tobytes(), multi)
                if loaded:
                    return cls(lib, loaded, choice, multi)
                refused.update(failed)
        except BpfError as error:
            raise cannot_start(error) from error
        finally:
            trial.close()

    def attach(self) -> None:
        """Attaches all that was loaded: returns before entries, so that no call is seen half.

        Raises CannotStart if a program that the agent cannot do without is refused; another one goes to `refused`.
        """
        needed = REQUIRED.union(*(h.ways[self.modes[h.name]] for h in HOOKS if h.required))
        for program in sorted(self._choice.programs - {_ON_FILES}, key=lambda p: (p.startswith(_ENTRIES), p)):
            try:
                self._links[program] = self._object.attach(program)
            except BpfError as error:
                if program in needed:
                    self.close()
                    modes = ", ".join(sorted({*self.modes.values()}))
                    raise CannotStart(f"{error}; try another --attach than {modes}") from error
                self.refused.append((program, error.reason))

    def uprobes(self) -> Uprobes | None:
        """For TLS libraries; None if the kernel refused the program."""
        if _ON_FILES not in self._choice.programs:
            return None
        return Uprobes(self._lib, self._object.programs[_ON_FILES], self._multi)

    def detach(self) -> None:
        """From now on nothing is recorded; what is in the rings and maps can still be read."""
        while self._links:
            self._lib.c.bpf_link__destroy(self._links.popitem()[1])

    def source(self) -> RingSource:
        """The rings' only reader; to be closed before this."""
        atomics, pages, fds = Atomics(), [], []
        for name in ("exchanges", "long_exchanges", "events", "frames"):
            at = self._object.map(name)
            fd = self._lib.call(f"ring {name}", self._lib.c.bpf_map__fd(at))
            try:
                pages.append(Pages.of_map(fd, self._lib.c.bpf_map__max_entries(at), atomics))
            except OSError as error:
                raise CannotStart(f"cannot map the ring {name}: {error.strerror}; lower the rings' sizes") from error
            fds.append(fd)
        short, long, events, frames = pages
        return RingSource(short, long, events, frames, fds[2], (fds[0], fds[1], fds[3]))

    def processes(self) -> dict[int, tuple[int, int]]:
        """tgid -> (svc, verdict)"""
        keys, values = self._procs.read()
        return dict(zip(keys.tolist(), values.tolist(), strict=True))

    def set_process(self, tgid: int, svc: int, verdict: int) -> None:
        """Raises BpfError if the map is full."""
        self._procs.update(tgid, (svc, verdict))
        self._not_known(tgid)

    def delete_process(self, tgid: int) -> bool:
        """Whether it was there. Only for a process that was gone before `attach`: the kernel deletes the others."""
        deleted = self._procs.delete(tgid)
        self._not_known(tgid)
        return deleted

    def _not_known(self, tgid: int) -> None:
        """As not_known() of process.h: after a change in `procs`, each time another word."""
        self._forgotten += 1
        self._known.update(tgid % self._known.max_entries, _NOT_KNOWN | self._forgotten)

    def set_ports(self, ports: Iterable[int]) -> None:
        """Whoever begins to listen on one of these ports is watched from then on; replaces the ports set before."""
        bits = np.zeros(PORTS, np.uint8)
        bits[list(ports)] = 1
        words = np.packbits(bits, bitorder="little").view(_U64)
        for word in np.flatnonzero(words != self._ports):
            self._port_words.update(word, words[word])
        self._ports = words

    def read_red(self) -> tuple[NDArray[np.void], NDArray[np.void]]:
        """All counts: keys (n,) of dtype abi.RED_KEY, values (n, possible CPUs) of abi.RED. See `red_chunks`."""
        keys, values = self._red.read(self._expected[0])
        shared_keys, shared = self._red_shared.read(self._expected[1])
        self._expected[:2] = len(keys), len(shared_keys)
        return _with_shared(keys, values, shared_keys, shared)

    def red_chunks(self) -> Iterator[tuple[NDArray[np.void], NDArray[np.void]]]:
        """As `read_red`, about 1 MB at a time, for machines where CPUs times keys are much memory.

        A key may come twice: then its counts are to be added up.
        """
        yield from self._red.chunks()
        for keys, values in self._red_shared.chunks():
            yield keys, _widened(values, self._lib.cpus)

    def delete_red(self, keys: NDArray[np.void]) -> NDArray[np.void]:
        """Deletes keys of services that are gone, all of each service; their places are free again for other keys.

        Returns their counts at that moment, (n, CPUs), which may be newer than those read before.
        """
        values = self._red.take(keys)
        if len(self._red_shared.read()[0]):
            _add(values[:, 0], self._red_shared.take(keys))
        services = np.unique(keys["svc"])
        freed = int(self._service_keys.take(services).sum())
        total = self._service_keys.lookup(0)
        if total is not None and freed:
            # Not atomic with the kernel's own additions: a bound that gives way by one or two, no count.
            self._service_keys.update(0, max(0, int(total) - freed))
        return values

    def read_losses(self) -> dict[tuple[int, int], int]:
        """(svc, abi.Loss) -> how many since the load. svc 0: no service known."""
        keys, values = self._losses.read(self._expected[2])
        self._expected[2] = len(keys)
        return {(int(k["svc"]), int(k["reason"])): int(v) for k, v in zip(keys, values, strict=True)}

    def enable_stats(self) -> bool:
        """Lets the kernel count runs and time of all BPF programs until `close`; False if it refuses."""
        if self._stats_fd < 0:
            self._stats_fd = self._lib.c.bpf_enable_stats(_STATS_RUN_TIME)
        return self._stats_fd >= 0

    def stats(self) -> dict[str, Stats]:
        """By program."""
        found = {}
        for name, fd in self._object.descriptors():
            info = np.zeros(_PROG_INFO_U64, _U64)
            size = ctypes.c_uint32(info.nbytes)
            self._lib.call("reading statistics", self._lib.c.bpf_obj_get_info_by_fd(fd, info.ctypes.data, size))
            found[name] = Stats(int(info[_RUN_CNT]), int(info[_RUN_TIME_NS]), int(info[_MISSED]))
        return found

    def missed(self) -> dict[str, int]:
        """Program -> runs that the kernel left out since the load (`Stats.missed`), of those that have some."""
        return {name: stats.missed for name, stats in self.stats().items() if stats.missed}

    def close(self) -> None:
        """Detaches and unloads. May be called again; nothing else may be called after."""
        self.detach()
        if self._stats_fd >= 0:
            os.close(self._stats_fd)
            self._stats_fd = -1
        self._object.close()


def _sections(lib: Libbpf, path: Path) -> dict[str, str]:
    opened = BpfObject(lib, path)
    try:
        return opened.sections()
    finally:
        opened.close()


def _load(
    lib: Libbpf, path: Path, choice: Choice, sizes: MapSizes, constants: bytes, multi: bool
) -> tuple[BpfObject | None, list[tuple[str, str]]]:
    """(the loaded object, []) or (None, [(program, reason)]). Raises BpfError or CannotStart."""
    opened = BpfObject(lib, path)
    try:
        opened.select(choice.programs)
        if multi and _ON_FILES in choice.programs:
            opened.expect(_ON_FILES, UPROBE_MULTI)
        opened.resize(asdict(sizes))
        opened.write_constant("settings", constants)
        failed = opened.load()
    except BaseException:
        opened.close()
        raise
    if failed is None:
        return opened, []
    opened.close()
    if failed[0] not in choice.programs:
        raise CannotStart(f"the probes cannot be loaded: {failed[0]}: {failed[1]}")
    return None, [failed]


def _add(to: NDArray[np.void], counts: NDArray[np.void]) -> None:
    """Adds RED (n,) to RED (n,), place by place; buckets wrap as the kernel's own."""
    for name in RED.names or ():
        to[name] += counts[name]


def _widened(shared: NDArray[np.void], cpus: int) -> NDArray[np.void]:
    """Counts of all CPUs in common, (n,), as if the first CPU had made them, (n, cpus)."""
    wide = np.zeros((len(shared), cpus), RED)
    wide[:, 0] = shared
    return wide


def _with_shared(
    keys: NDArray[np.void], values: NDArray[np.void], shared_keys: NDArray[np.void], shared: NDArray[np.void]
) -> tuple[NDArray[np.void], NDArray[np.void]]:
    """One reading of both maps. A key is in both if two CPUs met it first at the same moment."""
    if not len(shared_keys):
        return keys, values
    size = RED_KEY.itemsize
    raw, at = keys.tobytes(), {}
    for place in range(len(keys)):
        at[raw[place * size : (place + 1) * size]] = place
    places = np.array([at.get(key.tobytes(), -1) for key in shared_keys], np.intp)
    both = places >= 0
    if both.any():
        first = values[places[both], 0]
        _add(first, shared[both])
        values[places[both], 0] = first
    wide = _widened(shared[~both], values.shape[1])
    return np.concatenate([keys, shared_keys[~both]]), np.concatenate([values, wide])
