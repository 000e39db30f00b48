# SPDX-License-Identifier: Apache-2.0
"""gRPC: its framing of messages, and its calls in OpenTelemetry's semantic conventions (RPC, 1.27 to 1.37).

In: body bytes; path, content type and grpc-status of an HTTP/2 exchange. Out: counts, names, attributes. The rule: a
status that was not on the wire is not made up, although clients show one of their own (CANCELLED, UNAVAILABLE ...).

`rpc.system`, `rpc.service`, `rpc.method`, `rpc.grpc.status_code` are the names until 1.37, the version of the project's
HTTP conventions; `error.type` is the status's name. The wire: grpc/grpc, doc/PROTOCOL-HTTP2.md.
"""

from __future__ import annotations

from typing import Final

from instrumenter.bpf.abi import Direction
from instrumenter.model import Attributes
from instrumenter.protocols.http2_headers import UNKNOWN, Unknown, Value
from instrumenter.routes import printable
from instrumenter.semantics import OTHER

CODES: Final = (
    "OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS",
    "PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED",
    "INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED",
)  # fmt: skip
# What a server is to blame for; a client fails with all but OK.
SERVER_ERRORS: Final = frozenset(
    map(CODES.index, ("UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"))
)
_PREFIX: Final = 5  # compressed-flag and length, before each message


def is_grpc(content_type: Value) -> bool | Unknown:
    """Whether a message of this content type is gRPC's: application/grpc, +proto, +json ...; not grpc-web."""
    if isinstance(content_type, Unknown):
        return UNKNOWN
    rest = (content_type or b"").lower()
    return rest.startswith(b"application/grpc") and rest[16:17] in (b"", b"+", b";", b" ")


def service_and_method(path: bytes) -> tuple[str, str] | None:
    """(`package.Service`, `Method`) of `/package.Service/Method`; None for a path of another form."""
    service, slash, method = path.partition(b"?")[0].rpartition(b"/")
    if not slash or not method or not service.startswith(b"/") or len(service) < 2:
        return None
    return printable(service[1:]), printable(method)


def status_code(grpc_status: bytes) -> int | None:
    """The number of a `grpc-status` field; None if it is none (clients take it for UNKNOWN)."""
    return int(grpc_status) if grpc_status.isdigit() and len(grpc_status) <= 9 else None


def error_type(code: int, direction: Direction) -> str | None:
    """`error.type` of a call that ended with this code; None if this side did not fail."""
    if code >= len(CODES):
        return OTHER
    failed = code in SERVER_ERRORS if direction == Direction.SERVER else code != 0
    return CODES[code] if failed else None


def attributes(path: Value, grpc_status: Value, direction: Direction) -> Attributes:
    """What the conventions add to a span of a gRPC call, sorted; what is unknown is absent."""
    found: dict[str, str | int] = {"rpc.system": "grpc"}
    names = service_and_method(path) if isinstance(path, bytes) else None
    if names is not None:
        found["rpc.service"], found["rpc.method"] = names
    if isinstance(grpc_status, bytes):
        code = status_code(grpc_status)
        if code is not None:
            found["rpc.grpc.status_code"] = code
        error = OTHER if code is None else error_type(code, direction)
        if error is not None:
            found["error.type"] = error
    return tuple(sorted(found.items()))


def span_name(path: Value) -> str:
    """`package.Service/Method`; `grpc` where that is not known."""
    names = service_and_method(path) if isinstance(path, bytes) else None
    return "/".join(names) if names is not None else "grpc"


class MessageCounter:
    """Counts the messages of one stream's half by their prefixes: 1 byte compressed-flag, 4 bytes length."""

    __slots__ = ("_begun", "_left", "_lost", "_prefix")

    def __init__(self) -> None:
        self._begun = 0
        self._left = 0  # of the message at hand
        self._prefix = bytearray()
        self._lost = False

    def feed(self, body: bytes | memoryview) -> None:
        """The next body bytes."""
        while len(body) and not self._lost:
            passed = min(self._left, len(body))
            self._left -= passed
            body = body[passed:]
            if self._left or not len(body):
                return
            need = _PREFIX - len(self._prefix)
            self._prefix += body[:need]
            body = body[need:]
            if len(self._prefix) == _PREFIX:
                self._begin()

    def _begin(self) -> None:
        self._lost = self._prefix[0] > 1  # not gRPC
        self._left = int.from_bytes(self._prefix[1:])
        self._begun += 1
        self._prefix.clear()

    def skip(self, size: int) -> None:
        """Body bytes that could not be read."""
        if size > self._left:
            self._lost = True
        self._left -= min(size, self._left)

    def take(self) -> int | None:
        """Messages begun since the last time; None from where they could no longer be followed."""
        begun, self._begun = self._begun, 0
        return None if self._lost else begun
