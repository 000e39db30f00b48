# SPDX-License-Identifier: Apache-2.0
"""Which trace an exchange belongs to, and when it happened.

In: exchange records, whose ids the kernel took from `traceparent` or drew itself. Out: the id and time columns of a
span. The rule this file protects: ids are passed on as they are, and a span never ends before it starts.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from instrumenter.bpf.abi import EXCHANGE, Flag, Rule
from instrumenter.columns import Bools, amounts, within
from instrumenter.model import I32, I64, U8, U64, Text

Records = NDArray[Any]  # abi.EXCHANGE


def _offset(name: str) -> int:
    fields: Any = EXCHANGE.fields
    return int(fields[name][1])


_TRACEPARENT = int(Flag.TRACEPARENT)
_RULES: Final = [rule.name.lower() for rule in Rule]
_RULE_TEXT: Final = np.array(_RULES, "S16").view(np.uint8).reshape(len(Rule), 16)
_RULE_LENGTH: Final = np.array([len(rule) for rule in _RULES], np.int32)
_RULE_BITS: Final = np.uint64(4)
assert len(Rule) <= 1 << 4
_WORDS: Final = np.dtype((np.dtype("<u8"), (EXCHANGE.itemsize // 8,)))
_TRACE_ID, _SPAN_ID, _PARENT_ID = (_offset(name) // 8 for name in ("trace_id", "span_id", "parent_id"))  # words


class Context(NamedTuple):
    """Columns of Spans of the same names."""

    trace_id: U8
    span_id: U8
    parent_id: U8
    flags: U8
    start_ns: U64
    end_ns: U64


def context(x: Records, clock_offset_ns: int) -> Context:
    """Ids and times of exchanges, copied: spans wait in queues, and must not keep whole batches of records alive.

    clock_offset_ns: CLOCK_REALTIME - CLOCK_MONOTONIC; times come out since the epoch.
    """
    offset = np.uint64(clock_offset_ns % (1 << 64))  # modulo 2^64, so that a negative offset works too
    start: U64 = x["start_ns"] + offset
    end: U64 = x["end_ns"] + offset
    early = x["end_ns"] < x["start_ns"]
    if early.any():
        end = np.where(early, start, end)
    words: U64 = x.view(_WORDS)
    trace, span, parent = _columns(words, _TRACE_ID, 2), _columns(words, _SPAN_ID, 1), _columns(words, _PARENT_ID, 1)
    return Context(trace, span, parent, x["trace_flags"].copy(), start, end)


def _columns(words: U64, first: int, count: int) -> U8:
    """A copy of some words of each row, as bytes: by columns, as NumPy copies row by row otherwise."""
    out = np.empty((len(words), count), np.uint64)
    for place in range(count):
        out[:, place] = words[:, first + place]
    return out.view(np.uint8)


def has_context(x: Records) -> Bools:
    """Whether a record's ids are valid: neither trace id nor span id all zeros (W3C Trace Context, 3.2.2)."""
    words: U64 = x.view(_WORDS)
    valid: Bools = ((words[:, _TRACE_ID] | words[:, _TRACE_ID + 1]) != 0) & (words[:, _SPAN_ID] != 0)
    return valid


def parents(x: Records) -> list[tuple[int, str, int]]:
    """How many exchanges each service has by what chose their parent: (svc, rule, n)."""
    pairs = x["key"]["svc"].astype(np.uint64) << _RULE_BITS | _known(x)
    return [(pair >> 4, _RULES[pair & 15], n) for pair, n in amounts(pairs)]


def rules(x: Records) -> Text:
    """What chose each exchange's parent."""
    rule = _known(x)
    return Text(_RULE_TEXT[rule], _RULE_LENGTH[rule])


def _known(x: Records) -> NDArray[np.uint16]:
    """Rules; of a newer recording's that are not known here, none."""
    rule: NDArray[np.uint16] = np.where(x["rule"] < len(_RULES), x["rule"], 0).astype(np.uint16)
    return rule


def time_to_first_byte(x: Records) -> I64:
    """Nanoseconds from the request's first byte to the response's; -1 without a response."""
    took: I64 = (x["first_ns"] - x["start_ns"]).astype(np.int64)
    return np.where((x["first_ns"] == 0) | (took < 0), np.int64(-1), took)


def trace_state(x: Records, text: U8) -> tuple[Text, Bools]:
    """The `tracestate` that came with a `traceparent`, and which rows had one that is not printable ASCII.

    Those are absent: a tracestate that cannot be parsed is discarded (W3C Trace Context, 3.3), and so is one that
    lies outside of the text.
    """
    absent: I32 = np.full(len(x), -1, np.int32)
    bad = np.zeros(len(x), np.bool_)
    if not x["state_len"].any():
        return Text(np.zeros((len(x), 0), np.uint8), absent), bad
    length: I64 = np.where(x["flags"] & _TRACEPARENT != 0, x["state_len"].astype(np.int64), 0)
    rows = np.flatnonzero(length)
    if len(rows) == 0:
        return Text(np.zeros((len(x), 0), np.uint8), absent), bad
    outside = x["state_off"][rows] + length[rows] > text.shape[1]
    length = np.minimum(length, text.shape[1])
    width = int(length.max())
    data = np.zeros((len(x), width), np.uint8)
    offset = x["state_off"][rows].astype(np.int64)
    columns = np.minimum(offset[:, None] + np.arange(width), text.shape[1] - 1)
    cut = text[rows[:, None], columns]
    data[rows] = cut
    bad[rows] = ((cut - 0x20 > 0x7E - 0x20) & within(width, length[rows])).any(axis=1)
    bad[rows] |= outside
    absent[rows] = length[rows]
    absent[bad] = -1
    return Text(data, absent), bad
