# SPDX-License-Identifier: Apache-2.0
"""Programs that are watched only when asked for: they observe, or run, other services.

In: the base name of an executable or of an interpreter's script. Out: whether it is one. The rule: tracing the
telemetry pipeline itself would feed its own traffic back into it, and probes of the node's own machinery hide the
services; so the default selection leaves these out. `--all`, or naming one with `--exe`, `--cmd`, `--pid` or `--port`,
includes it.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Mapping
from typing import Final

# What they are -> globs of their executables' base names.
KNOWN_AGENTS: Final[Mapping[str, tuple[str, ...]]] = {
    "this agent": ("stingless",),
    "eBPF instrumentation": (
        "beyla", "obi", "ebpf-instrument", "opentelemetry-ebpf-*", "otel-ebpf-*", "ebpf-profiler", "parca-agent",
        "pixie*", "vizier-*", "coroot", "coroot-node-agent", "tetragon", "hubble*", "cilium-agent", "inspektor-gadget",
        "ig", "gadgettracermanager", "falco", "kepler", "deepflow-*",
    ),
    "OpenTelemetry collectors": (
        "otelcol*", "otel-collector*", "otelopscol", "opampsupervisor", "alloy", "grafana-agent*", "agent-flow",
        "aws-otel-collector", "adot-collector", "splunk-otel-*", "bindplane*", "observiq-*",
    ),
    "metric agents and stores": (
        "prometheus", "prom-*", "alertmanager", "pushgateway", "thanos", "cortex", "mimir*", "vmagent*", "vminsert*",
        "vmselect*", "vmstorage*", "vmalert*", "vmauth*", "victoria-metrics*", "victoria-logs*", "node_exporter",
        "node-exporter", "*_exporter", "*-exporter", "cadvisor", "kube-state-metrics", "metrics-server",
        "prometheus-config-reloader", "telegraf", "collectd", "statsd", "graphite*", "carbon-*", "influxd", "netdata",
        "zabbix_*",
    ),
    "log agents and stores": (
        "loki*", "promtail", "fluent-bit", "fluentd", "td-agent*", "vector", "filebeat", "metricbeat", "packetbeat",
        "heartbeat", "auditbeat", "apm-server", "elastic-agent", "elastic-endpoint", "rsyslogd", "syslog-ng",
        "systemd-journal-*",
    ),
    "trace and profile stores": ("tempo", "tempo-*", "jaeger*", "zipkin*", "pyroscope", "phlare", "skywalking-*"),
    "vendors' agents": (
        "datadog-agent", "trace-agent", "process-agent", "system-probe", "security-agent", "dd-agent", "newrelic-*",
        "nri-*", "dynatrace*", "oneagent*", "instana*", "appdynamics*", "splunkd", "sumologic*", "honeycomb-*",
        "amazon-cloudwatch-agent", "amazon-ssm-agent", "ssm-agent-worker", "google_osconfig_agent", "ops-agent*",
        "azuremonitoragent", "mdsd", "waagent",
    ),
    "the node's own machinery": (
        "kubelet", "kube-proxy", "containerd", "containerd-shim*", "dockerd", "docker-proxy", "docker-init", "crio",
        "conmon", "runc", "crun", "cri-dockerd", "podman", "pause", "systemd*", "(sd-pam)", "dbus-*",
    ),
}  # fmt: skip

_PATTERN: Final = re.compile("|".join(fnmatch.translate(glob) for globs in KNOWN_AGENTS.values() for glob in globs))


def is_known_agent(base_name: str) -> bool:
    return _PATTERN.match(base_name) is not None
