# SPDX-License-Identifier: Apache-2.0
"""Errors by what the caller can do about them.

`CannotStart` ends the program: one line, with the remedy. The others are caught where they are raised from,
counted or warned about once, and the agent goes on.
"""

from __future__ import annotations


class StinglessError(Exception):
    """Base of all errors raised by the agent. str() is one line that says what is wrong and the remedy."""


class CannotStart(StinglessError):
    """The agent cannot run at all; `exit_code` is what the command ends with."""

    def __init__(self, message: str, exit_code: int = 1) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class ConfigError(CannotStart):
    """A setting is wrong; the message names it, what was expected, and the nearest right value."""

    def __init__(self, message: str) -> None:
        super().__init__(message, exit_code=2)


class ProbeUnavailable(StinglessError):
    """An optional probe was refused by this kernel; the agent goes on without it."""
