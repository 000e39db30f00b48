# SPDX-License-Identifier: Apache-2.0
"""Exchanges that are alike in all that is said of them but ids, times, sizes and the port that the kernel chose.

In: exchange records with their text. Out: groups of rows, and for each group the words that tell it from any other.
The rule this file protects: two rows of a kind have the same name and attributes, so that both are made once, and a
busy service's requests cost no more than their numbers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Final, NamedTuple

import numpy as np

from instrumenter.bpf.abi import EXCHANGE, Direction, Flag
from instrumenter.columns import Rows, distinct
from instrumenter.describe import Describer
from instrumenter.model import I64, U8, U64, Shape, Value
from instrumenter.traces import Records

_WORDS: Final = EXCHANGE.itemsize // 8
_VIEW: Final = np.dtype((np.dtype("<u8"), (_WORDS,)))


def _ones(*fields: str) -> Records:
    """A record with all bits of these fields."""
    ones = np.zeros(1, EXCHANGE)
    for name in fields:
        ones[name] = np.iinfo(ones[name].dtype).max
    return ones


def _mask(port: str) -> U64:
    """The bits of a record that its kind depends on; `port` is the one that is not made anew for each connection."""
    ones = _ones("target_len", "method_len", "host_len", "agent_len", "host_off", "agent_off", "tls_version", port)
    record = ones[0]
    for name in ("local_addr", "remote_addr"):
        record[name] = 0xFF
    record["flags"] = Flag.TARGET_CUT | Flag.FOLDED | Flag.SERVER_NAME
    ones.view(np.uint8)[: EXCHANGE["key"].itemsize - 1] = 0xFF  # its last byte is `pad`
    words: U64 = ones.view("<u8")
    return words


_SERVER, _CLIENT = _mask("local_port"), _mask("remote_port")
_STATE: Final[U64] = _ones("state_off", "state_len", "text_len").view("<u8")
_COLUMNS: Final = np.flatnonzero(_SERVER | _CLIENT)
# By whether it is a server: the words of a record that are equal in a kind, and which of their bits (None: all).
_ALIKE: Final = {
    is_server: [
        (place, None if mask == (1 << 64) - 1 else np.uint64(mask))
        for place, mask in enumerate((side | _STATE).tolist())
        if mask
    ]
    for is_server, side in ((True, _SERVER), (False, _CLIENT))
}
_IS_SERVER: Final = int(Direction.SERVER)  # a plain number: an enum costs as much as the comparison
_LOW_BITS: Final = np.array([(1 << bits) - 1 for bits in range(65)], np.uint64)


# Attributes that a kind does not determine: the port of a connection that its client's kernel chose.
_EPHEMERAL: Final = {int(Direction.SERVER): ("network.peer.port",), int(Direction.CLIENT): ()}
_FEW: Final = 8  # new kinds in a batch, or rows of one, from where it is worth remembering


class Kinds(NamedTuple):
    """One row of each kind (m,), each row's kind (n,), the rows of each kind (m,), and what tells them apart (m, k)."""

    first: Rows
    group: Rows
    rows: Rows
    words: U64

    @property
    def diverse(self) -> bool:
        """So many kinds that their rows are better described one by one."""
        return len(self.first) > max(_FEW, len(self.group) // 4)

    def token(self, kind: int) -> bytes:
        """The same for the same kind of any batch: how wide its texts are does not matter."""
        return bytes(self.words[kind]).rstrip(b"\0")


def kinds(x: Records, text: U8) -> Kinds | None:
    """Groups of the rows; at least one row. None if a record claims more text than there is."""
    one = _only_kind(x, text)
    if one is not None:
        return one
    reach = _reach(x, text)
    if reach is None:
        return None
    columns = [*_record_columns(x), *_text_columns(text, reach)]
    varying = [column for column in columns if not (column == column[0]).all()]
    if varying:
        first, group = distinct(np.stack(varying).T)
    else:
        first, group = np.zeros(1, np.intp), np.zeros(len(x), np.intp)
    words = np.stack([column[first] for column in columns], axis=1)
    return Kinds(first, group, np.bincount(group, minlength=len(first)), words)


def _only_kind(x: Records, text: U8) -> Kinds | None:
    """What most batches of a busy service are: all rows of one kind. None: they may be of several."""
    raw: U64 = x.view(_VIEW)
    is_server = int(x["key"]["direction"][0]) == _IS_SERVER
    side = _SERVER if is_server else _CLIENT
    for place, mask in _ALIKE[is_server]:
        if not _same(raw[:, place] if mask is None else raw[:, place] & mask):
            return None
    if (reach := _reach(x[:1], text[:1])) is None or not all(map(_same, _text_columns(text, reach))):
        return None
    end = int(reach[0])
    line = np.zeros(-(-end // 8) * 8, np.uint8)
    line[:end] = text[0, :end]
    words = np.concatenate([(raw[0] & side)[_COLUMNS], line.view("<u8")])
    return Kinds(np.zeros(1, np.intp), np.zeros(len(x), np.intp), np.array([len(x)]), words[None])


def _same(column: U64) -> bool:
    return bool((column == column[0]).all())


def _record_columns(x: Records) -> Iterator[U64]:
    """What a kind depends on beside the text, word by word: every column is read once, which a matrix is not."""
    raw = x.view(_VIEW)
    server = x["key"]["direction"] == _IS_SERVER
    one_side = server.all()
    for place in _COLUMNS.tolist():
        mask = _SERVER[place] if one_side else np.where(server, _SERVER[place], _CLIENT[place])
        yield raw[:, place] & mask


def _text_columns(text: U8, reach: I64) -> Iterator[U64]:
    """The text up to `reach`, word by word, zeros behind it."""
    width = -(-int(reach.max()) // 8) * 8
    if width > text.shape[1]:
        text = np.pad(text, ((0, 0), (0, width - text.shape[1])))
    words = text[:, :width].view("<u8")
    whole = int(reach.min()) // 8
    for place in range(whole):
        yield words[:, place]
    left = np.clip(reach[:, None] - np.arange(whole * 8, width, 8), 0, 8) * 8
    for i, place in enumerate(range(whole, width // 8)):
        yield words[:, place] & _LOW_BITS[left[:, i]]


def _reach(x: Records, text: U8) -> I64 | None:
    """Where each row's method, target, host and agent end, whichever is last; None if one is not inside its text."""
    end = x["text_len"].astype(np.int64)
    reach = np.maximum(
        x["method_len"] + x["target_len"].astype(np.int64),
        np.maximum(x["host_off"].astype(np.int64) + x["host_len"], x["agent_off"].astype(np.int64) + x["agent_len"]),
    )
    last = np.maximum(reach, x["state_off"].astype(np.int64) + x["state_len"])
    return None if (last > end).any() or int(end.max()) > text.shape[1] else reach


def ephemeral_ports(x: Records) -> dict[str, I64]:
    """The attributes of `x` that its kinds leave out; -1 where a row's kind has them."""
    server = x["key"]["direction"] == _IS_SERVER
    remote = x["remote_port"].astype(np.int64)
    if server.all():
        return {"network.peer.port": remote}
    return {"network.peer.port": np.where(server, remote, np.int64(-1))} if server.any() else {}


class KindShapes:
    """The shapes of kinds that came before. Not thread-safe."""

    def __init__(self, describer: Describer, limit: int) -> None:
        self._describer = describer
        self._limit = limit
        self._known: dict[bytes, Shape] = {}

    def shapes(self, x: Records, text: U8, alike: Kinds, wanted: Sequence[bool]) -> dict[int, Shape]:
        """Shapes of those kinds that have one: known before, or worth it now. All attributes are in it but numbers."""
        tokens = {kind: alike.token(kind) for kind, is_wanted in enumerate(wanted) if is_wanted}
        found = {kind: self._known.get(token) for kind, token in tokens.items()}
        new = [kind for kind, shape in found.items() if shape is None]
        if len(new) > _FEW:
            new = [kind for kind in new if alike.rows[kind] >= _FEW]
        if new:
            if len(self._known) + len(new) > self._limit:
                self._known.clear()
            rows = alike.first[new]
            for kind, shape in zip(new, self._describe(x[rows], text[rows]), strict=True):
                found[kind] = self._known[tokens[kind]] = shape
        return {kind: shape for kind, shape in found.items() if shape is not None}

    def _describe(self, x: Records, text: U8) -> Iterator[Shape]:
        """The shape of each row, with its texts and ports."""
        shapes, _, group = self._describer.shapes(x, text)
        texts, ints = self._describer.attributes(x, text)
        for row, (shape, direction) in enumerate(zip(group.tolist(), x["key"]["direction"].tolist(), strict=True)):
            attributes: dict[str, Value] = dict(shapes[shape].attributes)
            for key, column in texts.items():
                if (length := int(column.length[row])) >= 0:
                    attributes[key] = column.data[row, :length].tobytes().decode()
            for key, numbers in ints.items():
                if numbers[row] >= 0 and key not in _EPHEMERAL[direction]:
                    attributes[key] = int(numbers[row])
            yield replace(shapes[shape], attributes=tuple(sorted(attributes.items())))
