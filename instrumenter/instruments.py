# SPDX-License-Identifier: Apache-2.0
"""The histograms of OpenTelemetry's semantic conventions (HTTP metrics) that one row of the RED map fills.

In: a direction. Out: names, units and descriptions, in the order of the row's bucket arrays.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

from instrumenter.bpf.abi import Direction


class Instrument(NamedTuple):
    """One histogram of the semantic conventions."""

    name: str
    unit: str
    description: str


def _instruments(side: str) -> tuple[Instrument, Instrument, Instrument]:
    return (
        Instrument(f"http.{side}.request.duration", "s", f"Duration of HTTP {side} requests."),
        Instrument(f"http.{side}.request.body.size", "By", f"Size of HTTP {side} request bodies."),
        Instrument(f"http.{side}.response.body.size", "By", f"Size of HTTP {side} response bodies."),
    )


INSTRUMENTS: Final[Mapping[int, tuple[Instrument, Instrument, Instrument]]] = {
    Direction.SERVER: _instruments("server"),
    Direction.CLIENT: _instruments("client"),
}
