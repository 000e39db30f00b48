# SPDX-License-Identifier: Apache-2.0
"""Small ELF files for the tests: compiled by clang into build/, and broken ones made of them."""

from __future__ import annotations

import functools
import random
import subprocess
from collections.abc import Iterator
from pathlib import Path

from running import ROOT

BUILD = ROOT / "build" / "elf"


@functools.cache
def compiled(name: str, source: str, *flags: str) -> Path:
    """build/elf/NAME of this C source. Compiled by each run, which takes some milliseconds."""
    BUILD.mkdir(parents=True, exist_ok=True)
    path = BUILD / name
    command = ["clang", "-g0", "-O1", "-Wl,--build-id=sha1", "-x", "c", "-", "-x", "none", "-o", str(path), *flags]
    subprocess.run(command, input=source.encode(), check=True)
    return path


def library(name: str, functions: str, *flags: str) -> Path:
    """A shared library that defines these functions, by their names with spaces between."""
    source = "".join(f"int {function}(int x) {{ return x + {i}; }}\n" for i, function in enumerate(functions.split()))
    return compiled(name, source, "-shared", "-fPIC", *flags)


def broken(good: bytes, count: int, seed: int = 1) -> Iterator[bytes]:
    """Truncated at many places, then `count` copies with some bytes of the headers or anywhere changed."""
    for size in (0, 1, 5, 20, 63, 64, 65, 200, 1000, len(good) // 2, len(good) - 64, len(good) - 1):
        yield good[:size]
    draw = random.Random(seed)
    headers = int.from_bytes(good[40:48], "little")
    for _ in range(count):
        data = bytearray(good)
        for _ in range(draw.choice((1, 2, 8, 64))):
            places = (draw.randrange(64), draw.randrange(64, 700), headers + draw.randrange(len(good) - headers))
            data[draw.choice((*places, draw.randrange(len(good))))] = draw.choice((0, 1, 127, 255, draw.randrange(256)))
        yield bytes(data)
