# SPDX-License-Identifier: Apache-2.0
"""Low-cardinality templates of request paths: what `http.route` and `url.template` say.

In: a request target as it was on the wire. Out: its template. The rule this file protects: the kernel hashes the same
template (probes/include), so both sides must cut and fold alike, byte for byte; the string is made here once per hash.

The rules, in order:

1. The path is the target up to the first `?` or `#`.
2. Absolute-form (RFC 9112, 3.2.2), `http` or `https` in any case: the path begins at the first `/` after the
   authority.
3. An empty path is `/`. What now does not begin with `/` (`*`, CONNECT's authority, garbage) is `*` as a whole.
4. The path is split at `/` into segments, empty ones included. More than 16: the 16th and all after it become `**`.
5. A segment becomes `*` if it is
   - one or more digits, or
   - a UUID: 8-4-4-4-12 hex digits, or
   - 8 or more hex digits, at least one of them 0 to 9, and nothing else, or
   - 24 or more bytes with at least one digit, or
   - more than 48 bytes.

Digits are ASCII; hex digits of either case; lengths are of bytes as on the wire, nothing is percent-decoded.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

MAX_SEGMENTS: Final = 16
HEX_MIN: Final = 8
RANDOM_MIN: Final = 24
PLAIN_MAX: Final = 48

_DIGITS: Final = frozenset(b"0123456789")
_HEX: Final = frozenset(b"0123456789abcdefABCDEF")
_UUID_LENGTH: Final = 36
_UUID_DASHES: Final = (8, 13, 18, 23)
_PRINTABLE: Final = {b: chr(b) if 0x20 <= b <= 0x7E else f"%{b:02X}" for b in range(256)}


def printable(text: bytes) -> str:
    """The text with every byte outside printable ASCII as %XX: valid in any protocol, and nothing is lost."""
    if text.isascii() and text.decode("ascii").isprintable():
        return text.decode("ascii")
    return "".join([_PRINTABLE[b] for b in text])


def template(target: bytes) -> str:
    """The template of a request target, by the rules above: `/users/42?x=1` -> `/users/*`. Any bytes are taken."""
    path = target.partition(b"?")[0].partition(b"#")[0]
    scheme = path.find(b"://")
    if scheme > 0 and path[0] in b"hH":
        _, slash, rest = path[scheme + 3 :].partition(b"/")
        path = slash + rest
    if not path:
        return "/"
    if not path.startswith(b"/"):
        return "*"
    segments = path[1:].split(b"/")
    kept = segments if len(segments) <= MAX_SEGMENTS else segments[: MAX_SEGMENTS - 1]
    names = ["*" if _varies(s) else printable(s) for s in kept]
    if len(kept) < len(segments):
        names.append("**")
    return "/" + "/".join(names)


def _varies(segment: bytes) -> bool:
    """Whether a segment names one of many things of a kind (rule 5)."""
    length = len(segment)
    if length > PLAIN_MAX:
        return True
    if _DIGITS.isdisjoint(segment):
        return length == _UUID_LENGTH and _is_uuid(segment)
    if length >= RANDOM_MIN or _DIGITS.issuperset(segment):
        return True
    return length >= HEX_MIN and _HEX.issuperset(segment)


def _is_uuid(segment: bytes) -> bool:
    return all(b == ord("-") if i in _UUID_DASHES else b in _HEX for i, b in enumerate(segment))


def registered(pattern: bytes) -> str:
    """The path of a pattern of Go's ServeMux, `[METHOD ][HOST]/[PATH]`: `GET a.org/users/{id}` -> `/users/{id}`."""
    return printable(pattern[pattern.find(b"/") :])


class Routes:
    """hash of a template -> the template, learned from the first target seen with that hash.

    At most `limit` are kept; then it begins anew, so that hashes without end cannot hold memory.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._known: dict[int, str] = {}
        self._registered: dict[int, str] = {}

    def register(self, route: int, pattern: bytes) -> None:
        """The hash stands for a pattern that the program itself registered, which came before any request of it."""
        if len(self._registered) >= self._limit:
            self._registered.clear()
        self._registered[route] = self._known[route] = registered(pattern)

    def name(self, route: int, target: bytes, make: Callable[[bytes], str] = template) -> str:
        known = self._known.get(route)
        if known is None:
            if len(self._known) >= self._limit:
                self._known.clear()
            known = self._known[route] = self._registered.get(route) or make(target)
        return known
