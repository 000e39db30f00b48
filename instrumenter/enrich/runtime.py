# SPDX-License-Identifier: Apache-2.0
"""Which language a process is written in, as far as its executable's name tells.

In: path of the executable, argv[0]. Out: a `Runtime`, used for `telemetry.sdk.language`, `process.runtime.name` and to
know which command lines name a script. The rule: only what is certain; a native executable may be C, Go or Rust, so
it gets no language. Values of `language`: OpenTelemetry semantic conventions, `telemetry.sdk.language`.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple


class Runtime(NamedTuple):
    """family: key of the table of command lines (discovery/commands.py). "" where a value is unknown."""

    family: str
    language: str
    name: str  # process.runtime.name


NATIVE: Final = Runtime("", "", "")

# Executable's base name -> runtime. Versions (python3.11, ruby3.1, php8.2) are part of the pattern.
_TABLE: Final[tuple[tuple[str, Runtime], ...]] = (
    (r"python[\d.]*[a-z]*|Python", Runtime("python", "python", "cpython")),
    (r"pypy[\d.]*", Runtime("python", "python", "pypy")),
    (r"node\d*|nodejs", Runtime("node", "nodejs", "nodejs")),
    (r"bun", Runtime("node", "nodejs", "bun")),
    (r"deno", Runtime("node", "nodejs", "deno")),
    (r"java|jsvc(\..*)?", Runtime("java", "java", "")),
    (r"ruby[\d.]*", Runtime("ruby", "ruby", "ruby")),
    (r"jruby", Runtime("ruby", "ruby", "jruby")),
    (r"truffleruby", Runtime("ruby", "ruby", "truffleruby")),
    (r"php[\d.]*|php-cgi[\d.]*|frankenphp", Runtime("php", "php", "php")),
    (r"php-fpm[\d.]*", Runtime("", "php", "php")),
    (r"dotnet", Runtime("dotnet", "dotnet", ".NET")),
    (r"mono(-sgen\d*)?", Runtime("dotnet", "dotnet", "mono")),
    (r"beam(\.smp)?", Runtime("erlang", "erlang", "BEAM")),
    (r"perl[\d.]*", Runtime("script", "", "")),
    (r"lua(jit)?[\d.]*|tclsh[\d.]*|Rscript|R|julia|guile|groovy", Runtime("script", "", "")),
    (r"(ba|da|z|k|a|mk|fi)?sh|busybox", Runtime("shell", "", "")),
)
_PATTERN: Final = re.compile("|".join(f"(?P<r{i}>{pattern})" for i, (pattern, _) in enumerate(_TABLE)))


def base_name(path: str) -> str:
    """Last component; login shells' leading dash and trailing colons of rewritten titles removed."""
    return path.rpartition("/")[2].lstrip("-").rstrip(":")


def runtime(exe: str, argv0: str = "") -> Runtime:
    """The runtime that an executable is, or NATIVE. argv0 decides only where the path is unknown."""
    match = _PATTERN.fullmatch(base_name(exe or argv0))
    if match is None:
        return NATIVE
    return _TABLE[int((match.lastgroup or "r0")[1:])][1]
