# SPDX-License-Identifier: Apache-2.0
"""Well-formed messages of HTTP/1 (RFC 9112), as bytes, for tests to send: whole, or to be cut where they like.

In: what they say. Out: what is on the wire, to the byte.
"""

from __future__ import annotations

from collections.abc import Sequence


def head(method: str = "GET", target: str = "/", *fields: str, host: str = "h", version: str = "1.1") -> bytes:
    """A request's head."""
    lines = [f"{method} {target} HTTP/{version}", *([f"Host: {host}"] if host else []), *fields]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


def answer(status: int = 200, body: bytes = b"", *fields: str, version: str = "1.1") -> bytes:
    """A response with Content-Length, and all of its body."""
    lines = [f"HTTP/{version} {status} x", f"Content-Length: {len(body)}", *fields]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


def response_head(status: int, *fields: str, version: str = "1.1") -> bytes:
    return "\r\n".join([f"HTTP/{version} {status} x", *fields, "", ""]).encode("latin-1")


def chunks(*pieces: bytes, extension: str = "", trailers: Sequence[str] = ()) -> bytes:
    """A chunked body (RFC 9112, 7.1)."""
    body = b"".join(b"%x%b\r\n%b\r\n" % (len(piece), extension.encode(), piece) for piece in pieces)
    return body + "\r\n".join(["0", *trailers, "", ""]).encode("latin-1")
