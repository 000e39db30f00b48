# SPDX-License-Identifier: Apache-2.0
"""What the readers of command lines share: their result, and getopt's way of reading options.

In: arguments. Out: `Guess`, options and operands. The rule: an option that is not listed as taking a value takes
none, unless written `--option=value`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class Guess(NamedTuple):
    """name: script, module, jar ...; may be generic or "". declared: the service itself was given this name.

    project: directory whose project would name the service if `name` does not; relative to the working directory.
    parent: it is a helper that the parent process, of the same program, started for itself.
    """

    name: str = ""
    declared: bool = False
    project: str = ""
    parent: bool = False


def word_set(text: str) -> frozenset[str]:
    """The words of a text, for tables that are read more easily without quotes and commas."""
    return frozenset(text.split())


def options(args: Sequence[str], valued: frozenset[str]) -> tuple[dict[str, str], list[str]]:
    """Options before the first operand (name -> value or ""), and all from the first operand on."""
    found: dict[str, str] = {}
    rest = list(args)
    while rest and rest[0].startswith("-") and rest[0] != "-":
        arg = rest.pop(0)
        if arg == "--":
            break
        name, equals, value = arg.partition("=")
        if not equals and name in valued and rest:
            value = rest.pop(0)
        found.setdefault(name, value)
        if name in ("-jar", "-m", "--module") and name in valued:  # java: these end the options
            break
    return found, rest
