# SPDX-License-Identifier: Apache-2.0
"""Settings as users write them: what wins, what every type takes, and the one line for what is wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from instrumenter.config import Settings
from instrumenter.config_load import Loaded, leaves, load, otel_environment
from instrumenter.config_show import page, show
from instrumenter.errors import ConfigError

ROOT = Path(__file__).parent.parent


def value(loaded: Loaded, name: str) -> Any:
    found: Any = loaded.settings
    for part in name.split("."):
        found = getattr(found, part)
    return found


def write(folder: Path, text: str) -> Path:
    path = folder / "stingless.yaml"
    path.write_text(text)
    return path


def test_defaults_need_nothing() -> None:
    loaded = load({}, {})
    assert loaded.settings == Settings()
    assert not loaded.source
    assert not loaded.warnings


@pytest.mark.parametrize(
    ("flags", "environ", "file", "expected", "source"),
    [
        ({}, {}, "", "parentbased_always_on", None),
        ({}, {}, "always_off", "always_off", "stingless.yaml:2"),
        ({}, {"OTEL_TRACES_SAMPLER": "traceidratio"}, "always_off", "traceidratio", "OTEL_TRACES_SAMPLER"),
        (
            {},
            {"OTEL_TRACES_SAMPLER": "traceidratio", "STINGLESS_SAMPLING_SAMPLER": "always_on"},
            "always_off",
            "always_on",
            "STINGLESS_SAMPLING_SAMPLER",
        ),
        (
            {"sampling.sampler": "parentbased_always_off"},
            {"STINGLESS_SAMPLING_SAMPLER": "always_on"},
            "always_off",
            "parentbased_always_off",
            "--sampler",
        ),
    ],
)
def test_precedence(
    tmp_path: Path, flags: dict[str, str], environ: dict[str, str], file: str, expected: str, source: str | None
) -> None:
    path = write(tmp_path, f"sampling:\n  sampler: {file}\n" if file else "")
    loaded = load(flags, environ, path)
    assert loaded.settings.sampling.sampler == expected
    got = loaded.source.get("sampling.sampler")
    assert got == (f"{tmp_path}/{source}" if source and source.startswith("stingless") else source)


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("discovery.ports", "80", ((80, 80),)),
        ("discovery.ports", "80, 8000-8100", ((80, 80), (8000, 8100))),
        ("discovery.ports", "[80, '9000-9001']", ((80, 80), (9000, 9001))),
        ("discovery.exe", "'*/nginx,*/node'", ("*/nginx", "*/node")),
        ("discovery.exe", "['*/a,b']", ("*/a,b",)),
        ("discovery.pids", "12", (12,)),
        ("discovery.pids", "12,13", (12, 13)),
        ("discovery.all", "true", True),
        ("sampling.arg", "0.25", 0.25),
        ("sampling.keep_slower_than", "500ms", 0.5),
        ("sampling.keep_slower_than", "2 m", 120.0),
        ("sampling.keep_slower_than", "1.5s", 1.5),
        ("metrics.boundaries", "0.1,1", (0.1, 1.0)),
        ("metrics.boundaries", "[0.1, 1]", (0.1, 1.0)),
        ("metrics.histogram", "base2_exponential_bucket_histogram", "exponential"),
        ("metrics.histogram", "explicit", "explicit"),
        ("ebpf.ring_bytes", "8MiB", 8 << 20),
        ("ebpf.ring_bytes", "4096", 4096),
        ("exporters.traces", "none", ()),
        ("exporters.metrics", "otlp,prometheus", ("otlp", "prometheus")),
        ("exporters.live", "false", False),
        ("prometheus.address", "9464", "0.0.0.0:9464"),
        ("prometheus.address", "'[::1]:9464'", "[::1]:9464"),
        ("resource_attributes", "a=b,c=d%20e", {"a": "b", "c": "d e"}),
        ("resource_attributes", "{a: b, n: 1, t: true}", {"a": "b", "n": "1", "t": "true"}),
        ("log_level", "WARNING", "warn"),
    ],
)
def test_values_in_yaml(tmp_path: Path, name: str, text: str, expected: object) -> None:
    *groups, last = name.split(".")
    lines = [f"{'  ' * i}{group}:" for i, group in enumerate(groups)]
    path = write(tmp_path, "\n".join([*lines, f"{'  ' * len(groups)}{last}: {text}"]))
    assert value(load({}, {}, path), name) == expected


@pytest.mark.parametrize("leaf", list(leaves()), ids=lambda leaf: leaf.name)
def test_same_name_in_every_source(tmp_path: Path, leaf: Any) -> None:
    """Whatever is written for a setting means the same as a flag's text, in the environment and in YAML."""
    samples = {bool: "true", str: "text", int: "7", float: "7s", dict[str, str]: "k=v"}
    text = samples.get(leaf.field.annotation, "")
    special = {
        "ports": "80-90", "exclude_ports": "81", "pids": "7", "exclude_pids": "8", "boundaries": "0.5,1",
        "arg": "0.5", "known_methods": "GET,PUT", "address": "localhost:1", "traces": "console", "metrics": "console",
        "attach": "kprobe", "sampler": "always_off", "histogram": "explicit", "exemplars": "always_off",
        "protocol": "grpc", "compression": "gzip", "temporality": "delta", "log_level": "debug", "live": "true",
        "insecure": "true", "exe": "*/x", "cmd": "*x", "exclude_exe": "*/y", "exclude_cmd": "*y", "ring_bytes": "4096",
        "exclude_services": "shop-*",
    }  # fmt: skip
    text = special.get(leaf.path[-1], text)
    path = write(tmp_path, "".join(f"{'  ' * i}{p}: " + "\n" * (p != leaf.path[-1]) for i, p in enumerate(leaf.path)))
    path.write_text(path.read_text() + f'"{text}"\n')
    by_flag = value(load({leaf.name: text}, {}), leaf.name)
    assert by_flag != leaf.field.get_default()
    assert value(load({}, {leaf.variable: text}), leaf.name) == by_flag
    assert value(load({}, {}, path), leaf.name) == by_flag


@pytest.mark.parametrize(
    ("text", "number", "message"),
    [
        ("samplin:\n  arg: 1\n", 1, "samplin: no such setting (did you mean sampling?)"),
        ("sampling:\n  keep_error: true\n", 2, "sampling.keep_error: no such setting (did you mean"),
        ("sampling:\n\n  arg: 2\n", 3, "sampling.arg: expected a ratio from 0 to 1, such as 0.1, got 2"),
        ("sampling: 3\n", 1, "sampling: expected a mapping with some of sampler, arg, keep_errors, keep_slower_than"),
        ("- a\n", 1, "the file: expected a mapping with some of discovery, ebpf, sampling"),
        ("metrics:\n  interval: 10\n", 2, "metrics.interval: expected a duration with its unit, such as 500ms"),
        ("ebpf:\n  attach: fentri\n", 2, "ebpf.attach: expected one of auto, fentry, kprobe, socket, tracepoint ("),
        ("ebpf:\n  ring_bytes: 8MegaB\n", 2, "ebpf.ring_bytes: expected a size, such as 8MiB"),
        ("ebpf:\n  max_series: -1\n", 2, "ebpf.max_series: expected greater than or equal to 0, got -1"),
        ("ebpf:\n  max_series: many\n", 2, "ebpf.max_series: expected a whole number, got 'many'"),
        ("discovery:\n  ports: [80, 70000]\n", 2, "discovery.ports: expected ports from 1 to 65535"),
        ("discovery:\n  ports: 90-80\n", 2, "discovery.ports: expected the lower port first, such as 80-90"),
        ("discovery:\n  all: maybe\n", 2, "discovery.all: expected true or false, got 'maybe'"),
        ("otlp:\n  headers: secret\n", 2, "otlp.headers: expected pairs, such as key=value,other=value, got ***"),
        ("otlp:\n  traces:\n    urll: x\n", 3, "otlp.traces.urll: no such setting (did you mean otlp.traces.url?)"),
        ("exporters:\n  traces: jaeger\n", 2, "exporters.traces: expected some of otlp, prometheus, console, none"),
        ("metrics:\n  known_methods: [PROPPATCHES]\n", 2, "metrics.known_methods: expected at most 32 methods"),
        ("prometheus:\n  address: nowhere\n", 2, "prometheus.address: expected ADDR:PORT, such as localhost:9464"),
        ("a: [\n", 2, "not YAML:"),
        ("resource_attributes:\n  a: [1]\n", 1, "resource_attributes: expected pairs"),
    ],
)  # fmt: skip
def test_wrong_file_is_one_line(tmp_path: Path, text: str, number: int, message: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        load({}, {}, path)
    assert str(caught.value).startswith(f"{path}:{number}: {message}")
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("environ", "line"),
    [
        (
            {"STINGLESS_SAMPLING_KEEP_ERROR": "1"},
            "STINGLESS_SAMPLING_KEEP_ERROR: no such setting (did you mean STINGLESS_SAMPLING_KEEP_ERRORS?)",
        ),
        ({"STINGLESS_SAMPLING_ARG": "x"}, "STINGLESS_SAMPLING_ARG: expected a ratio from 0 to 1, such as 0.1, got 'x'"),
        ({"STINGLESS_CONFIG": "/nonexistent/x.yaml"}, "/nonexistent/x.yaml: cannot be read: No such file or directory"),
    ],
)
def test_wrong_variable_is_one_line(environ: dict[str, str], line: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load({}, environ)
    assert str(caught.value).startswith(line)


def test_kubernetes_service_links_are_no_settings() -> None:
    links = {
        "STINGLESS_SERVICE_HOST": "10.0.0.1",
        "STINGLESS_SERVICE_PORT_HTTP": "80",
        "STINGLESS_PORT": "tcp://10.0.0.1:80",
        "STINGLESS_PORT_80_TCP_ADDR": "10.0.0.1",
    }
    assert load({}, links).settings == Settings()


@pytest.mark.parametrize(
    ("environ", "name", "expected", "warning"),
    [
        (
            {"OTEL_TRACES_SAMPLER": "xray"},
            "sampling.sampler",
            "parentbased_always_on",
            "OTEL_TRACES_SAMPLER: expected one",
        ),
        ({"OTEL_TRACES_SAMPLER": ""}, "sampling.sampler", "parentbased_always_on", None),
        ({"OTEL_TRACES_SAMPLER": "ALWAYS_OFF"}, "sampling.sampler", "always_off", None),
        ({"OTEL_TRACES_SAMPLER_ARG": "7"}, "sampling.arg", 1.0, "OTEL_TRACES_SAMPLER_ARG: expected a ratio"),
        ({"OTEL_METRIC_EXPORT_INTERVAL": "500"}, "metrics.interval", 0.5, None),
        ({"OTEL_METRIC_EXPORT_INTERVAL": "5s"}, "metrics.interval", 60.0, "OTEL_METRIC_EXPORT_INTERVAL: expected"),
        ({"OTEL_EXPORTER_OTLP_TIMEOUT": "2500"}, "otlp.timeout", 2.5, None),
        ({"OTEL_EXPORTER_OTLP_TRACES_TIMEOUT": "2500"}, "otlp.traces.timeout", 2.5, None),
        ({"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "http://m"}, "otlp.metrics.url", "http://m", None),
        ({"OTEL_SDK_DISABLED": "TRUE"}, "disabled", True, None),
        ({"OTEL_SDK_DISABLED": "1"}, "disabled", False, None),
        ({"OTEL_LOG_LEVEL": "verbose"}, "log_level", "debug", None),
        ({"OTEL_RESOURCE_ATTRIBUTES": "a=b"}, "resource_attributes", {"a": "b"}, None),
        ({"OTEL_TRACES_EXPORTER": "none"}, "exporters.traces", (), None),
        ({"OTEL_TRACES_EXPORTER": "zipkin"}, "exporters.traces", None, "OTEL_TRACES_EXPORTER: expected some of"),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, "otlp.url", "http://localhost:4318", None),
        (
            {"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"},
            "otlp.url",
            "http://localhost:4317",
            None,
        ),
        ({"OTEL_METRICS_EXPORTER": "prometheus"}, "prometheus.address", "localhost:9464", None),
        (
            {"OTEL_METRICS_EXPORTER": "prometheus", "OTEL_EXPORTER_PROMETHEUS_PORT": "1234"},
            "prometheus.address",
            "localhost:1234",
            None,
        ),
        ({"OTEL_METRICS_EXPORTER": "console"}, "exporters.console", True, None),
        (
            {"OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION": "explicit_bucket_histogram"},
            "metrics.histogram",
            "explicit",
            None,
        ),
    ],
)
def test_otel_variables(environ: dict[str, str], name: str, expected: object, warning: str | None) -> None:
    loaded = load({}, environ)
    assert value(loaded, name) == expected
    assert len(loaded.warnings) == (1 if warning else 0)
    if warning:
        assert loaded.warnings[0].startswith(warning)
        assert loaded.warnings[0].endswith("; ignored")


@pytest.mark.parametrize(
    ("flags", "environ", "warnings"),
    [
        ({"otlp.url": "http://c:4318"}, {"OTEL_TRACES_EXPORTER": "console"}, ["traces do not go to --otlp"]),
        ({"otlp.url": "http://c:4318"}, {"OTEL_METRICS_EXPORTER": "none"}, ["metrics do not go to --otlp"]),
        ({"otlp.url": "http://c:4318"}, {"OTEL_TRACES_EXPORTER": "otlp,console"}, []),
        ({"otlp.url": "http://c:4318", "exporters.traces": "none"}, {"OTEL_TRACES_EXPORTER": "console"}, []),
        ({"prometheus.address": "9464"}, {"OTEL_METRICS_EXPORTER": "otlp", "OTEL_TRACES_EXPORTER": "otlp"},
         ["metrics do not go to --prometheus"]),
        ({}, {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318", "OTEL_TRACES_EXPORTER": "none"}, []),
    ],
)  # fmt: skip
def test_what_a_list_of_exporters_leaves_out_is_said(
    flags: dict[str, str], environ: dict[str, str], warnings: list[str]
) -> None:
    found = load(flags, environ).warnings
    assert len(found) == len(warnings)
    assert all(line.startswith(start) for line, start in zip(found, warnings, strict=True))


def test_settings_reach_the_exporters_as_otel_variables(tmp_path: Path) -> None:
    path = write(tmp_path, "otlp:\n  url: http://c:4318\n  headers: {api-key: 'a b,c'}\n  traces: {timeout: 2s}\n")
    environ = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://env:4318", "OTEL_BSP_MAX_QUEUE_SIZE": "9", "PATH": "/bin"}
    loaded = load({"otlp.url": "http://flag:4318"}, environ, path)
    assert otel_environment(loaded, environ) == {
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://flag:4318",
        "OTEL_EXPORTER_OTLP_HEADERS": "api-key=a%20b%2Cc",
        "OTEL_EXPORTER_OTLP_TRACES_TIMEOUT": "2000",
        "OTEL_BSP_MAX_QUEUE_SIZE": "9",
    }


def test_show_hides_header_values() -> None:
    text = show(load({"otlp.headers": "api-key=hunter2", "discovery.ports": "80,90-91"}, {}))
    assert "hunter2" not in text
    assert "api-key=***" in text
    rows = {line.split()[0]: line.split()[1:] for line in text.splitlines()}
    assert rows["discovery.ports"] == ["80,90-91", "--port"]
    assert rows["sampling.arg"] == ["1", "default"]
    assert len(rows) == len(list(leaves()))


def test_the_reference_page_is_current() -> None:
    assert (ROOT / "docs" / "configuration.md").read_text() == page()
