# SPDX-License-Identifier: Apache-2.0
"""The contract of probes/include/abi_go.h, as abi.py has the rest: what probes of Go's functions are told and tell."""

from __future__ import annotations

from enum import IntEnum, IntFlag

import numpy as np

GO_STACK_MAX = 48  # frames
GO_HIGH = 16  # bit from which on a second offset is


class GoServe(IntFlag):
    """The upper half of a cookie of TlsCall.GO_SERVE: | where a goroutine's number is << GO_HIGH."""

    RELEASE_1_22 = 1
    NO_PATTERN = 2
    ROUTED = 4


class GoRouter(IntFlag):
    """The upper half of a cookie of TlsCall.GO_ROUTER: | offset."""

    POINTER = 0x10000
    STRINGS = 0x20000
    POOLED = 0x40000


class GoStackVerdict(IntEnum):
    """What a goroutine's stack says of it: whether what it does now is what it was begun for."""

    ASKED = 0
    ONCE = 1
    REPEATS = 2


GO_STACK = np.dtype([("verdict", "<u4"), ("frames", "<u4"), ("pcs", "<u8", (GO_STACK_MAX,))])
