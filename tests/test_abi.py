# SPDX-License-Identifier: Apache-2.0
"""The contract between the kernel side and Python: every dtype against the BTF of both objects, every name and number
against abi.h itself. No root, no compiler."""

from __future__ import annotations

import re
from enum import IntEnum, IntFlag
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from btf import Btf

from instrumenter.bpf import abi, abi_go
from instrumenter.bpf.libbpf import OBJECTS

INCLUDE = Path(__file__).resolve().parent.parent / "probes" / "include"
HEADERS = tuple(INCLUDE / name for name in ("abi.h", "abi_frames.h", "abi_go.h", "abi_parents.h", "abi_tls.h"))
STRUCTS = {
    "red_key": abi.RED_KEY,
    "red": abi.RED,
    "exchange": abi.EXCHANGE,
    "exchange_short": abi.EXCHANGE_SHORT,
    "exchange_long": abi.EXCHANGE_LONG,
    "event": abi.EVENT,
    "frames": abi.FRAMES,
    "endpoints": abi.ENDPOINTS,
    "data_frame": abi.DATA_FRAME,
    "process": abi.PROCESS,
    "go_stack": abi_go.GO_STACK,
    "loss_key": abi.LOSS_KEY,
    "settings": abi.SETTINGS,
}
ENUMS: dict[str, tuple[str, type[IntEnum] | type[IntFlag]]] = {
    "direction": ("DIRECTION_", abi.Direction),
    "protocol": ("PROTOCOL_", abi.Protocol),
    "outcome": ("OUTCOME_", abi.Outcome),
    "verdict": ("VERDICT_", abi.Verdict),
    "event_kind": ("EVENT_", abi.EventKind),
    "loss": ("LOSS_", abi.Loss),
    "exchange_flag": ("FLAG_", abi.Flag),
    "parent_rule": ("RULE_", abi.Rule),
    "frames_kind": ("FRAMES_", abi.FramesKind),
    "frames_flag": ("FRAMES_", abi.FramesFlag),
    "sampler": ("SAMPLER_", abi.Sampler),
    "tls_call": ("TLS_", abi.TlsCall),
    "go_serve": ("GO_", abi_go.GoServe),
    "go_router": ("GO_", abi_go.GoRouter),
    "go_stack_verdict": ("STACK_", abi_go.GoStackVerdict),
}


@lru_cache
def btf_of(machine: str) -> Btf:
    path = OBJECTS / f"probes.{machine}.bpf.o"
    if not path.exists():
        pytest.fail(f"{path} is not built: run `make bpf`")
    return Btf(path)


def layout(dtype: np.dtype[Any]) -> tuple[int, dict[str, tuple[int, int]]]:
    assert dtype.fields is not None
    return dtype.itemsize, {name: (field[1], field[0].itemsize) for name, field in dtype.fields.items()}


def without_comments() -> str:
    return re.sub(r"/\*.*?\*/", "", "".join(header.read_text() for header in HEADERS), flags=re.DOTALL)


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
@pytest.mark.parametrize("name", STRUCTS)
def test_layout(machine: str, name: str) -> None:
    assert layout(STRUCTS[name]) == btf_of(machine).struct(name)


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_enums_of_the_object(machine: str) -> None:
    """The compiler keeps an enum only where a type uses it: whatever is there must be the same."""
    for name, values in btf_of(machine).enums().items():
        if name in ENUMS:
            prefix, enum = ENUMS[name]
            assert {prefix + m.name: m.value for m in enum if m.name} == values, name


@pytest.mark.parametrize("name", ENUMS)
def test_enums_of_the_header(name: str) -> None:
    prefix, enum = ENUMS[name]
    body = re.search(rf"enum {name} {{(.*?)}}", without_comments(), re.DOTALL)
    assert body, f"abi.h has no enum {name}"
    values = {key: int(value, 0) for key, value in re.findall(r"(\w+) = (\w+)", body[1])}
    assert {prefix + m.name: m.value for m in enum if m.name} == values


def test_nothing_of_the_header_is_missing_here() -> None:
    text = without_comments()
    assert set(re.findall(r"^struct (\w+) {", text, re.MULTILINE)) == set(STRUCTS)
    assert set(re.findall(r"^enum (\w+) {", text, re.MULTILINE)) == set(ENUMS)


def test_constants() -> None:
    defined = dict(re.findall(r"^#define (\w+) +(\d+)", without_comments(), re.MULTILINE))
    assert defined
    known = {**vars(abi), **vars(abi_go)}
    assert {name: known.get(name) for name in defined} == {name: int(v) for name, v in defined.items()}


def test_every_field_is_little_endian_and_on_its_boundary() -> None:
    """Explicit padding: C on both architectures puts each field where it stands, and adds nothing at the end."""
    for name, dtype in STRUCTS.items():
        assert dtype.fields is not None
        end = 0
        for field, (kind, offset, *_) in dtype.fields.items():
            assert offset == end, f"{name}.{field} leaves a hole"
            assert kind.base.byteorder in "<|=", f"{name}.{field}"
            end = offset + kind.itemsize
        assert end == dtype.itemsize
