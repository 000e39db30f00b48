# SPDX-License-Identifier: Apache-2.0
"""`url.full` and the hosts in it, as columns.

In: columns of authorities and targets that are fit to be shown. Out: text columns. The rule this file protects: texts
of uneven lengths are joined without a Python call per row.
"""

from __future__ import annotations

import numpy as np

from instrumenter.columns import Bools, Cutter, Rows, pick, within
from instrumenter.heads import Targets
from instrumenter.model import I64, U8, Text


def first_known(a: Text, b: Text) -> Text:
    """`a` where it is present, else `b`."""
    present = a.length >= 0
    if present.all():
        return a
    data = np.zeros((len(present), max(a.data.shape[1], b.data.shape[1])), np.uint8)
    data[:, : a.data.shape[1]] = a.data
    rows = np.flatnonzero(~present)
    data[rows, : b.data.shape[1]] = b.data[rows]
    return Text(data, np.where(present, a.length, b.length))


def join(parts: list[Text]) -> Text:
    """Each row's texts one after the other; absent ones are empty. At least one part."""
    data = np.concatenate([p.data for p in parts], axis=1)
    lengths: list[I64] = [np.maximum(p.length, 0).astype(np.int64) for p in parts]
    inside = np.concatenate([within(p.data.shape[1], n) for p, n in zip(parts, lengths, strict=True)], axis=1)
    total: I64 = np.sum(lengths, axis=0)
    flat: U8 = data[inside]
    starts = np.cumsum(total) - total
    one_row = np.zeros(len(total), np.intp)
    return Text(Cutter(flat.reshape(1, -1)).cut(starts, total, one_row), total.astype(np.int32))


def authorities(authority: Text, named: Bools, address: Text, port: I64, rows: Rows) -> Text:
    """The URL authority of the given rows: from Host, else address:port."""
    unnamed = np.flatnonzero(~named[rows])
    chosen = pick(authority, rows)
    if len(unnamed) == 0:
        return chosen
    made = []
    for row in rows[unnamed].tolist():
        text = address.data[row, : int(address.length[row])].tobytes()
        made.append((b"[%s]:%d" if b":" in text else b"%s:%d") % (text, int(port[row])))
    data = np.zeros((len(rows), max(chosen.data.shape[1], *map(len, made))), np.uint8)
    data[:, : chosen.data.shape[1]] = chosen.data
    length = chosen.length.copy()
    for place, text in zip(unnamed.tolist(), made, strict=True):
        data[place, : len(text)] = np.frombuffer(text, np.uint8)
        length[place] = len(text)
    return Text(data, length)


def full_urls(tls: U8, authority: Text, target: Targets, rows: Rows) -> Text:
    """`url.full` of the given rows; authority and tls belong to them already."""
    schemes = np.frombuffer(b"http:// https://", np.uint8).reshape(2, 8)
    secure = (tls != 0).astype(np.intp)
    scheme = Text(schemes[secure], (7 + secure).astype(np.int32))
    path = Text(target.data[rows], target.length[rows].astype(np.int32))
    return join([scheme, authority, path])
