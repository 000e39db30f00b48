# SPDX-License-Identifier: Apache-2.0
"""Reads the settings: flags over `STINGLESS_*` over OpenTelemetry's variables over one YAML file over defaults.

In: a mapping of environment variables, flag values as text, a YAML file. Out: `Loaded`: the frozen Settings and
where each value came from. The rule: a wrong name or value is one line that says where it is, what was expected and
the nearest right name. Only OpenTelemetry's variables are warned about and ignored instead, as its specification
asks (they are shared with other programs).
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from instrumenter.config import Settings
from instrumenter.errors import ConfigError

PREFIX = "STINGLESS_"
# A Kubernetes service called `stingless` puts these into every pod of its namespace.
_SERVICE_LINK = re.compile(r"STINGLESS_(SERVICE_HOST|SERVICE_PORT.*|PORT|PORT_\d+_(TCP|UDP|SCTP).*)")
_EXPECTED = {
    "bool_parsing": "expected true or false",
    "bool_type": "expected true or false",
    "int_parsing": "expected a whole number",
    "int_type": "expected a whole number",
    "int_from_float": "expected a whole number",
    "float_parsing": "expected a number",
    "string_type": "expected text",
}


class Leaf(NamedTuple):
    """One setting: its path, such as ("otlp", "traces", "url"), and its field."""

    path: tuple[str, ...]
    field: FieldInfo

    @property
    def name(self) -> str:
        return ".".join(self.path)

    @property
    def variable(self) -> str:
        return PREFIX + "_".join(self.path).upper()

    @property
    def extra(self) -> Mapping[str, Any]:
        extra = self.field.json_schema_extra
        return extra if isinstance(extra, dict) else {}

    @property
    def otel(self) -> dict[str, str]:
        """OpenTelemetry variable -> unit of a bare number in it."""
        names = self.extra.get("otel", {})
        return {name.format(signal=self.path[-2].upper() if len(self.path) > 1 else ""): u for name, u in names.items()}

    @property
    def description(self) -> str:
        return (self.field.description or "").replace("{signal}", self.path[-2] if len(self.path) > 1 else "")


@dataclass(frozen=True)
class Loaded:
    """settings; source: setting's name -> where its value came from, absent: the default; warnings: lines to log."""

    settings: Settings
    source: Mapping[str, str]
    warnings: tuple[str, ...] = ()


class _Value(NamedTuple):
    value: object
    source: str
    optional: bool = False  # warn and ignore if wrong


def leaves(model: type[BaseModel] = Settings, path: tuple[str, ...] = ()) -> Iterator[Leaf]:
    """Every setting, in the order of config.py."""
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from leaves(kind, (*path, name))
        else:
            yield Leaf((*path, name), field)


def load(
    flags: Mapping[str, str] | None = None,
    environ: Mapping[str, str] | None = None,
    config_file: Path | None = None,
) -> Loaded:
    """flags: setting's name -> text. environ: default os.environ. Raises ConfigError."""
    environ = os.environ if environ is None else environ
    known = {leaf.name: leaf for leaf in leaves()}
    file = config_file or (Path(environ[PREFIX + "CONFIG"]) if environ.get(PREFIX + "CONFIG") else None)
    values: dict[str, _Value] = {}
    if file is not None:
        values |= _from_file(file, known)
    values |= _from_otel(environ, known)
    values |= _from_environment(environ, known)
    values |= {name: _Value(text, _flag(known[name], text)) for name, text in (flags or {}).items()}
    return _build(values, known)


def _flag(leaf: Leaf, text: str) -> str:
    """What a user wrote for it: an option with a value, one that stands for this value, or --set."""
    alone = [option for option, value in leaf.extra.get("constants", {}).items() if value == text]
    return str(leaf.extra.get("flag") or (alone[0] if alone else f"--set {leaf.name}"))


def _build(values: dict[str, _Value], known: Mapping[str, Leaf]) -> Loaded:
    warnings: list[str] = []
    while True:
        try:
            settings = Settings.model_validate(_nested({k: v.value for k, v in values.items()}))
        except ValidationError as error:
            for name, line in _lines(error, values, known):
                if not values[name].optional:
                    raise ConfigError(line) from None
                warnings.append(f"{line}; ignored")
                del values[name]
            continue
        settings = _with_default_endpoints(settings, values)
        warnings += _left_out(settings, values)
        return Loaded(settings, {k: v.source for k, v in values.items()}, tuple(warnings))


def _with_default_endpoints(settings: Settings, values: dict[str, _Value]) -> Settings:
    """An exporter asked for by name alone gets the endpoint that its specification gives it."""
    named = {*(settings.exporters.traces or ()), *(settings.exporters.metrics or ())}
    update: dict[str, Any] = {}
    otlp = settings.otlp
    if "otlp" in named and not (otlp.url or otlp.traces.url or otlp.metrics.url):
        url = f"http://localhost:{4317 if otlp.protocol == 'grpc' else 4318}"
        values["otlp.url"] = _Value(url, "default endpoint of exporters: otlp")
        update["otlp"] = otlp.model_copy(update={"url": url})
    if "prometheus" in named and not settings.prometheus.address:
        values["prometheus.address"] = _Value("localhost:9464", "default endpoint of exporters.metrics: prometheus")
        update["prometheus"] = settings.prometheus.model_copy(update={"address": "localhost:9464"})
    if "console" in named and "exporters.console" not in values:
        values["exporters.console"] = _Value(True, "exporters.traces or exporters.metrics: console")
        update["exporters"] = settings.exporters.model_copy(update={"console": True})
    return settings.model_copy(update=update)


def _left_out(settings: Settings, values: Mapping[str, _Value]) -> Iterator[str]:
    """A line for each exporter that the command line asks for and a list of exporters from elsewhere leaves out."""
    for setting, exporter in (
        ("otlp.url", "otlp"),
        ("prometheus.address", "prometheus"),
        ("exporters.console", "console"),
    ):
        flag = values[setting].source if setting in values else ""
        for signal in ("traces", "metrics"):
            lists = values.get(f"exporters.{signal}")
            named = getattr(settings.exporters, signal)
            if not flag.startswith("--") or lists is None or lists.source.startswith("--"):
                continue
            if exporter not in named and (exporter, signal) != ("prometheus", "traces"):
                said = f"{lists.source}={lists.value}"
                yield f"{signal} do not go to {flag}: {said} leaves {exporter} out; add {exporter} to it"


def _nested(values: Mapping[str, object]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for name, value in values.items():
        *groups, last = name.split(".")
        node = tree
        for group in groups:
            node = node.setdefault(group, {})
        node[last] = value
    return tree


def _lines(
    error: ValidationError, values: Mapping[str, _Value], known: Mapping[str, Leaf]
) -> Iterator[tuple[str, str]]:
    """(setting's name, the line to show) for each wrong value, once."""
    seen = set()
    for fault in error.errors():
        parts = [str(part) for part in fault["loc"]]
        name = next(n for i in range(len(parts), 0, -1) if (n := ".".join(parts[:i])) in known)
        if name in seen:
            continue
        seen.add(name)
        given = values[name]
        shown = "***" if name.endswith("headers") else repr(given.value)
        label = given.source if given.source.startswith((PREFIX, "OTEL_", "--")) else f"{given.source}: {name}"
        yield name, f"{label}: {_expected(fault, given.value)}, got {shown}"


def _expected(fault: Any, value: object) -> str:
    if fault["type"] == "value_error":
        return str(fault["ctx"]["error"])
    if fault["type"] == "literal_error":
        choices = re.findall(r"'([^']+)'", str(fault["ctx"]["expected"]))
        return f"expected one of {', '.join(choices)}{nearest(str(value), choices)}"
    if fault["type"] in _EXPECTED:
        return _EXPECTED[fault["type"]]
    return "expected " + str(fault["msg"]).removeprefix("Input should be ").removeprefix("Input should ")


def nearest(name: str, choices: list[str]) -> str:
    """ " (did you mean X?)", or nothing if none is near."""
    close = difflib.get_close_matches(name, choices, 1, 0.6)
    return f" (did you mean {close[0]}?)" if close else ""


def _from_environment(environ: Mapping[str, str], known: Mapping[str, Leaf]) -> dict[str, _Value]:
    variables = {leaf.variable: name for name, leaf in known.items()}
    values = {}
    for key, text in environ.items():
        if not key.startswith(PREFIX) or key == PREFIX + "CONFIG" or not text:
            continue
        if key in variables:
            values[variables[key]] = _Value(text, key)
        elif not _SERVICE_LINK.fullmatch(key):
            raise ConfigError(f"{key}: no such setting{nearest(key, list(variables))}")
    return values


def _from_otel(environ: Mapping[str, str], known: Mapping[str, Leaf]) -> dict[str, _Value]:
    """Empty means unset, and of booleans only `true` is true (OpenTelemetry specification, environment variables)."""
    values = {}
    for name, leaf in known.items():
        for variable, unit in leaf.otel.items():
            text = environ.get(variable, "").strip()
            if not text:
                continue
            if leaf.field.annotation in (bool, bool | None):
                text = "true" if text.lower() == "true" else "false"
            values[name] = _Value(text + unit if unit else text, variable, optional=True)
    if "prometheus" in environ.get("OTEL_METRICS_EXPORTER", ""):
        host, port = environ.get("OTEL_EXPORTER_PROMETHEUS_HOST", ""), environ.get("OTEL_EXPORTER_PROMETHEUS_PORT", "")
        address = f"{host.strip() or 'localhost'}:{port.strip() or 9464}"
        values["prometheus.address"] = _Value(address, "OTEL_METRICS_EXPORTER", optional=True)
    return values


def _from_file(path: Path, known: Mapping[str, Leaf]) -> dict[str, _Value]:
    import yaml

    try:
        text = path.read_text(encoding="utf-8")
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}; give a YAML file with --config") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: expected a YAML file in UTF-8") from None
    except yaml.MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
        raise ConfigError(f"{path}{line}: not YAML: {error.problem}") from None
    if root is None:
        return {}
    return dict(_from_node(path, root, (), known))


def _from_node(path: Path, node: Any, at: tuple[str, ...], known: Mapping[str, Leaf]) -> Iterator[tuple[str, _Value]]:
    """Walks the mapping nodes down to settings, so that each value keeps its line."""
    import yaml

    where = f"{path}:{node.start_mark.line + 1}"
    if not isinstance(node, yaml.MappingNode):
        label = ".".join(at) or "the file"
        names = ", ".join(dict.fromkeys(n.split(".")[len(at)] for n in known if n.split(".")[: len(at)] == list(at)))
        raise ConfigError(f"{where}: {label}: expected a mapping with some of {names}")
    for key, value in node.value:
        name = ".".join((*at, str(key.value)))
        line = f"{path}:{key.start_mark.line + 1}"
        if name in known:
            loader = yaml.SafeLoader("")
            plain = loader.construct_object(value, deep=True)
            if plain is not None:
                yield name, _Value(plain, line)
        elif any(other.startswith(name + ".") for other in known):
            yield from _from_node(path, value, (*at, str(key.value)), known)
        else:
            raise ConfigError(f"{line}: {name}: no such setting{nearest(name, _candidates(at, known))}")


def _candidates(at: tuple[str, ...], known: Mapping[str, Leaf]) -> list[str]:
    """Every name a writer may have meant: settings and groups."""
    groups = {".".join(leaf.path[:i]) for leaf in known.values() for i in range(1, len(leaf.path))}
    return [*known, *sorted(groups)]


def otel_environment(loaded: Loaded, environ: Mapping[str, str]) -> dict[str, str]:
    """The environment as the settings say it: OTEL_EXPORTER_OTLP_* from `otlp`, everything else as it was.

    The exporters read OpenTelemetry's own variables, so a value from the file or a flag reaches them the same way.
    """
    result = {k: v for k, v in environ.items() if k.startswith("OTEL_") and not k.startswith("OTEL_EXPORTER_OTLP_")}
    for leaf in leaves():
        value: Any = loaded.settings
        for part in leaf.path:
            value = getattr(value, part)
        if leaf.path[0] == "otlp" and leaf.name in loaded.source:
            result |= {variable: _as_text(value, unit) for variable, unit in leaf.otel.items()}
    return result


def _as_text(value: Any, unit: str) -> str:
    if isinstance(value, dict):
        return ",".join(f"{quote(k)}={quote(v)}" for k, v in value.items())
    if isinstance(value, bool):
        return str(value).lower()
    return str(round(value * 1000)) if unit == "ms" else str(value)
