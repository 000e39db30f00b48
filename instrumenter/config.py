# SPDX-License-Identifier: Apache-2.0
"""Every setting of the agent: its name, type, default, meaning. A setting is one field here and nothing else.

In: nothing. Out: the frozen `Settings` that everything is built from. The rule this file protects: a setting has
one name. The field `sampling.keep_errors` is `sampling: {keep_errors: ...}` in the YAML file,
`STINGLESS_SAMPLING_KEEP_ERRORS` in the environment and, if it has one, the flag named beside it.
`instrumenter.config_load` reads those sources; docs/configuration.md is printed from this file.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from instrumenter.config_types import (
    Address,
    AnyCase,
    Bytes,
    Count,
    Duration,
    Exporter,
    Floats,
    Interval,
    Methods,
    Names,
    OtelHistogram,
    OtelLogLevel,
    Pairs,
    Pids,
    PortRanges,
    Ratio,
)

Attach = Literal["auto", "fentry", "kprobe", "socket", "tracepoint"]
Sampler = Literal[
    "always_on",
    "always_off",
    "traceidratio",
    "parentbased_always_on",
    "parentbased_always_off",
    "parentbased_traceidratio",
]
Protocol = Literal["", "grpc", "http/protobuf"]


def setting(
    default: Any,
    description: str,
    *,
    flag: str | None = None,
    metavar: str | None = None,
    otel: Mapping[str, str] | str | None = None,
    constants: Mapping[str, str] | None = None,
) -> Any:
    """A field. `otel` names the OpenTelemetry variable(s) that set it too, each with the unit a bare number there has
    ("ms" or ""); `constants` are flags that set it to a fixed text."""
    names = {otel: ""} if isinstance(otel, str) else dict(otel or {})
    extra: dict[str, Any] = {"flag": flag, "metavar": metavar, "otel": names, "constants": dict(constants or {})}
    return Field(default, description=description, json_schema_extra={k: v for k, v in extra.items() if v})


class Group(BaseModel):
    """Settings of one subsystem. Unknown names are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Discovery(Group):
    """Which processes are watched. Without any selection: every process that serves or calls HTTP, except this agent
    and other agents and collectors."""

    ports: PortRanges = setting(
        (),
        "Watch processes that listen on these ports: a list, each a port or a range.",
        flag="--port",
        metavar="PORTS",
    )
    exe: Names = setting(
        (), "Watch processes whose executable's path matches one of these globs.", flag="--exe", metavar="GLOB"
    )
    cmd: Names = setting(
        (), "Watch processes whose command line matches one of these globs.", flag="--cmd", metavar="GLOB"
    )
    pids: Pids = setting((), "Watch these processes and their children.", flag="--pid", metavar="PID")
    all: bool = setting(
        False, "Watch every process that speaks HTTP, also known agents and collectors.", constants={"--all": "true"}
    )
    exclude_ports: PortRanges = setting(
        (), "Never watch what listens on these ports.", flag="--exclude-port", metavar="PORTS"
    )
    exclude_exe: Names = setting((), "Never watch these executables (globs).", flag="--exclude-exe", metavar="GLOB")
    exclude_cmd: Names = setting((), "Never watch these command lines (globs).", flag="--exclude-cmd", metavar="GLOB")
    exclude_pids: Pids = setting((), "Never watch these processes and their children.")
    exclude_services: Names = setting((), "Never watch services of these names (globs).")
    service_name: str = setting(
        "",
        "Name of every watched service. Empty: each process's own OTEL_SERVICE_NAME, else a name made of its script, "
        "module, unit, container or executable.",
        flag="--service-name",
        metavar="NAME",
        otel="OTEL_SERVICE_NAME",
    )


class Ebpf(Group):
    """The kernel side. A size of 0 is derived from this machine's memory and CPUs; see instrumenter/sizes.py."""

    attach: Attach = setting(
        "auto",
        "How the socket hooks are attached. auto: hook by hook the cheapest that this kernel accepts.",
        flag="--attach",
    )
    ring_bytes: Bytes = setting(
        0, "Size of the ring of exchanges. Larger rings survive longer pauses of the agent; all of it is mapped."
    )
    long_ring_bytes: Bytes = setting(0, "Size of the ring of exchanges with long targets.")
    max_connections: Count = setting(0, "Connections tracked at once; more are counted as lost.", metavar="COUNT")
    max_series: Count = setting(0, "Metric series in all, about 2 KiB of kernel memory per CPU each.")
    series_per_service: Count = setting(0, "Metric series of one service before further ones are counted as `other`.")
    max_processes: Count = setting(0, "Processes known at once, watched or not.")


class Sampling(Group):
    """Which spans are exported. Decided in the kernel; metrics always count everything."""

    sampler: Annotated[Sampler, AnyCase] = setting(
        "parentbased_always_on",
        "OpenTelemetry's samplers; parentbased_* follow an incoming traceparent's sampled flag.",
        flag="--sampler",
        otel="OTEL_TRACES_SAMPLER",
    )
    arg: Ratio = setting(
        1.0,
        "Share of traces kept by *traceidratio, 0 to 1.",
        flag="--sampler-arg",
        metavar="RATIO",
        otel="OTEL_TRACES_SAMPLER_ARG",
    )
    keep_errors: bool = setting(
        False, "Keep every failed exchange whatever the sampler says.", constants={"--keep-errors": "true"}
    )
    keep_slower_than: Duration = setting(
        0.0,
        "Keep every exchange that took at least this long; 0s: off.",
        flag="--keep-slower-than",
        metavar="DURATION",
    )


class Metrics(Group):
    """RED metrics, counted in the kernel and read once per interval."""

    interval: Interval = setting(
        60.0,
        "Time between two exports. OpenTelemetry's default.",
        flag="--metrics-interval",
        metavar="DURATION",
        otel={"OTEL_METRIC_EXPORT_INTERVAL": "ms"},
    )
    histogram: Annotated[Literal["exponential", "explicit"], OtelHistogram] = setting(
        "exponential",
        "Buckets of durations and sizes: base-2 exponential (quantiles within 5 %), or the fixed ones of the "
        "semantic conventions.",
        otel="OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION",
    )
    boundaries: Floats = setting(
        (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0),
        "Upper bounds in seconds of the explicit duration buckets.",
    )
    exemplars: Annotated[Literal["trace_based", "always_on", "always_off"], AnyCase] = setting(
        "trace_based",
        "Which exchanges may be attached to durations as exemplars: sampled ones, any that the kernel gave, or none.",
        otel="OTEL_METRICS_EXEMPLAR_FILTER",
    )
    known_methods: Methods = setting(
        ("CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "TRACE", "QUERY"),
        "Request methods that have their own name in telemetry, at most 32 of at most 8 bytes; others are `_OTHER`.",
        otel="OTEL_INSTRUMENTATION_HTTP_KNOWN_METHODS",
    )


class OtlpSignal(Group):
    """What one signal does differently from the rest of `otlp`; empty: the same. `{signal}` stands for its name."""

    url: str = setting(
        "",
        "Receiver of {signal}, used as it is over HTTP: no path is added.",
        otel="OTEL_EXPORTER_OTLP_{signal}_ENDPOINT",
    )
    protocol: Protocol = setting("", "Protocol of {signal}.", otel="OTEL_EXPORTER_OTLP_{signal}_PROTOCOL")
    headers: Pairs = setting({}, "Headers of {signal}.", otel="OTEL_EXPORTER_OTLP_{signal}_HEADERS")
    timeout: Duration = setting(
        0.0, "Longest wait for one export of {signal}.", otel={"OTEL_EXPORTER_OTLP_{signal}_TIMEOUT": "ms"}
    )
    compression: Literal["", "gzip", "none"] = setting(
        "", "Compression of {signal}.", otel="OTEL_EXPORTER_OTLP_{signal}_COMPRESSION"
    )
    certificate: str = setting(
        "", "Trusted certificates for {signal} (PEM file).", otel="OTEL_EXPORTER_OTLP_{signal}_CERTIFICATE"
    )
    client_certificate: str = setting(
        "", "Client certificate for {signal} (PEM file).", otel="OTEL_EXPORTER_OTLP_{signal}_CLIENT_CERTIFICATE"
    )
    client_key: str = setting("", "Client key for {signal} (PEM file).", otel="OTEL_EXPORTER_OTLP_{signal}_CLIENT_KEY")
    insecure: bool | None = setting(
        None, "No TLS for {signal} over gRPC, if its URL has no scheme.", otel="OTEL_EXPORTER_OTLP_{signal}_INSECURE"
    )


class Otlp(Group):
    """Export over OTLP 1.x. Off until a URL is set, here or for one signal."""

    url: str = setting(
        "",
        "Receiver of traces and metrics, such as http://localhost:4318 or http://localhost:4317 (gRPC).",
        flag="--otlp",
        metavar="URL",
        otel="OTEL_EXPORTER_OTLP_ENDPOINT",
    )
    protocol: Protocol = setting(
        "",
        "Protocol. Empty: grpc where the URL's port is 4317, else http/protobuf.",
        flag="--otlp-protocol",
        otel="OTEL_EXPORTER_OTLP_PROTOCOL",
    )
    headers: Pairs = setting(
        {}, "Headers of every export, such as api-key=secret. Never logged.", otel="OTEL_EXPORTER_OTLP_HEADERS"
    )
    timeout: Duration = setting(10.0, "Longest wait for one export.", otel={"OTEL_EXPORTER_OTLP_TIMEOUT": "ms"})
    compression: Literal["gzip", "none"] = setting(
        "none",
        "Compression. gzip makes batches about ten times smaller and costs more CPU than everything else in the agent.",
        otel="OTEL_EXPORTER_OTLP_COMPRESSION",
    )
    certificate: str = setting("", "Trusted certificates (PEM file).", otel="OTEL_EXPORTER_OTLP_CERTIFICATE")
    client_certificate: str = setting(
        "", "Client certificate for mTLS (PEM file).", otel="OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE"
    )
    client_key: str = setting("", "Client key for mTLS (PEM file).", otel="OTEL_EXPORTER_OTLP_CLIENT_KEY")
    insecure: bool | None = setting(
        None, "No TLS over gRPC, if the URL has no scheme.", otel="OTEL_EXPORTER_OTLP_INSECURE"
    )
    temporality: Annotated[Literal["cumulative", "delta", "lowmemory"], AnyCase] = setting(
        "cumulative",
        "Whether a metric export holds totals or what is new since the last one; lowmemory: delta, for lack of "
        "synchronous up-down counters.",
        otel="OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE",
    )
    queue_bytes: Bytes = setting(
        24 << 20, "Encoded telemetry held while the receiver is slow; what does not fit is dropped and counted."
    )
    traces: OtlpSignal = OtlpSignal()
    metrics: OtlpSignal = OtlpSignal()


class Prometheus(Group):
    """The endpoint that Prometheus scrapes; it also serves /healthz and /readyz."""

    address: Address = setting(
        "",
        "Where to listen, as ADDR:PORT or PORT. Empty: do not.",
        flag="--prometheus",
        metavar="ADDR:PORT",
    )


class Exporters(Group):
    """Where telemetry goes. With no exporter configured: a live view on the terminal."""

    traces: Exporter = setting(
        None,
        "Exporters of spans: otlp, console or none. Unset: all that are configured.",
        otel="OTEL_TRACES_EXPORTER",
        constants={"--no-traces": "none"},
    )
    metrics: Exporter = setting(
        None,
        "Exporters of metrics: otlp, prometheus, console or none. Unset: all that are configured.",
        otel="OTEL_METRICS_EXPORTER",
        constants={"--no-metrics": "none"},
    )
    console: bool = setting(
        False, "Write spans and metrics to standard output, one JSON object a line.", constants={"--console": "true"}
    )
    live: bool | None = setting(
        None,
        "The live view. Unset: when nothing else is configured.",
        constants={"--live": "true", "--no-live": "false"},
    )


class Settings(Group):
    """All settings. Frozen: built once by `config_load.load`, then handed to whoever needs a part."""

    discovery: Discovery = Discovery()
    ebpf: Ebpf = Ebpf()
    sampling: Sampling = Sampling()
    metrics: Metrics = Metrics()
    exporters: Exporters = Exporters()
    otlp: Otlp = Otlp()
    prometheus: Prometheus = Prometheus()
    resource_attributes: Pairs = setting(
        {},
        "Resource attributes of every watched service, such as deployment.environment.name=prod.",
        otel="OTEL_RESOURCE_ATTRIBUTES",
    )
    log_level: Annotated[Literal["debug", "info", "warn", "error"], OtelLogLevel] = setting(
        "info", "Least severe log line that is written to standard error.", flag="--log-level", otel="OTEL_LOG_LEVEL"
    )
    debug_parents: bool = setting(False, "Write on each span what chose its parent: `stingless.parent.rule`.")
    disabled: bool = setting(
        False, "Do nothing: attach no probe, export nothing, end at once.", otel="OTEL_SDK_DISABLED"
    )

    def exporters_of(self, signal: Literal["traces", "metrics"]) -> tuple[str, ...]:
        """The exporters that a signal goes to: those that are configured and that `exporters` does not leave out.

        Prometheus' endpoint stands for metrics even where it only serves /healthz and /readyz; see agent.Outputs.
        """
        own = self.otlp.traces if signal == "traces" else self.otlp.metrics
        named = self.exporters.traces if signal == "traces" else self.exporters.metrics
        configured = {
            "otlp": bool(self.otlp.url or own.url),
            "prometheus": signal == "metrics" and bool(self.prometheus.address),
            "console": self.exporters.console,
        }
        return tuple(name for name, there in configured.items() if there and (named is None or name in named))
