# SPDX-License-Identifier: Apache-2.0
"""Resource attributes: control groups, host, process, and who wins where they disagree."""

from __future__ import annotations

import os
import uuid
from dataclasses import replace
from pathlib import Path

import pytest

from instrumenter.enrich.cgroup import container_id, pod_uid, systemd_unit
from instrumenter.enrich.host import Host, read_host
from instrumenter.enrich.resource import Identity, ResourceBuilder
from instrumenter.enrich.runtime import runtime

ID = "3f5c1a2b" * 8
OUTER = "99aa88bb" * 8
UID = "0a1b2c3d-1111-2222-3333-0a1b2c3d4e5f"
UNDERSCORES = UID.replace("-", "_")
V1 = f"""12:pids:/docker/{ID}
11:cpu,cpuacct:/docker/{ID}
1:name=systemd:/docker/{ID}
0::/system.slice/containerd.service
"""
SLICE = f"/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{UNDERSCORES}.slice"

# (content of /proc/PID/cgroup, container id, pod uid, systemd unit)
CGROUPS = [
    ("", "", "", ""),
    ("0::/\n", "", "", ""),
    ("garbage", "", "", ""),
    (V1, ID, "", "containerd"),
    (f"0::/system.slice/docker-{ID}.scope\n", ID, "", ""),
    (f"0::/docker/{ID}\n", ID, "", ""),
    (f"0::/docker/{OUTER}/docker/{ID}\n", ID, "", ""),
    (f"0::/docker/{OUTER}/system.slice/nginx.service\n", OUTER, "", "nginx"),
    (f"0::/system.slice/docker-{ID}.scope/init.scope\n", ID, "", ""),
    (f"0::{SLICE}/cri-containerd-{ID}.scope\n", ID, UID, ""),
    (f"0::{SLICE}/crio-{ID}.scope\n", ID, UID, ""),
    (f"0::{SLICE}/crio-{ID}.scope/container\n", ID, UID, ""),
    (f"0::{SLICE}/docker-{ID}.scope\n", ID, UID, ""),
    (f"0::/kubepods/besteffort/pod{UID}/{ID}\n", ID, UID, ""),
    (f"11:memory:/kubepods/pod{UID}/{ID}\n0::/\n", ID, UID, ""),
    (f"0::/kubepods/burstable/pod{'0123456789abcdef' * 2}/{ID}\n", ID, "0123456789abcdef" * 2, ""),
    (f"0::/../../pod{UID}/{ID}\n", ID, "", ""),
    (f"0::/kubelet-kubepods.slice/kubelet-kubepods-pod{UNDERSCORES}.slice/cri-containerd-{ID}.scope", ID, UID, ""),
    (f"0::/system.slice/x.service/kubepods-pod{UNDERSCORES}.slice:cri-containerd:{ID}\n", ID, UID, "x"),
    (f"0::/machine.slice/libpod-{ID}.scope/container\n", ID, "", ""),
    (f"0::/machine.slice/libpod-conmon-{ID}.scope\n", "", "", ""),
    (f"0::/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-{ID}.scope\n", ID, "", ""),
    ("4:cpu:/ecs/0123456789abcdef0123456789abcdef/0123456789abcdef0123456789abcdef-1234567890\n",
     "0123456789abcdef0123456789abcdef-1234567890", "", ""),
    ("0::/system.slice/nginx.service\n", "", "", "nginx"),
    ("0::/system.slice/system-postgresql.slice/postgresql@14-main.service\n", "", "", "postgresql@14-main"),
    ("0::/user.slice/user-1000.slice/user@1000.service/app.slice/shop.service\n", "", "", "shop"),
    ("0::/user.slice/user-1000.slice/user@1000.service/init.scope\n", "", "", ""),
    ("0::/user.slice/user-1000.slice/session-2.scope\n", "", "", ""),
    (f"0::/system.slice/{'deadbeef' * 4}.service\n", "", "", "deadbeef" * 4),
]  # fmt: skip

HOST = Host((("host.name", "node7"), ("os.type", "linux")), "machine", "boot", {33: "www-data"})
SHOP = Identity(
    "shop", 20, 1, 4711, "/usr/bin/python3.11", "python3", 33, ID, UID, {"service.version": "2", "host.name": "mine"}
)  # fmt: skip


@pytest.mark.parametrize(("text", "container", "pod", "unit"), CGROUPS)
def test_cgroup(text: str, container: str, pod: str, unit: str) -> None:
    assert (container_id(text), pod_uid(text), systemd_unit(text)) == (container, pod, unit)


@pytest.mark.parametrize(("exe", "argv0", "language", "name"), [
    ("/usr/bin/python3.11", "", "python", "cpython"), ("/usr/bin/python3.13t", "", "python", "cpython"),
    ("/opt/pypy3", "", "python", "pypy"), ("/usr/bin/node", "", "nodejs", "nodejs"), ("/opt/java", "", "java", ""),
    ("/usr/bin/ruby3.1", "", "ruby", "ruby"), ("/usr/sbin/php-fpm8.2", "", "php", "php"),
    ("", "/usr/bin/python3", "python", "cpython"), ("/usr/bin/dotnet", "", "dotnet", ".NET"),
    ("/usr/sbin/nginx", "python3", "", ""), ("/usr/bin/nodetool", "", "", ""),
    ("/usr/bin/python3-config", "", "", ""),
])  # fmt: skip
def test_runtime(exe: str, argv0: str, language: str, name: str) -> None:
    found = runtime(exe, argv0)
    assert (found.language, found.name) == (language, name)


def test_resource_is_whole_and_sorted() -> None:
    builder = ResourceBuilder(HOST, "0.1.0", {"deployment.environment.name": "prod", "service.version": "1"})
    resource = builder.build(SHOP)
    instance = str(resource.get("service.instance.id"))
    assert uuid.UUID(instance).version == 5
    assert resource.attributes == tuple(sorted({
        "container.id": ID,
        "deployment.environment.name": "prod",
        "host.name": "mine",  # the process's own attributes win over what was found out
        "k8s.pod.uid": UID,
        "os.type": "linux",
        "process.command": "python3",
        "process.executable.name": "python3.11",
        "process.executable.path": "/usr/bin/python3.11",
        "process.owner": "www-data",
        "process.parent_pid": 1,
        "process.pid": 20,
        "process.runtime.name": "cpython",
        "service.instance.id": instance,
        "service.name": "shop",
        "service.version": "2",  # and over the agent's setting
        "telemetry.sdk.language": "python",
        "telemetry.sdk.name": "stingless",
        "telemetry.sdk.version": "0.1.0",
    }.items()))  # fmt: skip


def test_names_that_cannot_be_overridden() -> None:
    own = {"service.name": "other", "telemetry.sdk.name": "other", "service.instance.id": "mine"}
    resource = ResourceBuilder(HOST, "1", own).build(replace(SHOP, own={}))
    assert resource.get("service.name") == "shop"
    assert resource.get("telemetry.sdk.name") == "stingless"
    assert resource.get("service.instance.id") == "mine"


def test_native_language_is_not_guessed() -> None:
    resource = ResourceBuilder(HOST, "1").build(Identity("nginx", 5, exe="/usr/sbin/nginx"))
    assert resource.get("telemetry.sdk.language") == "generic"
    assert resource.get("process.owner", "absent") == "absent"


def test_instance_id_is_stable_and_unique() -> None:
    builder = ResourceBuilder(HOST, "1")
    first = builder.instance_id(SHOP)
    assert first == builder.instance_id(replace(SHOP, name="x", own={}))
    others = {
        builder.instance_id(replace(SHOP, pid=21)),
        builder.instance_id(replace(SHOP, start=4712)),
        ResourceBuilder(replace(HOST, boot_id="later"), "1").instance_id(SHOP),
        ResourceBuilder(replace(HOST, id="elsewhere"), "1").instance_id(SHOP),
    }
    assert len(others | {first}) == 5


def test_host_of_a_tree(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/machine-id").write_text("c0ffee\n")
    release = 'NAME="Debian GNU/Linux"\n# x=y\nVERSION_ID="12"\nPRETTY_NAME="Debian 12"\nBAD="x\n'
    (tmp_path / "etc/os-release").write_text(release)
    (tmp_path / "etc/passwd").write_text("root:x:0:0::/root:/bin/sh\nbroken\nwww-data:x:33:33::/:/bin/false\n")
    host = read_host(tmp_path, boot_id="b", name="node7")
    found = dict(host.attributes)
    assert found.pop("host.arch") in ("amd64", "arm64")
    assert found == {
        "host.id": "c0ffee",
        "host.name": "node7",
        "os.description": "Debian 12",
        "os.name": "Debian GNU/Linux",
        "os.type": "linux",
        "os.version": "12",
    }
    assert (host.id, host.boot_id, host.users) == ("c0ffee", "b", {0: "root", 33: "www-data"})


def test_host_without_files(tmp_path: Path) -> None:
    host = read_host(tmp_path)
    assert dict(host.attributes)["host.name"] == os.uname().nodename
    assert host.id == os.uname().nodename
    assert "host.id" not in dict(host.attributes)
