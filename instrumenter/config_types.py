# SPDX-License-Identifier: Apache-2.0
"""The values that settings can have, and how each is written as text.

In: what YAML, the environment or a flag holds. Out: the typed value. The rule: every type accepts the same text in
every source, and refuses with a sentence that begins with "expected" and shows one right value.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Annotated, Any
from urllib.parse import unquote

from pydantic import BeforeValidator, Field

_DURATION = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_BYTES = {"": 1, "B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "kB": 10**3, "MB": 10**6, "GB": 10**9}
_NUMBER_UNIT = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-zµ]*)\s*")
MIN_INTERVAL_S = 0.01
_METHOD = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,8}")
_OTEL_HISTOGRAM = {"explicit_bucket_histogram": "explicit", "base2_exponential_bucket_histogram": "exponential"}
_LOG_LEVELS = {"warning": "warn", "trace": "debug", "verbose": "debug", "all": "debug", "fatal": "error"}
_EXPORTERS = ("otlp", "prometheus", "console", "none")


def _scaled(units: dict[str, Any], value: object, expected: str) -> float:
    match = _NUMBER_UNIT.fullmatch(value) if isinstance(value, str) else None
    if match is None or match[2] not in units:
        raise ValueError(expected)
    return float(match[1]) * float(units[match[2]])


def duration(value: object) -> float:
    """Seconds. A bare number is refused: OpenTelemetry's mean milliseconds, most people's seconds."""
    if isinstance(value, float):  # a default, already in seconds
        return value
    return _scaled(_DURATION, value, "expected a duration with its unit, such as 500ms, 10s or 1m")


def interval(value: object) -> float:
    """Seconds between two exports, each of which costs CPU time."""
    seconds = duration(value)
    if seconds < MIN_INTERVAL_S:
        raise ValueError("expected at least 10ms")
    return seconds


def size(value: object) -> int:
    """Bytes."""
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    return int(_scaled(_BYTES, value, "expected a size, such as 8MiB, 512KiB or 1048576"))


def words(value: object) -> tuple[str, ...]:
    """A list, or comma-separated text."""
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    if isinstance(value, list | tuple) and all(isinstance(part, str | int) for part in value):
        return tuple(str(part) for part in value)
    raise ValueError("expected a list of texts, such as [a, b], or a,b")


def numbers(value: object) -> tuple[str, ...]:
    """A number, a list of them, or comma-separated text; still as texts."""
    parts = value if isinstance(value, list | tuple) else [value]
    if all(isinstance(part, int | float) and not isinstance(part, bool) for part in parts):
        return tuple(map(str, parts))
    return words(value)


def port_ranges(value: object) -> tuple[tuple[int, int], ...]:
    """Inclusive (first, last) pairs."""
    if isinstance(value, tuple) and all(isinstance(part, tuple) for part in value):
        return value
    ranges = []
    for part in numbers(value):
        first, dash, last = part.partition("-")
        low, high = _port(first), _port(last if dash else first)
        if low > high:
            raise ValueError(f"expected the lower port first, such as {high}-{low}")
        ranges.append((low, high))
    return tuple(ranges)


def _port(text: str) -> int:
    if not text.strip().isascii() or not text.strip().isdigit() or not 1 <= int(text) <= 65535:
        raise ValueError("expected ports from 1 to 65535, such as 8080 or 80,8000-8100")
    return int(text)


def pairs(value: object) -> dict[str, str]:
    """A mapping, or OpenTelemetry's key1=value1,key2=value2 with percent-encoded values (W3C Baggage)."""
    if isinstance(value, dict) and all(isinstance(v, str | int | float | bool) for v in value.values()):
        return {str(k): str(v).lower() if isinstance(v, bool) else str(v) for k, v in value.items()}
    if not isinstance(value, str):
        raise ValueError("expected pairs, such as {key: value} or key=value,other=value")
    found = {}
    for part in value.split(","):
        key, equals, text = part.partition("=")
        if part.strip() and (not equals or not key.strip()):
            raise ValueError("expected pairs, such as key=value,other=value")
        if equals:
            found[unquote(key.strip())] = unquote(text.strip())
    return found


def address(value: object) -> str:
    """Empty or "host:port"; a port alone listens on every address, as in Go and in Prometheus' own flags."""
    text = str(value).strip()
    host, _, port = text.rpartition(":")
    if not text:
        return ""
    if not port.isdigit() or not 0 <= int(port) <= 65535 or (":" in host and not host.startswith("[")):
        raise ValueError("expected ADDR:PORT, such as localhost:9464, [::1]:9464 or 9464")
    return f"{host or '0.0.0.0'}:{port}"


def ratio(value: object) -> float:
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        number = -1.0
    if not 0.0 <= number <= 1.0:
        raise ValueError("expected a ratio from 0 to 1, such as 0.1")
    return number


def methods(value: object) -> tuple[str, ...]:
    tokens = tuple(dict.fromkeys(words(value)))
    if len(tokens) > 32 or not all(_METHOD.fullmatch(token) for token in tokens):
        raise ValueError("expected at most 32 methods of at most 8 characters, such as GET,POST")
    return tokens


def exporters(value: object) -> tuple[str, ...] | None:
    names = words(value) if value is not None else None
    if names is not None and not set(names) <= set(_EXPORTERS):
        raise ValueError(f"expected some of {', '.join(_EXPORTERS)}")
    return tuple(name for name in names if name != "none") if names is not None else None


def _renamed(names: dict[str, str]) -> Callable[[object], object]:
    def rename(value: object) -> object:
        return names.get(value.lower(), value.lower()) if isinstance(value, str) else value

    return rename


Duration = Annotated[float, BeforeValidator(duration)]
Interval = Annotated[float, BeforeValidator(interval)]
Bytes = Annotated[int, BeforeValidator(size)]
Count = Annotated[int, Field(ge=0)]
Names = Annotated[tuple[str, ...], BeforeValidator(words)]
Pids = Annotated[tuple[int, ...], BeforeValidator(numbers)]
Floats = Annotated[tuple[float, ...], BeforeValidator(numbers)]
PortRanges = Annotated[tuple[tuple[int, int], ...], BeforeValidator(port_ranges)]
Pairs = Annotated[dict[str, str], BeforeValidator(pairs)]
Address = Annotated[str, BeforeValidator(address)]
Ratio = Annotated[float, BeforeValidator(ratio)]
Methods = Annotated[tuple[str, ...], BeforeValidator(methods)]
Exporter = Annotated[tuple[str, ...] | None, BeforeValidator(exporters)]
# The ecosystem's other spellings of the same choice.
OtelHistogram = BeforeValidator(_renamed(_OTEL_HISTOGRAM))
AnyCase = BeforeValidator(_renamed({}))
OtelLogLevel = BeforeValidator(_renamed(_LOG_LEVELS))
