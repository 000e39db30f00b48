# SPDX-License-Identifier: Apache-2.0
"""The texts of request heads: method, target, Host and User-Agent of each exchange, fit to be shown.

In: exchange records and their text. Out: `Heads`, from which columns are cut. The rule this file protects: what leaves
here is printable ASCII without credentials, whatever bytes a peer sent. Rows are checked all at once; only those that
need it are rewritten one by one.
"""

from __future__ import annotations

import re
from typing import NamedTuple
from urllib.parse import unquote_to_bytes

import numpy as np

from instrumenter.columns import Bools, Cutter, Rows, within
from instrumenter.model import I64, U8
from instrumenter.routes import printable
from instrumenter.traces import Records

_QUESTION, _HASH, _SLASH, _AND = b"?#/&"
_PARTS = ("method_len", "target_len", "host_len", "agent_len", "host_off", "agent_off", "text_len")
REDACTED = b"REDACTED"


Parts = tuple[bytes, bytes, bytes, bytes]  # method, target, host, agent


class Heads(NamedTuple):
    """Texts of n requests in the rows of `text`: method, then target, then the rest up to `end`; lengths in bytes."""

    text: U8
    method: I64
    target: I64
    host: I64
    agent: I64
    host_off: I64
    agent_off: I64
    end: I64

    @classmethod
    def of(cls, x: Records, text: U8) -> Heads:
        """The heads as records have them; all lengths are 0 where a record claims more text than there is."""
        part = {name: x[name].astype(np.int64) for name in _PARTS}
        reach = [
            part["method_len"] + part["target_len"], part["host_off"] + part["host_len"],
            part["agent_off"] + part["agent_len"], x["state_off"].astype(np.int64) + x["state_len"],
        ]  # fmt: skip
        unfit = (np.max(reach, axis=0) > part["text_len"]) | (part["text_len"] > text.shape[1])
        if unfit.any():
            part = {name: np.where(unfit, np.int64(0), column) for name, column in part.items()}
        return cls(text, *part.values())

    def parts(self, row: int) -> Parts:
        """Method, target, host and agent of one row. Slow: for rows that are looked at one by one."""
        raw = self.text[row].tobytes()
        method, host, agent = int(self.method[row]), int(self.host_off[row]), int(self.agent_off[row])
        return (
            raw[:method], raw[method : method + int(self.target[row])], raw[host : host + int(self.host[row])],
            raw[agent : agent + int(self.agent[row])],
        )  # fmt: skip

    def replaced(self, rows: Rows, parts: list[Parts]) -> Heads:
        """The heads with other texts in the given rows."""
        joined = [b"".join(p) for p in parts]
        text = np.zeros((len(self.text), max(self.text.shape[1], *map(len, joined))), np.uint8)
        text[:, : self.text.shape[1]] = self.text
        for row, line in zip(rows.tolist(), joined, strict=True):
            text[row, : len(line)] = np.frombuffer(line, np.uint8)
        columns = np.stack(self[1:])
        columns[:, rows] = np.array([_lengths(*p) for p in parts], np.int64).T
        return Heads(text, *columns)


def _lengths(method: bytes, target: bytes, host: bytes, agent: bytes) -> tuple[int, ...]:
    """The columns of Heads for texts that are back to back."""
    host_off = len(method) + len(target)
    agent_off = host_off + len(host)
    return len(method), len(target), len(host), len(agent), host_off, agent_off, agent_off + len(agent)


class Targets(NamedTuple):
    """Request targets cut out of heads: `data` (n, widest), zero-padded; the path ends at `path_end`.

    `query_rows` have a query; theirs is query[i, :query_length[i]].
    """

    data: U8
    length: I64
    path_end: I64
    query_rows: Rows
    query: U8
    query_length: I64


def targets(heads: Heads, cutter: Cutter) -> Targets:
    """Split the targets of all rows into path and query."""
    data = cutter.cut(heads.method, heads.target, clean=True)
    height = len(data)
    if data.shape[1] == 0:
        nothing = np.zeros(0, np.int64)
        return Targets(data, heads.target, heads.target, nothing, np.zeros((0, 0), np.uint8), nothing)
    marks = (data == _QUESTION) | (data == _HASH)
    place = marks.argmax(axis=1)
    rows = np.arange(height)
    marked = marks[rows, place]
    path_end: I64 = np.where(marked, place, heads.target)
    query_rows = np.flatnonzero(marked & (data[rows, place] == _QUESTION))
    start = path_end[query_rows] + 1
    length = heads.target[query_rows] - start
    query = cutter.cut(heads.method[query_rows] + start, length, query_rows, clean=True)
    return Targets(data, heads.target, path_end, query_rows, query, length)


class Cleaner:
    """Rewrites the heads that may not be shown as they are."""

    def __init__(self, sensitive: frozenset[str]) -> None:
        self._sensitive = frozenset(key.lower().encode() for key in sensitive)
        names = b"|".join(re.escape(key) for key in sorted(self._sensitive))
        # A key that is percent-encoded is not compared here but looked at closely.
        self._suspect = re.compile(b"&(?:(?i:" + names + b")|[^=&%]*%[^=&]*)=") if names else None

    def clean(self, heads: Heads, cutter: Cutter, is_client: Bools) -> tuple[Heads, Cutter, Targets]:
        """Heads fit to be shown, with their targets. is_client (n,): the watched process sent the request."""
        found = targets(heads, cutter)
        odd = unprintable(heads) | self._revealing(found, len(heads.text))
        if found.data.shape[1]:
            odd |= (found.data[:, 0] != _SLASH) & (heads.target > 0)
        rows = np.flatnonzero(odd)
        if len(rows) == 0:
            return heads, cutter, found
        parts = [self._rewrite(heads.parts(row), bool(is_client[row])) for row in rows.tolist()]
        heads = heads.replaced(rows, parts)
        cutter = Cutter(heads.text)
        return heads, cutter, targets(heads, cutter)

    def _revealing(self, found: Targets, height: int) -> Bools:
        """Rows whose query may hold a sensitive parameter."""
        rows = np.zeros(height, np.bool_)
        if self._suspect is None or len(found.query_rows) == 0:
            return rows
        width = found.query.shape[1] + 1
        lines = np.full((len(found.query_rows), width), _AND, np.uint8)
        lines[:, 1:] = found.query
        hits = [match.start() // width for match in self._suspect.finditer(lines.tobytes())]
        rows[found.query_rows[hits]] = True
        return rows

    def _rewrite(self, parts: Parts, is_client: bool) -> Parts:
        """One head made fit: absolute-form split into host and path, secrets redacted, odd bytes as %XX.

        A target that is no path of a URL (`*` sent by a client, CONNECT's authority) becomes empty: it has no path.
        """
        method, target, host, agent = parts
        before = target.partition(b"?")[0]
        scheme = before.find(b"://")
        if method == b"CONNECT" and not target.startswith(b"/"):
            target, host = b"", target
        elif is_client and target == b"*":
            target = b""
        elif scheme > 0 and not target.startswith(b"/"):
            cut = re.split(rb"(?=[/?#])", target[scheme + 3 :], maxsplit=1)
            host = cut[0]
            target = cut[1] if len(cut) > 1 else b""
            target = target if target.startswith(b"/") else b"/" + target
        elif is_client and target and not target.startswith(b"/"):
            target = b"/" + target
        method, target, host, agent = (printable(part).encode() for part in (method, self.redact(target), host, agent))
        return method, target, host, agent

    def redact(self, target: bytes) -> bytes:
        """The target with the values of sensitive query parameters replaced."""
        path, mark, query = target.partition(b"?")
        if not mark:
            return target
        return path + mark + b"&".join([self._redact_one(pair) for pair in query.split(b"&")])

    def _redact_one(self, pair: bytes) -> bytes:
        key, equals, _ = pair.partition(b"=")
        secret = equals and unquote_to_bytes(key).lower() in self._sensitive
        return key + equals + REDACTED if secret else pair


def unprintable(heads: Heads) -> Bools:
    """Rows with a byte outside printable ASCII in any of their texts."""
    odd = (heads.text - 0x20) > 0x7E - 0x20  # modulo 256: below 0x20 is far above
    if not odd.any():
        return np.zeros(len(heads.text), np.bool_)
    return np.asarray((odd & within(heads.text.shape[1], heads.end)).any(axis=1))


def redact_authority(host: str) -> str:
    """A URL's authority without its credentials, the way the conventions write it (url.full, note on userinfo)."""
    userinfo, at, rest = host.rpartition("@")
    if not at:
        return host
    return ("REDACTED:REDACTED@" if ":" in userinfo else "REDACTED@") + rest
