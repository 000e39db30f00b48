# SPDX-License-Identifier: Apache-2.0
"""One compiled object of probes: opened, set up, loaded.

In: a file. Out: programs and maps by name. The one rule: what is set before the load (autoload, sizes, read-only data)
is set by name, and a name that the object lacks is an error of the build, said as such.
"""

from __future__ import annotations

import ctypes
import mmap
import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

from instrumenter.bpf.choose import first_reason
from instrumenter.bpf.libbpf import BpfError, Libbpf
from instrumenter.errors import CannotStart

RINGBUF = 27  # enum bpf_map_type
_DATASEC = 15  # BTF kind
_FAILED = re.compile(r"prog '(\w+)': .*(?:failed|can't|invalid)")


class BpfObject:
    """Owns a `struct bpf_object`; after `close` nothing of it may be used."""

    def __init__(self, lib: Libbpf, path: Path) -> None:
        """Opens, without loading. Raises CannotStart: not an object of probes."""
        self._lib, self._path = lib, path
        try:
            self._object = lib.pointer("opening", lib.c.bpf_object__open_file(str(path).encode(), None))
        except BpfError as error:
            raise CannotStart(f"cannot open the probes {path}: {error.reason}; build them with `make bpf`") from error
        self.programs: dict[str, int] = {}  # name -> struct bpf_program *
        at: int | None = None
        while at := lib.c.bpf_object__next_program(self._object, at):
            self.programs[lib.c.bpf_program__name(at).decode()] = at

    def sections(self) -> dict[str, str]:
        """Program -> its section, such as `fexit/tcp_recvmsg`."""
        name = self._lib.c.bpf_program__section_name
        return {program: name(at).decode().lstrip("?") for program, at in self.programs.items()}

    def map(self, name: str) -> int:
        """A `struct bpf_map *`."""
        at = self._lib.c.bpf_object__find_map_by_name(self._object, name.encode())
        if not at:
            raise CannotStart(f"the probes {self._path} have no map {name}: build them with `make bpf`")
        return int(at)

    def select(self, programs: Collection[str]) -> None:
        """Only these will be loaded."""
        for name, at in self.programs.items():
            self._lib.call(f"choosing {name}", self._lib.c.bpf_program__set_autoload(at, name in programs))

    def expect(self, program: str, attach_type: int) -> None:
        """What the program will be attached as (enum bpf_attach_type)."""
        expect = self._lib.c.bpf_program__set_expected_attach_type
        self._lib.call(f"preparing {program}", expect(self.programs[program], attach_type))

    def resize(self, sizes: Mapping[str, int]) -> None:
        """max_entries by map; a ring's bytes are rounded up to a power of 2 of whole pages."""
        for name, size in sizes.items():
            at = self.map(name)
            if self._lib.c.bpf_map__type(at) == RINGBUF:
                size = max(mmap.PAGESIZE, 1 << (size - 1).bit_length())
            self._lib.call(f"sizing map {name}", self._lib.c.bpf_map__set_max_entries(at, size))

    def write_constant(self, variable: str, value: bytes) -> None:
        """Sets a `const volatile` variable of .rodata. Raises CannotStart: absent, or of another size."""
        offset, size = self._constants().get(variable, (0, 0))
        if size != len(value):
            raise CannotStart(
                f"the probes {self._path} have {size} bytes of `{variable}`, the agent {len(value)}: run `make bpf`"
            )
        room = ctypes.c_size_t()
        at = self._lib.c.bpf_map__initial_value(self.map(".rodata"), ctypes.byref(room))
        start = self._lib.pointer("reading .rodata", at) + offset
        ctypes.memmove(start, value, size)

    def _constants(self) -> dict[str, tuple[int, int]]:
        """Variable -> (offset, size) in .rodata, by the object's BTF (struct btf_type, struct btf_var_secinfo)."""
        c = self._lib.c
        btf = self._lib.pointer("reading the probes' BTF", c.bpf_object__btf(self._object))
        section = c.btf__find_by_name_kind(btf, b".rodata", _DATASEC)
        if section < 0:
            return {}
        at = c.btf__type_by_id(btf, section)
        count = ctypes.c_uint32.from_address(at + 4).value & 0xFFFF
        words = (ctypes.c_uint32 * (3 * count)).from_address(at + 12)[:]
        found = {}
        for type_id, offset, size in zip(words[::3], words[1::3], words[2::3], strict=True):
            name_at = ctypes.c_uint32.from_address(c.btf__type_by_id(btf, type_id)).value
            found[c.btf__name_by_offset(btf, name_at).decode()] = (offset, size)
        return found

    def load(self) -> tuple[str, str] | None:
        """None, or (program, reason) if one program was refused. An object that was refused can only be closed.

        Raises BpfError if the refusal was of something else, such as a map.
        """
        self._lib.log.take()
        result = self._lib.c.bpf_object__load(self._object)
        log = self._lib.log.take()
        if result == 0:
            return None
        named = [found[1] for line in log if (found := _FAILED.search(line))]
        if not named:
            raise BpfError(f"loading the probes {self._path.name}", -result, log)
        return named[-1], first_reason(log, -result)

    def attach(self, program: str) -> int:
        """A `struct bpf_link *`; raises BpfError."""
        return self._lib.pointer(f"attaching {program}", self._lib.c.bpf_program__attach(self.programs[program]))

    def descriptors(self) -> Iterator[tuple[str, int]]:
        """(program, descriptor) of those that are loaded."""
        for name, at in self.programs.items():
            fd = self._lib.c.bpf_program__fd(at)
            if fd >= 0:
                yield name, fd

    def close(self) -> None:
        if self._object:
            self._lib.c.bpf_object__close(self._object)
            self._object = 0
            self.programs = {}
