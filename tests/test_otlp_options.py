# SPDX-License-Identifier: Apache-2.0
"""OTEL_EXPORTER_OTLP_* and OTEL_BSP_* by the specification: rows of (environment, what comes of it)."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from otlp_parts import make_certificates

from exporters.otlp import BatchOptions, batch_options, otlp_options
from exporters.otlp_http import proxy_of
from exporters.otlp_options import OtlpOptions
from instrumenter.errors import ConfigError

P = "OTEL_EXPORTER_OTLP_"

ROWS: list[tuple[str, str | None, dict[str, str], dict[str, Any]]] = [
    ("traces", None, {}, {"protocol": "http/protobuf", "endpoint": "http://localhost:4318/v1/traces"}),
    ("metrics", None, {}, {"protocol": "http/protobuf", "endpoint": "http://localhost:4318/v1/metrics"}),
    ("traces", None, {P + "PROTOCOL": "grpc"}, {"endpoint": "localhost:4317", "insecure": True}),
    ("traces", None, {P + "PROTOCOL": ""}, {"protocol": "http/protobuf"}),
    # Endpoints over HTTP: a base URL gets the signal's path, the signal's own endpoint does not.
    ("traces", None, {P + "ENDPOINT": "http://c:4318"}, {"endpoint": "http://c:4318/v1/traces"}),
    ("traces", None, {P + "ENDPOINT": "https://c/otlp/"}, {"endpoint": "https://c/otlp/v1/traces"}),
    ("traces", None, {P + "TRACES_ENDPOINT": "http://c:4318"}, {"endpoint": "http://c:4318/"}),
    ("traces", None, {P + "TRACES_ENDPOINT": "http://c:4318/x"}, {"endpoint": "http://c:4318/x"}),
    ("metrics", None, {P + "TRACES_ENDPOINT": "http://c/x"}, {"endpoint": "http://localhost:4318/v1/metrics"}),
    ("metrics", None, {P + "ENDPOINT": "http://a", P + "METRICS_ENDPOINT": "http://b/m"}, {"endpoint": "http://b/m"}),
    ("traces", "http://u:4318", {P + "TRACES_ENDPOINT": "http://b/m"}, {"endpoint": "http://u:4318/v1/traces"}),
    ("metrics", "http://u/v1/traces", {}, {"endpoint": "http://u/v1/metrics"}),
    # Protocol by port, or by the lack of a scheme; TLS by scheme, then by INSECURE.
    ("traces", "http://c:4317", {}, {"protocol": "grpc", "endpoint": "c:4317", "insecure": True}),
    ("traces", "http://c:4317", {P + "PROTOCOL": "http/protobuf"}, {"endpoint": "http://c:4317/v1/traces"}),
    ("traces", "https://c:4317", {}, {"protocol": "grpc", "endpoint": "c:4317", "insecure": False}),
    ("traces", "https://c:4317", {P + "INSECURE": "true"}, {"insecure": False}),
    ("traces", "c:4317", {}, {"protocol": "grpc", "endpoint": "c:4317", "insecure": False}),
    ("traces", "c:4317", {P + "INSECURE": "TRUE"}, {"protocol": "grpc", "insecure": True}),
    ("traces", "c", {P + "TRACES_INSECURE": "true"}, {"endpoint": "c:4317", "insecure": True}),
    ("traces", "http://[::1]:4317", {}, {"endpoint": "[::1]:4317"}),
    ("traces", "unix:/run/otel.sock", {P + "INSECURE": "true"}, {"endpoint": "unix:/run/otel.sock", "insecure": True}),
    ("traces", "http://c:4318", {P + "TRACES_PROTOCOL": "grpc"}, {"protocol": "grpc", "endpoint": "c:4318"}),
    ("metrics", "http://c:4318", {P + "TRACES_PROTOCOL": "grpc"}, {"protocol": "http/protobuf"}),
    # Headers: URL-decoded; gRPC wants keys in lower case; a signal's own replace the general ones.
    ("traces", None, {P + "HEADERS": "Api-Key=a%20b%3D, x=1,"}, {"headers": (("Api-Key", "a b="), ("x", "1"))}),
    ("traces", "c:4317", {P + "HEADERS": "Api-Key=s=t"}, {"headers": (("api-key", "s=t"),)}),
    ("traces", None, {P + "HEADERS": "a=1", P + "TRACES_HEADERS": "b=2"}, {"headers": (("b", "2"),)}),
    ("traces", None, {P + "COMPRESSION": "gzip"}, {"gzip": True}),
    ("traces", None, {P + "COMPRESSION": "gzip", P + "TRACES_COMPRESSION": "none"}, {"gzip": False}),
    ("traces", None, {}, {"timeout_s": 10.0, "gzip": False, "headers": ()}),
    ("traces", None, {P + "TIMEOUT": "2500"}, {"timeout_s": 2.5}),
    ("traces", None, {P + "TIMEOUT": "2500", P + "TRACES_TIMEOUT": "0"}, {"timeout_s": math.inf}),
    ("metrics", None, {P + "METRICS_TEMPORALITY_PREFERENCE": "Delta"}, {"temporality": "delta"}),
    ("metrics", None, {"OTEL_METRIC_EXPORT_TIMEOUT": "7000"}, {"metric_timeout_s": 7.0}),
    ("metrics", None, {}, {"temporality": "cumulative", "metric_timeout_s": 30.0}),
]


@pytest.mark.parametrize(("signal", "url", "environ", "expected"), ROWS)
def test_environment(signal: Any, url: str | None, environ: dict[str, str], expected: dict[str, Any]) -> None:
    options = otlp_options(signal, environ, url)
    assert {name: getattr(options, name) for name in expected} == expected


BAD: list[tuple[str | None, dict[str, str], str]] = [
    (None, {P + "PROTOCOL": "http/json"}, "OTEL_EXPORTER_OTLP_PROTOCOL=http/json is not supported; use http/protobuf"),
    (None, {P + "TRACES_PROTOCOL": "grcp"}, "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL='grcp' is unknown; use grpc or"),
    (None, {P + "ENDPOINT": "c:4318"}, "OTEL_EXPORTER_OTLP_ENDPOINT='c:4318' has no http:// .* http://c:4318"),
    ("ftp://c", {}, "--otlp='ftp://c' has no http://"),
    ("http://c:port", {}, "is not a URL"),
    ("ftp://c:4317", {}, "is no gRPC endpoint; expected e.g. http://localhost:4317"),
    (None, {P + "COMPRESSION": "zstd"}, "use one of: none, gzip"),
    (None, {P + "TIMEOUT": "10s"}, "OTEL_EXPORTER_OTLP_TIMEOUT='10s' is not a number of milliseconds"),
    (None, {P + "TIMEOUT": "-1"}, "not a number of milliseconds"),
    ("c:4317", {P + "INSECURE": "yes"}, "use one of: false, true"),
    (None, {P + "HEADERS": "a=1,secret"}, "OTEL_EXPORTER_OTLP_HEADERS: entry 2 is not key=value"),
    (None, {P + "HEADERS": "a b=1"}, "entry 1 is not key=value"),
    (None, {P + "HEADERS": "a=x%0d%0ab"}, "the value of 'a' may hold only printable ASCII"),
    (None, {P + "CERTIFICATE": "/nowhere.pem"}, "OTEL_EXPORTER_OTLP_CERTIFICATE=/nowhere.pem: no such file"),
    (None, {P + "CERTIFICATE": __file__}, "not a PEM certificate"),
    (None, {P + "CLIENT_KEY": __file__}, "OTEL_EXPORTER_OTLP_CLIENT_KEY needs OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE"),
    (None, {P + "CLIENT_CERTIFICATE": __file__}, "not a matching, unencrypted PEM pair"),
]


@pytest.mark.parametrize(("url", "environ", "message"), BAD)
def test_bad_settings_say_the_remedy(url: str | None, environ: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        otlp_options("traces", environ, url)
    assert "\n" not in str(caught.value)


def test_header_values_are_not_shown() -> None:
    with pytest.raises(ConfigError) as caught:
        otlp_options("traces", {P + "HEADERS": "key=%00hunter2"})
    assert "hunter2" not in str(caught.value)


def test_bad_metric_settings() -> None:
    with pytest.raises(ConfigError, match="use one of: cumulative, delta, lowmemory"):
        otlp_options("metrics", {P + "METRICS_TEMPORALITY_PREFERENCE": "deltas"})


def test_mismatched_key(tmp_path: Path) -> None:
    pem = make_certificates(tmp_path)
    with pytest.raises(ConfigError, match="not a matching"):
        otlp_options("traces", {P + "CLIENT_CERTIFICATE": pem["client"], P + "CLIENT_KEY": pem["server_key"]})


@pytest.mark.parametrize(
    ("endpoint", "shown"),
    [
        ("http://me:secret@c:4318/v1/traces", "http://c:4318/v1/traces"),
        ("http://c:4318/v1/traces", "http://c:4318/v1/traces"),
        ("c:4317", "c:4317"),
    ],
)
def test_display_hides_the_password(endpoint: str, shown: str) -> None:
    assert OtlpOptions("traces", "http/protobuf", endpoint).display == shown


BATCHES: list[tuple[dict[str, str], dict[str, Any]]] = [
    ({}, {"max_batch_spans": BatchOptions().max_batch_spans, "delay_s": BatchOptions().delay_s}),
    ({"OTEL_BSP_MAX_QUEUE_SIZE": "100"}, {"max_queue_spans": 100, "max_batch_spans": 100}),
    ({"OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "7"}, {"max_batch_spans": 7}),
    ({"OTEL_BSP_SCHEDULE_DELAY": "250"}, {"delay_s": 0.25}),
    ({"OTEL_BSP_SCHEDULE_DELAY": "0"}, {"delay_s": 0.0}),
    ({"OTEL_BSP_EXPORT_TIMEOUT": "30000"}, {"export_timeout_s": 30.0}),
]


@pytest.mark.parametrize(("environ", "expected"), BATCHES)
def test_batches(environ: dict[str, str], expected: dict[str, Any]) -> None:
    options = batch_options(environ)
    assert {name: getattr(options, name) for name in expected} == expected


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        ({"OTEL_BSP_MAX_QUEUE_SIZE": "0"}, "not a positive number"),
        ({"OTEL_BSP_MAX_QUEUE_SIZE": "10", "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "11"}, "lower it"),
        ({"OTEL_BSP_SCHEDULE_DELAY": "1s"}, "not a number of milliseconds"),
    ],
)
def test_bad_batches(environ: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        batch_options(environ)


PROXIES = {"http": "http://proxy:3128", "no": "localhost,.svc,10.0.0.0/8,fd00::/8"}


@pytest.mark.parametrize(
    ("url", "proxies", "proxy"),
    [
        ("http://collector:4318/v1/traces", PROXIES, "http://proxy:3128"),
        ("https://collector:4318/v1/traces", PROXIES, None),
        ("https://collector:4318/v1/traces", {"all": "http://every:1"}, "http://every:1"),
        ("http://localhost:4318/", PROXIES, None),
        ("http://collector.svc:4318/", PROXIES, None),
        ("http://10.1.2.3:4318/", PROXIES, None),
        ("http://11.1.2.3:4318/", PROXIES, "http://proxy:3128"),
        ("http://[fd00::1]:4318/", PROXIES, None),
        ("http://11.1.2.3:4318/", {}, None),
        ("http://11.1.2.3:4318/", PROXIES | {"no": "*"}, None),
    ],
)
def test_proxy(url: str, proxies: dict[str, str], proxy: str | None) -> None:
    assert proxy_of(url, proxies) == proxy
