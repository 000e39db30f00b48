# SPDX-License-Identifier: Apache-2.0
"""Whether a goroutine may do one thing after the other: a loop around a call that is on its stack.

In: an `Elf` of a Go program, return addresses of a goroutine's stack as offsets in the file, innermost first. Out:
whether each call is made once. The rule: what is not certain is a loop: a stack without its beginning, code that jumps
to where it computed. net/http's client goes round for redirects and closed connections, which is the same request.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from enum import Enum
from typing import Final

from instrumenter.binaries.elf import Elf
from instrumenter.binaries.go_functions import find_functions, functions_at
from instrumenter.binaries.go_spills import disassembled
from instrumenter.binaries.symbols import Symbol

BEGIN: Final = "runtime.goexit"  # what a goroutine's first function returns to
ITS_OWN: Final = ("net/http.(*Transport).roundTrip", "net/http.(*Client).do")
_JUMP: Final = re.compile(r"(?:j\w+|b|b\.\w+|cbn?z|tbn?z) (?:.*[ #])?#?(0x[0-9a-f]+|\d+)$")
_ALWAYS: Final = re.compile(r"(?:jmp|b) ")
_COMPUTED: Final = re.compile(r"(?:jmp|br) (?!#?(?:0x)?[0-9a-f]+$)")
_ENDS: Final = re.compile(r"(?:ret|ud2|int3|brk|udf|hlt)\b")
_MORE_STACK: Final = ("jbe ", "b.ls ")  # the check at a function's begin: to where it grows the stack and starts over
_CHECK_MAX: Final = 12  # instructions


class Frame(Enum):
    """What a return address on a stack tells. BEGIN: the goroutine's first function returns there."""

    ONCE = 0
    REPEATS = 1
    BEGIN = 2


def frames(elf: Elf, returns: Sequence[int]) -> list[Frame]:
    """Each for itself. Raises Unreadable."""
    known = find_functions(elf, (BEGIN, *ITS_OWN))
    begin = known[BEGIN].offset if BEGIN in known else -1
    own = {known[name].offset for name in ITS_OWN if name in known}
    functions = functions_at(elf, [at - 1 for at in returns])
    return [_frame(elf, function, at, begin, own) for at, function in zip(returns, functions, strict=True)]


def _frame(elf: Elf, function: Symbol | None, at: int, begin: int, own: Collection[int]) -> Frame:
    if function is None:
        return Frame.REPEATS
    if function.offset == begin:
        return Frame.BEGIN
    loop = function.offset not in own and repeats(elf, function, at - function.offset)
    return Frame.REPEATS if loop else Frame.ONCE


def runs_once(stack: Sequence[Frame]) -> bool:
    """Of all the frames of a stack, innermost first."""
    return bool(stack) and stack[-1] is Frame.BEGIN and all(frame is Frame.ONCE for frame in stack[:-1])


def repeats(elf: Elf, function: Symbol, behind: int) -> bool:
    """Whether the call that returns to `behind`, bytes into the function, may be come to again from there."""
    lines = disassembled(elf, function)
    places = {at: i for i, (at, _) in enumerate(lines)}
    if behind not in places:
        return True  # code that is not understood
    call, end = places[behind] - 1, _grows(lines, places)
    seen, todo = set(), [call + 1]
    while todo:
        i = todo.pop()
        if i == call:
            return True
        if i in seen or i >= end:
            continue
        seen.add(i)
        text = lines[i][1]
        if _COMPUTED.match(text):
            return True
        jump = _JUMP.match(text)
        if jump is not None:
            to = int(jump[1], 0)
            if 0 <= to < function.size and to not in places:
                return True
            todo += [places[to]] if to in places else []
        if not (_ALWAYS.match(text) or _ENDS.match(text)):
            todo.append(i + 1)
    return False


def _grows(lines: list[tuple[int, str]], places: dict[int, int]) -> int:
    """The instruction from which on the function only gets itself a larger stack: nothing goes there but its begin."""
    for _, text in lines[:_CHECK_MAX]:
        if text.startswith(_MORE_STACK) and (jump := _JUMP.match(text)):
            return places.get(int(jump[1], 0), len(lines))
    return len(lines)
