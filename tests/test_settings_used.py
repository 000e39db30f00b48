# SPDX-License-Identifier: Apache-2.0
"""No setting without an effect: each is read by the code, under its own name or by the way that its group is handed on.

What the code then makes of a setting is for other tests to show; this one finds those that nobody looks at.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from exporters.otlp_options import Signal, batch_options, otlp_options
from instrumenter.config_load import Leaf, leaves
from instrumenter.discovery.selection import Selection

ROOT = Path(__file__).resolve().parents[1]


def attributes(source: str) -> Iterator[tuple[str, str]]:
    """`a.b.c` and `a.b` as (b, c) and (a, b)."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute):
            owner = node.value
            yield owner.attr if isinstance(owner, ast.Attribute) else getattr(owner, "id", ""), node.attr


READ = {
    pair for package in ("instrumenter", "exporters") for path in (ROOT / package).rglob("*.py")
    for pair in attributes(path.read_text())
}  # fmt: skip


class Asked(dict[str, str]):
    """An environment that remembers what it was asked for."""

    def __init__(self, *args: object, **kwargs: str) -> None:
        super().__init__(*args, **kwargs)
        self.names: set[str] = set()

    def get(self, key: str, default: str = "") -> str:  # type: ignore[override]
        self.names.add(key)
        return super().get(key, default)


def asked() -> set[str]:
    """The variables that the OTLP exporters look at; settings of `otlp` reach them as these."""
    names: set[str] = set()
    signals: tuple[Signal, ...] = ("traces", "metrics")
    for signal in signals:
        for protocol in ("grpc", "http/protobuf"):
            environ = Asked(OTEL_EXPORTER_OTLP_PROTOCOL=protocol)
            otlp_options(signal, environ)
            batch_options(environ)
            names |= environ.names
    return names


ASKED = asked()


def used(leaf: Leaf) -> bool:
    """selection.py takes its fields from `discovery` by their names, otlp_options.py its variables from `otlp`."""
    group = leaf.path[-2] if len(leaf.path) > 1 else "settings"
    if group == "discovery" and leaf.path[-1] in Selection.__dataclass_fields__:
        return ("selection", leaf.path[-1]) in READ or ("self", leaf.path[-1]) in READ
    if leaf.path[0] == "otlp" and leaf.otel:
        return set(leaf.otel) <= ASKED
    return (group, leaf.path[-1]) in READ


@pytest.mark.parametrize("leaf", list(leaves()), ids=lambda leaf: leaf.name)
def test_every_setting_is_read(leaf: Leaf) -> None:
    assert used(leaf), f"{leaf.name} is declared in config.py, but nothing reads it"


def test_a_setting_that_nobody_reads_is_found() -> None:
    some = next(iter(leaves()))
    for path in (("metrics", "forgotten"), ("discovery", "forgotten"), ("forgotten",)):
        assert not used(Leaf(path, some.field))
