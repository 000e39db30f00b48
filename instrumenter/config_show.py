# SPDX-License-Identifier: Apache-2.0
"""Shows settings to people: the effective ones (`stingless config`), the schema, the reference page.

In: `Loaded` or the model itself. Out: text. The rule: no secret is printed; headers show their names only.
`python -m instrumenter.config_show` prints docs/configuration.md.
"""

from __future__ import annotations

import json
from typing import Any, get_args

from instrumenter.config import Settings
from instrumenter.config_load import Leaf, Loaded, leaves

_UNITS = {"interval": "s", "timeout": "s", "keep_slower_than": "s"}


def show(loaded: Loaded, schema: bool = False) -> str:
    """Every setting, its value and source, one a line; or the JSON schema of the file."""
    if schema:
        return json.dumps(Settings.model_json_schema(), indent=2)
    rows = []
    for leaf in leaves():
        value: Any = loaded.settings
        for part in leaf.path:
            value = getattr(value, part)
        rows.append((leaf.name, text(leaf, value), loaded.source.get(leaf.name, "default")))
    widths = [max(len(row[i]) for row in rows) for i in (0, 1)]
    widths[1] = min(widths[1], 48)
    return "\n".join(f"{n:{widths[0]}}  {v:{widths[1]}}  {s}".rstrip() for n, v, s in rows)


def text(leaf: Leaf, value: Any) -> str:
    """A value as one would write it."""
    if value is None:
        return "auto"
    if isinstance(value, dict):
        shown = dict.fromkeys(value, "***") if leaf.path[-1] == "headers" else value
        return ",".join(f"{k}={v}" for k, v in shown.items()) or "-"
    if isinstance(value, tuple):
        parts = [f"{p[0]}-{p[1]}" if isinstance(p, tuple) and p[0] != p[1] else _plain(p) for p in value]
        return ",".join(parts) or "-"
    if isinstance(value, bool):
        return str(value).lower()
    return (f"{value:g}" + _UNITS.get(leaf.path[-1], "") if isinstance(value, float) else str(value)) or "-"


def _plain(part: Any) -> str:
    return str(part[0]) if isinstance(part, tuple) else str(part)


_PAGE = """\
<!-- printed by `python -m instrumenter.config_show`; edit instrumenter/config.py -->
# Settings

A setting has one name. `sampling.keep_errors` is

- in the YAML file (`--config FILE` or `STINGLESS_CONFIG=FILE`): `sampling: {keep_errors: true}`
- in the environment: `STINGLESS_SAMPLING_KEEP_ERRORS=true`
- on the command line: its flag, here `--keep-errors`, or `--set sampling.keep_errors=true`

Precedence: command line, `STINGLESS_*`, OpenTelemetry's own variable, file, default. `stingless config` prints what is
in effect and where each value came from; `stingless config --schema` prints a JSON schema for editors.

A wrong name or value ends the start with exit code 2 and one line: where it is, what was expected, the nearest right
name. Wrong values of `OTEL_*` variables are warned about and ignored, as OpenTelemetry's specification asks.

Durations need a unit (`500ms`, `10s`, `1m`), except in `OTEL_*` variables, where numbers are milliseconds. Sizes are
bytes or `512KiB`, `8MiB`. Lists are YAML lists or comma-separated text.

Variables that only OpenTelemetry names, honoured as its specification says: `OTEL_BSP_MAX_QUEUE_SIZE`,
`OTEL_BSP_MAX_EXPORT_BATCH_SIZE`, `OTEL_BSP_SCHEDULE_DELAY`, `OTEL_BSP_EXPORT_TIMEOUT`, `OTEL_METRIC_EXPORT_TIMEOUT`,
`OTEL_EXPORTER_PROMETHEUS_HOST`, `OTEL_EXPORTER_PROMETHEUS_PORT`.
"""


def page() -> str:
    """docs/configuration.md."""
    out, group = [_PAGE], None
    for leaf in leaves():
        if len(leaf.path) > 1 and leaf.path[0] != group:
            group = leaf.path[0]
            about = " ".join((getattr(Settings.model_fields[group].annotation, "__doc__", "") or "").split())
            out.append(f"## {group}\n\n{about}\n")
        elif len(leaf.path) == 1 and group != "general":
            group = "general"
            out.append("## Without a group\n")
        out.append(_entry(leaf))
    return "\n".join(out)


def _entry(leaf: Leaf) -> str:
    default = text(leaf, leaf.field.get_default(call_default_factory=True))
    choices = [repr(c).strip("'") for c in get_args(leaf.field.annotation) if isinstance(c, str) and c]
    flags = [str(f) for f in (leaf.extra.get("flag"), *leaf.extra.get("constants", {})) if f]
    facts = [f"default `{default}`"] if default not in ("-", "auto") else []
    facts += ["one of " + ", ".join(f"`{c}`" for c in choices)] if choices else []
    facts += [", ".join(f"`{f}`" for f in flags)] if flags else []
    facts += [f"`{leaf.variable}`"] + [f"`{v}`" + (f" ({unit})" if unit else "") for v, unit in leaf.otel.items()]
    return f"**`{leaf.name}`**: {leaf.description}  \n{'; '.join(facts)}\n"


if __name__ == "__main__":
    print(page(), end="")
