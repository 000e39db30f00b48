# SPDX-License-Identifier: Apache-2.0
"""Settings of the OTLP exporters: environment and URL in, one frozen `OtlpOptions` out.

Follows the OpenTelemetry specification, "OpenTelemetry Protocol Exporter" and "SDK environment variables". The rule it
protects: what is wrong with a setting is said here, once, with its remedy; nothing after this reads the environment.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Literal, cast
from urllib.parse import SplitResult, unquote, urlsplit

from instrumenter.errors import ConfigError

Signal = Literal["traces", "metrics"]
OtlpProtocol = Literal["grpc", "http/protobuf"]
Temporality = Literal["cumulative", "delta", "lowmemory"]

GRPC_PORT: Final = 4317
HTTP_PORT: Final = 4318
_PREFIX: Final = "OTEL_EXPORTER_OTLP_"
_TOKEN: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110, 5.6.2
_PRINTABLE: Final = re.compile(r"[\x20-\x7e\t]*")


@dataclass(frozen=True, slots=True)
class OtlpOptions:
    """Where and how one signal is sent.

    endpoint: the full URL for HTTP, `host:port` (or another gRPC target) for gRPC.
    headers: decoded; gRPC keys in lower case. timeout_s: of one attempt; infinity means no limit.
    insecure: gRPC without TLS (HTTP says so in its URL). ca, certificate, key: paths of PEM files, or None.
    """

    signal: Signal
    protocol: OtlpProtocol
    endpoint: str
    headers: tuple[tuple[str, str], ...] = ()
    gzip: bool = False
    timeout_s: float = 10.0
    insecure: bool = False
    ca: str | None = None
    certificate: str | None = None
    key: str | None = None
    temporality: Temporality = "cumulative"
    metric_timeout_s: float = 30.0

    @property
    def display(self) -> str:
        """The endpoint as it may be logged: without user and password."""
        before, at, after = self.endpoint.rpartition("@")
        return f"{before.partition('://')[0]}://{after}" if at and "://" in before else after


@dataclass(frozen=True, slots=True)
class BatchOptions:
    """Bounds of one exporter's queue. Larger than an SDK's defaults: one agent speaks for a whole node.

    max_queue_bytes holds whatever the spans' texts are; it keeps the agent small when a receiver is away.
    export_timeout_s: how long one request is tried, retries included (long enough for a collector to restart).
    """

    max_queue_spans: int = 131_072
    max_queue_bytes: int = 24 << 20
    max_batch_spans: int = 4_096
    delay_s: float = 0.25  # the source has waited for a batch already
    export_timeout_s: float = 60.0


class Environment:
    """OTEL_EXPORTER_OTLP_* of one signal: the signal's own variable wins, an empty one counts as unset."""

    def __init__(self, environ: Mapping[str, str], signal: Signal) -> None:
        self._environ = environ
        self._own = f"{_PREFIX}{signal.upper()}_"

    def get(self, name: str) -> tuple[str, str]:
        """(value, the variable it came from); value "" if unset."""
        for variable in (self._own + name, _PREFIX + name):
            if value := self._environ.get(variable, "").strip():
                return value, variable
        return "", _PREFIX + name

    def endpoint(self) -> tuple[str, str, bool]:
        """(value, variable, whether it is the signal's own and hence not a base URL)."""
        value, variable = self.get("ENDPOINT")
        return value, variable, variable.startswith(self._own)


def otlp_options(signal: Signal, environ: Mapping[str, str], url: str | None = None) -> OtlpOptions:
    """Options of one signal. `url` (the command line's) wins over the endpoint variables and is a base URL.

    Protocol: OTEL_EXPORTER_OTLP_[TRACES_|METRICS_]PROTOCOL; unset, an endpoint with port 4317 or without a scheme means
    grpc, everything else http/protobuf. Raises ConfigError with the remedy.
    """
    env = Environment(environ, signal)
    text, variable, own = (url.strip(), "--otlp", False) if url else env.endpoint()
    protocol = _protocol(env, text, variable)
    if protocol == "grpc":
        endpoint, insecure = _grpc_endpoint(text, variable, env)
    else:
        endpoint, insecure = _http_endpoint(text, variable, signal, own, lenient=bool(url)), False
    options = OtlpOptions(
        signal=signal,
        protocol=protocol,
        endpoint=endpoint,
        headers=_headers(env, protocol),
        gzip=_choice(*env.get("COMPRESSION"), ("none", "gzip")) == "gzip",
        timeout_s=milliseconds(*env.get("TIMEOUT"), default_s=10.0),
        insecure=insecure,
    )
    options = _with_certificates(options, env)
    return options if signal == "traces" else _with_metrics(options, environ)


def milliseconds(text: str, variable: str, default_s: float, zero_s: float = math.inf) -> float:
    """A timeout variable in seconds. The specification: milliseconds, not negative, 0 means no limit (zero_s)."""
    if not text:
        return default_s
    if not text.isascii() or not text.isdigit():
        raise ConfigError(f"{variable}={text!r} is not a number of milliseconds; the default is {default_s * 1e3:g}")
    return int(text) / 1e3 if int(text) else zero_s


def _choice(text: str, variable: str, choices: tuple[str, ...]) -> str:
    if not text:
        return choices[0]
    if text.lower() not in choices:
        raise ConfigError(f"{variable}={text!r} is unknown; use one of: {', '.join(choices)}")
    return text.lower()


def _protocol(env: Environment, endpoint: str, named: str) -> OtlpProtocol:
    value, variable = env.get("PROTOCOL")
    match value.lower():
        case "grpc":
            return "grpc"
        case "http/protobuf":
            return "http/protobuf"
        case "http/json":
            raise ConfigError(f"{variable}=http/json is not supported; use http/protobuf (same port) or grpc")
        case "":
            return "grpc" if _looks_like_grpc(endpoint, named) else "http/protobuf"
    raise ConfigError(f"{variable}={value!r} is unknown; use grpc or http/protobuf")


def _looks_like_grpc(endpoint: str, variable: str) -> bool:
    """Port 4317 is OTLP/gRPC's, and only gRPC has endpoints without a scheme; `host:4318` is a slip, said later."""
    if not endpoint:
        return False
    if "://" in endpoint:
        return _split(endpoint, variable).port == GRPC_PORT
    return not endpoint.endswith(f":{HTTP_PORT}")


def _split(url: str, variable: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        _ = parts.port  # raises for a port that is no number
    except ValueError as error:
        raise ConfigError(f"{variable}={url!r} is not a URL ({error}); expected e.g. http://localhost:4318") from error
    return parts


def _grpc_endpoint(text: str, variable: str, env: Environment) -> tuple[str, bool]:
    """(gRPC target, insecure). A scheme decides about TLS, else ..._INSECURE does (default: TLS)."""
    value, name = env.get("INSECURE")
    flag = _choice(value, name, ("false", "true")) == "true"
    if not text:
        return f"localhost:{GRPC_PORT}", True
    if "://" not in text and text.startswith(("unix:", "dns:", "ipv4:", "ipv6:")):
        return text, flag
    parts = _split(text if "://" in text else f"//{text}", variable)
    if parts.scheme not in ("", "http", "https") or not parts.hostname:
        raise ConfigError(f"{variable}={text!r} is no gRPC endpoint; expected e.g. http://localhost:{GRPC_PORT}")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{host}:{parts.port or GRPC_PORT}", parts.scheme == "http" or (not parts.scheme and flag)


def _http_endpoint(text: str, variable: str, signal: Signal, own: bool, lenient: bool) -> str:
    """The full URL. A base URL gets /v1/<signal>; the signal's own endpoint is used as it is (specification)."""
    base = text or f"http://localhost:{HTTP_PORT}"
    parts = _split(base, variable)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError(
            f"{variable}={text!r} has no http:// or https://; expected e.g. http://{base.split('://')[-1]}"
        )
    if own:
        return parts._replace(path=parts.path or "/").geturl()
    path = parts.path.rstrip("/")
    if lenient:  # someone pasted one signal's URL as the base
        path = path.removesuffix("/v1/traces").removesuffix("/v1/metrics")
    return parts._replace(path=f"{path}/v1/{signal}").geturl()


def _headers(env: Environment, protocol: OtlpProtocol) -> tuple[tuple[str, str], ...]:
    """key=value pairs separated by commas, URL-encoded (W3C Baggage without properties). Errors show no values."""
    text, variable = env.get("HEADERS")
    found: dict[str, str] = {}
    for position, pair in enumerate(filter(None, (p.strip() for p in text.split(","))), 1):
        key, equals, value = pair.partition("=")
        key, value = unquote(key.strip()), unquote(value.strip())
        if not equals or not _TOKEN.fullmatch(key):
            raise ConfigError(f"{variable}: entry {position} is not key=value; expected e.g. api-key=abc,tenant=a%20b")
        if not _PRINTABLE.fullmatch(value):
            raise ConfigError(f"{variable}: the value of {key!r} may hold only printable ASCII; URL-encode it twice")
        found[key.lower() if protocol == "grpc" else key] = value
    return tuple(found.items())


def _with_certificates(options: OtlpOptions, env: Environment) -> OtlpOptions:
    """PEM files, read once here so that a wrong path or a wrong file stops the start and not the first export."""
    names = {"ca": "CERTIFICATE", "certificate": "CLIENT_CERTIFICATE", "key": "CLIENT_KEY"}
    paths = {field: env.get(name) for field, name in names.items()}
    for path, variable in paths.values():
        if path and not (Path(path).is_file() and os.access(path, os.R_OK)):
            raise ConfigError(f"{variable}={path}: no such file, or not readable; expected a PEM file")
    if paths["key"][0] and not paths["certificate"][0]:
        raise ConfigError(f"{paths['key'][1]} needs {paths['certificate'][1]} beside it: the client certificate's file")
    ca, certificate, key = (path or None for path, _ in paths.values())
    if ca or certificate:
        _check_pem(ca, certificate, key, paths)
    return replace(options, ca=ca, certificate=certificate, key=key)


def _check_pem(ca: str | None, certificate: str | None, key: str | None, paths: Mapping[str, tuple[str, str]]) -> None:
    import ssl

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        if ca:
            context.load_verify_locations(ca)
    except (ssl.SSLError, ValueError) as error:
        raise ConfigError(f"{paths['ca'][1]}={ca}: not a PEM certificate ({error})") from error
    try:
        if certificate:
            context.load_cert_chain(certificate, key, password="")
    except (ssl.SSLError, ValueError) as error:
        both = f"{paths['certificate'][1]}={certificate}, {paths['key'][1]}={key or 'unset'}"
        raise ConfigError(f"{both}: not a matching, unencrypted PEM pair ({error})") from error


def _with_metrics(options: OtlpOptions, environ: Mapping[str, str]) -> OtlpOptions:
    name = f"{_PREFIX}METRICS_TEMPORALITY_PREFERENCE"
    chosen = _choice(environ.get(name, "").strip(), name, ("cumulative", "delta", "lowmemory"))
    timeout = environ.get("OTEL_METRIC_EXPORT_TIMEOUT", "").strip()
    return replace(
        options,
        temporality=cast(Temporality, chosen),
        metric_timeout_s=milliseconds(timeout, "OTEL_METRIC_EXPORT_TIMEOUT", 30.0),
    )


def batch_options(environ: Mapping[str, str]) -> BatchOptions:
    """OTEL_BSP_* over this agent's defaults. Raises ConfigError with the remedy."""
    default = BatchOptions()
    queue = _positive(environ, "OTEL_BSP_MAX_QUEUE_SIZE", default.max_queue_spans)
    batch = _positive(environ, "OTEL_BSP_MAX_EXPORT_BATCH_SIZE", min(default.max_batch_spans, queue))
    if batch > queue:
        raise ConfigError(f"OTEL_BSP_MAX_EXPORT_BATCH_SIZE={batch} is above OTEL_BSP_MAX_QUEUE_SIZE={queue}; lower it")
    delay = environ.get("OTEL_BSP_SCHEDULE_DELAY", "").strip()
    timeout = environ.get("OTEL_BSP_EXPORT_TIMEOUT", "").strip()
    return BatchOptions(
        max_queue_spans=queue,
        max_batch_spans=batch,
        delay_s=milliseconds(delay, "OTEL_BSP_SCHEDULE_DELAY", default.delay_s, zero_s=0.0),
        export_timeout_s=milliseconds(timeout, "OTEL_BSP_EXPORT_TIMEOUT", default.export_timeout_s),
    )


def _positive(environ: Mapping[str, str], variable: str, default: int) -> int:
    text = environ.get(variable, "").strip()
    if text and not (text.isascii() and text.isdigit() and int(text) > 0):
        raise ConfigError(f"{variable}={text!r} is not a positive number of spans; the default is {default}")
    return int(text) if text else default
