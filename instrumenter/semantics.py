# SPDX-License-Identifier: Apache-2.0
"""What the numbers of a metric key mean in OpenTelemetry's semantic conventions (stable HTTP, 1.37).

In: the fields of `struct red_key`. Out: attribute values. The rule this file protects: spans (`names`) and metrics
(`labels`) of one exchange say the same.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import Final, NamedTuple

from instrumenter.bpf.abi import Direction, Outcome, Protocol
from instrumenter.routes import printable

OTHER: Final = "_OTHER"
# RFC 9110, PATCH (RFC 5789) and QUERY; the order is the kernel's table, see settings.methods in abi.h.
METHODS: Final = ("CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "TRACE", "QUERY")
# The conventions' list for url.query and url.full, then what else carries credentials in practice. Lower case.
SENSITIVE: Final = frozenset({
    "awsaccesskeyid", "signature", "sig", "x-goog-signature", "x-amz-signature", "x-amz-credential",
    "x-amz-security-token",
    "x-goog-credential", "access_token", "refresh_token", "id_token", "auth_token", "token", "api_key", "apikey",
    "api-key", "access_key", "password", "passwd", "pwd", "secret", "client_secret",
})  # fmt: skip

GRPC_STATUS: Final = 1000  # red_key.status of a gRPC call: this and its grpc-status
_VERSIONS: Final = {
    int(Protocol.HTTP_1_0): "1.0",
    int(Protocol.HTTP_1_1): "1.1",
    int(Protocol.HTTP_2): "2",
    int(Protocol.GRPC): "2",
}
HTTPS: Final = 443  # the port that an https URL need not name
# ProtocolVersion on the wire (RFC 8446, 4.1.2 and appendix B.3.1.1) -> tls.protocol.name and .version.
_TLS_VERSIONS: Final = {
    0x0300: ("ssl", "3"), 0x0301: ("tls", "1.0"), 0x0302: ("tls", "1.1"), 0x0303: ("tls", "1.2"),
    0x0304: ("tls", "1.3"),
}  # fmt: skip
_FAILURES: Final = {
    int(Outcome.PEER_CLOSED): "peer_closed",
    int(Outcome.RESET): "connection_reset",
    int(Outcome.LOCAL_CLOSED): "connection_closed",
    int(Outcome.UNREADABLE): "unreadable_response",
}


@dataclass(frozen=True, slots=True)
class NameOptions:
    """How exchanges are named.

    methods: tokens with a name of their own, in the order of the kernel's settings.methods; sensitive: query
    parameters, lower case, whose values are replaced by REDACTED (empty: none); keep_errors, slow_ns (ns, 0: off): as
    given to the kernel's sampler; parent_rule: spans tell what chose their parent; max_cached: shapes, routes, hosts
    and addresses remembered, each.
    """

    methods: tuple[str, ...] = METHODS
    sensitive: frozenset[str] = SENSITIVE
    keep_errors: bool = False
    slow_ns: int = 0
    parent_rule: bool = False
    max_cached: int = 8192


class Key(NamedTuple):
    """A metric key's numbers, in the order of `struct red_key`."""

    route: int
    svc: int
    peer: int
    status: int
    method: int
    protocol: int
    direction: int
    outcome: int
    tls: int
    pad: int = 0

    def method_name(self, methods: tuple[str, ...]) -> str:
        return methods[self.method - 1] if 0 < self.method <= len(methods) else OTHER

    @property
    def is_server(self) -> bool:
        return self.direction == Direction.SERVER

    @property
    def version(self) -> str | None:
        return _VERSIONS.get(self.protocol)

    @property
    def scheme(self) -> str:
        return "https" if self.tls else "http"

    @property
    def outcome_name(self) -> str | None:
        """None for a complete exchange."""
        return _FAILURES.get(self.outcome, OTHER) if self.outcome != Outcome.COMPLETE else None

    @property
    def error_type(self) -> str | None:
        """`error.type`, or None if the exchange did not fail (conventions for HTTP spans, section Status).

        A status that is an error for this side is its own type. Otherwise a response that did not arrive whole is an
        error too, except a server's 4xx, which the conventions never call one.
        """
        if self.status >= (500 if self.is_server else 400):
            return str(self.status)
        if self.status >= 400:
            return None
        return self.outcome_name or (OTHER if self.status == 0 else None)


def tls_facts(version: int) -> dict[str, str | None]:
    """Attributes of spans by the version of TLS as it is on the wire; 0: not known."""
    name, number = _TLS_VERSIONS.get(version, (None, None))
    return {"tls.protocol.name": name, "tls.protocol.version": number}


def address_text(packed: bytes) -> str:
    """16 bytes in network order as text; IPv4-mapped ones as IPv4 (RFC 4291, 2.5.5.2; RFC 5952)."""
    if packed[:12] == b"\0\0\0\0\0\0\0\0\0\0\xff\xff":
        return f"{packed[12]}.{packed[13]}.{packed[14]}.{packed[15]}"
    return str(ipaddress.IPv6Address(packed))


def split_host(host: bytes) -> tuple[str, int]:
    """A Host header or authority as (address, port): IPv6 without brackets, userinfo cut off, port -1 if none."""
    host = host.strip().rpartition(b"@")[2]
    if host.startswith(b"["):
        address, _, rest = host[1:].partition(b"]")
        port = rest.removeprefix(b":")
    else:
        address, _, port = host.partition(b":")
    number = int(port) if port.isdigit() and len(port) <= 5 else -1
    return printable(address), number if number <= 65535 else -1
