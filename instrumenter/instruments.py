# SPDX-License-Identifier: Apache-2.0
"""The histograms of OpenTelemetry's semantic conventions (HTTP 1.37, RPC 1.37) that one row of the RED map fills.

In: what kind of exchange, and a direction. Out: names, units and descriptions, in the order of the row's bucket arrays.
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


Instruments = tuple[Instrument, Instrument, Instrument]


def _http(side: str) -> Instruments:
    return (
        Instrument(f"http.{side}.request.duration", "s", f"Duration of HTTP {side} requests."),
        Instrument(f"http.{side}.request.body.size", "By", f"Size of HTTP {side} request bodies."),
        Instrument(f"http.{side}.response.body.size", "By", f"Size of HTTP {side} response bodies."),
    )


def _rpc(side: str, bound: str) -> Instruments:
    return (
        Instrument(f"rpc.{side}.duration", "ms", f"Measures the duration of {bound} RPC."),
        Instrument(f"rpc.{side}.requests_per_rpc", "{count}", "Number of request messages of each RPC."),
        Instrument(f"rpc.{side}.responses_per_rpc", "{count}", "Number of response messages of each RPC."),
    )


HTTP: Final[Mapping[int, Instruments]] = {Direction.SERVER: _http("server"), Direction.CLIENT: _http("client")}
RPC: Final[Mapping[int, Instruments]] = {
    Direction.SERVER: _rpc("server", "inbound"),
    Direction.CLIENT: _rpc("client", "outbound"),
}
