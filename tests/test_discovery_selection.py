# SPDX-License-Identifier: Apache-2.0
"""Who is watched: rows of (process, selection, watched?)."""

from __future__ import annotations

import pytest

from instrumenter.bpf.abi import Verdict
from instrumenter.discovery.procfs import Facts
from instrumenter.discovery.selection import Selection, decide, parse_ports
from instrumenter.errors import ConfigError

NGINX = Facts(10, 1, exe="/usr/sbin/nginx", cmdline=("nginx: master process",), ports=frozenset({80, 443}))
SHOP = Facts(20, 1, exe="/usr/bin/python3.11", cmdline=("python3", "/srv/shop/app.py"), ports=frozenset({8000}))
OTELCOL = Facts(30, 1, exe="/usr/bin/otelcol-contrib", cmdline=("otelcol-contrib",), comm="otelcol-contrib")
AGENT = Facts(40, 1, exe="/usr/bin/python3.11", cmdline=("python3", "/usr/bin/stingless", "run"), comm="stingless")
CURL = Facts(50, 1, exe="/usr/bin/curl", cmdline=("curl", "http://loki"), comm="curl")
KERNEL = Facts(60, 2, comm="kworker/0:1")
GONE = Facts(70, 1, exe="", cmdline=("./tool",), comm="tool", partial=True)
TEMPORAL = Facts(80, 1, exe="/usr/bin/temporal-server", cmdline=("temporal-server",))

ROWS: list[tuple[Facts, Selection, bool]] = [
    # default
    (NGINX, Selection(), True), (SHOP, Selection(), True), (CURL, Selection(), True), (GONE, Selection(), True),
    (TEMPORAL, Selection(), True), (OTELCOL, Selection(), False), (AGENT, Selection(), False),
    (KERNEL, Selection(), False),
    # all
    (OTELCOL, Selection(all=True), True), (AGENT, Selection(all=True), True), (KERNEL, Selection(all=True), False),
    (NGINX, Selection(all=True, exclude_exe=("nginx",)), False),
    # ports
    (NGINX, Selection(ports=((80, 80),)), True), (SHOP, Selection(ports=((80, 80),)), False),
    (SHOP, Selection(ports=((1, 79), (7000, 8000))), True), (SHOP, Selection(ports=((8001, 9000),)), False),
    (NGINX, Selection(exclude_ports=((443, 443),)), False), (SHOP, Selection(exclude_ports=((443, 443),)), True),
    (NGINX, Selection(ports=((80, 80),), exclude_ports=((443, 443),)), False),
    # exe: the base name, or with a slash the path
    (NGINX, Selection(exe=("nginx",)), True), (NGINX, Selection(exe=("ngin?",)), True),
    (NGINX, Selection(exe=("/usr/sbin/*",)), True), (NGINX, Selection(exe=("/usr/bin/*",)), False),
    (NGINX, Selection(exe=("sbin/nginx",)), False), (GONE, Selection(exe=("tool",)), True),
    (OTELCOL, Selection(exe=("otelcol*",)), True),
    # cmd: the whole line, or without wildcards any part of it
    (SHOP, Selection(cmd=("*shop/app.py",)), True), (SHOP, Selection(cmd=("shop/app.py",)), True),
    (SHOP, Selection(cmd=("shop*",)), False), (SHOP, Selection(cmd=("python3 *.py",)), True),
    (SHOP, Selection(cmd=("*",), exclude_cmd=("app.py",)), False),
    # any of several
    (NGINX, Selection(exe=("python*",), ports=((80, 80),)), True),
    (CURL, Selection(exe=("python*",), ports=((80, 80),)), False),
    # pids, with descendants (the lineage of every row is 5, 1)
    (SHOP, Selection(pids=(20,)), True), (SHOP, Selection(pids=(5,)), True), (SHOP, Selection(pids=(10,)), False),
    (SHOP, Selection(exclude_pids=(5,)), False), (SHOP, Selection(pids=(20,), exclude_pids=(20,)), False),
    # services (the name of every row is "shop")
    (SHOP, Selection(exclude_services=("sh*",)), False), (SHOP, Selection(exclude_services=("cart",)), True),
]  # fmt: skip


@pytest.mark.parametrize(("facts", "selection", "watched"), ROWS)
def test_decide(facts: Facts, selection: Selection, watched: bool) -> None:
    verdict = decide(facts, selection, service="shop", lineage=(5, 1))
    assert verdict == (Verdict.WATCH if watched else Verdict.IGNORE)


@pytest.mark.parametrize("selection", [Selection(), Selection(all=True), Selection(pids=(20,)), Selection(exe=("*",))])
def test_never_itself(selection: Selection) -> None:
    assert decide(SHOP, selection, self_pid=20) == Verdict.IGNORE


@pytest.mark.parametrize("exe", [
    "beyla", "obi", "alloy", "grafana-agent", "vmagent", "victoria-metrics-prod", "fluent-bit", "telegraf",
    "datadog-agent", "jaeger-all-in-one", "node_exporter", "kubelet", "containerd-shim-runc-v2", "systemd-resolved",
    "tempo", "loki", "mimir", "prometheus", "zipkin", "vector", "cadvisor",
])  # fmt: skip
def test_known_agents(exe: str) -> None:
    facts = Facts(9, 1, exe=f"/usr/bin/{exe}", cmdline=(exe,))
    assert decide(facts, Selection()) == Verdict.IGNORE
    assert decide(facts, Selection(exe=(exe,))) == Verdict.WATCH
    assert decide(Facts(9, 1, exe=f"/opt/my-{exe}-app/run", cmdline=(exe + " ",)), Selection()) == Verdict.WATCH


@pytest.mark.parametrize(("text", "ranges"), [
    ("80", ((80, 80),)),
    ("80,8000-8100", ((80, 80), (8000, 8100))),
    (" 80 , 1 - 65535 ,", ((80, 80), (1, 65535))),
])  # fmt: skip
def test_parse_ports(text: str, ranges: tuple[tuple[int, int], ...]) -> None:
    assert parse_ports(text) == ranges


@pytest.mark.parametrize(("text", "says"), [
    ("", "no port in ''"), ("0", "bad port '0'"), ("65536", "bad port '65536'"), ("80,http", "bad port 'http'"),
    ("90-80", "write the lower port first, 80-90"), ("80-", "bad port '80-'"), ("-80", "bad port '-80'"),
    ("\u0663", "bad port"),
])  # fmt: skip
def test_bad_ports(text: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        parse_ports(text)


def test_ports_for_the_kernel() -> None:
    selection = Selection(ports=((80, 82), (81, 83)), exclude_ports=((82, 82), (90, 99)))
    assert selection.watched_ports() == [80, 81, 83]
    assert Selection(exe=("x",)).watched_ports() == []
