# SPDX-License-Identifier: Apache-2.0
"""gRPC in the semantic conventions: names, status, and what is whose error, as tables."""

from __future__ import annotations

import grpc
import pytest

from instrumenter.bpf.abi import Direction
from instrumenter.protocols.http2_headers import UNKNOWN, Value
from instrumenter.protocols.rpc import (
    CODES,
    MessageCounter,
    attributes,
    error_type,
    is_grpc,
    service_and_method,
    span_name,
    status_code,
)

SERVER, CLIENT = Direction.SERVER, Direction.CLIENT
TYPES = [
    (b"application/grpc", True), (b"application/grpc+proto", True), (b"Application/gRPC;x=1", True),
    (b"application/grpc-web", False), (b"application/grpc-web+proto", False), (b"application/grpcx", False),
    (b"application/json", False), (b"", False), (None, False), (UNKNOWN, UNKNOWN),
]  # fmt: skip
PATHS = [
    (b"/p.S/M", ("p.S", "M")), (b"/a/b/p.S/M", ("a/b/p.S", "M")), (b"/p.S/M?x=1", ("p.S", "M")),
    (b"/S\xff/M", ("S%FF", "M")), (b"/M", None), (b"//M", None), (b"/p.S/", None), (b"p.S/M", None), (b"*", None),
    (b"", None),
]  # fmt: skip
STATUSES = [(b"0", 0), (b"16", 16), (b"00", 0), (b"", None), (b"-1", None), (b"1.0", None), (b"9" * 10, None)]


@pytest.mark.parametrize(("content_type", "expected"), TYPES)
def test_content_types(content_type: Value, expected: object) -> None:
    assert is_grpc(content_type) is expected


@pytest.mark.parametrize(("path", "expected"), PATHS)
def test_paths(path: bytes, expected: tuple[str, str] | None) -> None:
    assert service_and_method(path) == expected


@pytest.mark.parametrize(("text", "expected"), STATUSES)
def test_statuses(text: bytes, expected: int | None) -> None:
    assert status_code(text) == expected


def test_codes_are_grpcs() -> None:
    assert {code.name: code.value[0] for code in grpc.StatusCode} == {name: n for n, name in enumerate(CODES)}


def test_whose_error() -> None:
    """The conventions' list for servers; all but OK for clients; what is no code is an error of both."""
    failed = {code: (error_type(code, SERVER), error_type(code, CLIENT)) for code in range(18)}
    assert {CODES[code] for code in range(17) if failed[code][0]} == {
        "UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS",
    }  # fmt: skip
    assert [failed[code][1] for code in range(17)] == [None, *CODES[1:]]
    assert failed[14] == ("UNAVAILABLE", "UNAVAILABLE")
    assert failed[17] == ("_OTHER", "_OTHER")


SYSTEM, CODE, ERROR = "rpc.system", "rpc.grpc.status_code", "error.type"
NAMES = {"rpc.service": "p.S", "rpc.method": "M"}


@pytest.mark.parametrize(
    ("path", "status", "direction", "expected"),
    [
        (b"/p.S/M", b"0", SERVER, {**NAMES, CODE: 0}),
        (b"/p.S/M", b"5", SERVER, {**NAMES, CODE: 5}),
        (b"/p.S/M", b"5", CLIENT, {**NAMES, CODE: 5, ERROR: "NOT_FOUND"}),
        (b"/p.S/M", b"13", SERVER, {**NAMES, CODE: 13, ERROR: "INTERNAL"}),
        (b"/p.S/M", b"x", SERVER, {**NAMES, ERROR: "_OTHER"}),
        (b"/p.S/M", None, SERVER, NAMES),
        (UNKNOWN, UNKNOWN, CLIENT, {}),
    ],
)
def test_attributes(path: Value, status: Value, direction: Direction, expected: dict[str, object]) -> None:
    assert dict(attributes(path, status, direction)) == {SYSTEM: "grpc", **expected}
    assert span_name(path) == ("p.S/M" if path is not UNKNOWN else "grpc")


def test_message_counter_cut_anywhere() -> None:
    body = b"\0\0\0\0\0" + b"\1\0\0\0\7" + b"\1" * 7 + b"\0\0\0\1\0" + b"\2" * 256
    for at in range(len(body)):
        counter = MessageCounter()
        counter.feed(body[:at])
        first = counter.take()
        counter.feed(body[at:])
        assert (first or 0) + (counter.take() or 0) == 3
    counter = MessageCounter()
    counter.feed(b"\7 is no message")
    assert counter.take() is None
