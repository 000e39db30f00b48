# SPDX-License-Identifier: Apache-2.0
"""TLS libraries of all kinds, and when they come: before the agent, with a program, late, twice, out of sight."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from running import until

from truth import senders
from truth.certificates import certificate
from truth.conftest import Watch
from truth.launch import HERE, Running, clean_environment, program
from truth.ledger import CLIENT, SERVER, by_span
from truth.secured import SECURED

pytestmark = pytest.mark.kernel

LIBCURL = str(HERE / "clients" / "libcurl_client.py")
LIBRARIES = {"OpenSSL": "libcurl.so.4", "GnuTLS": "libcurl-gnutls.so.4", "NSS": "libcurl-nss.so.4"}
HELLO = ("GET", "/hello", 200)
NGINX, GNUTLS = (next(s for s in SECURED if s.label == label) for label in ("nginx", "gnutls-serv"))


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Running]:
    with Running(NGINX, tmp_path / "nginx") as running:
        yield running.listening()


def libssl() -> Path:
    """The machine's own."""
    shown = subprocess.run([program("ldconfig"), "-p"], capture_output=True, text=True, check=True).stdout
    return Path(next(line for line in shown.splitlines() if "libssl.so.3 " in line).rpartition("=> ")[2]).resolve()


@contextmanager
def asking(server: Running, library: str, times: int, before: Sequence[str] = ()) -> Iterator[subprocess.Popen[str]]:
    """A program that asks `times` when it is told to; its TLS library is not loaded yet."""
    urls = [server.url(f"/hello?n={i}") for i in range(times)]
    command = [*before, sys.executable, LIBCURL, library, str(certificate().cert), *urls]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, env=clean_environment(), stdin=pipe, stdout=pipe, text=True) as asked:
        assert asked.stdout is not None
        assert asked.stdout.readline() == "ready\n"
        yield asked
        output, _ = asked.communicate(timeout=60)
        assert output.split() == ["200"] * times


@pytest.mark.parametrize("library", LIBRARIES)
def test_library_that_is_loaded_late(watch: Callable[..., Watch], server: Running, library: str) -> None:
    """The machine's own have probes from the start; NSS gets them when TLS is seen that no probe knows."""
    with asking(server, LIBRARIES[library], 20) as first, asking(server, LIBRARIES[library], 20) as second:
        watching = watch("--log-level", "debug")
        ask(first)
        if library == "NSS":
            watching.agent.wait_stderr("TLS: probes on NSPR|TLS: probes on NSS")
        ask(second)
    ledger = watching.ledger()
    assert ledger.counted(server.pid, SERVER) == {HELLO: 40}
    assert by_span(ledger.of(second.pid, CLIENT)) == ledger.counted(second.pid, CLIENT) == {HELLO: 20}
    if library != "NSS":
        assert by_span(ledger.of(first.pid, CLIENT)) == ledger.counted(first.pid, CLIENT) == {HELLO: 20}


def ask(asked: subprocess.Popen[str]) -> None:
    """And wait for the first answers: it goes on at its own pace."""
    assert asked.stdin is not None
    asked.stdin.write("go\n")
    asked.stdin.flush()


def test_programs_of_gnutls(watch: Callable[..., Watch], tmp_path: Path) -> None:
    """wget, and a server that is no HTTP server but answers as one."""
    with Running(GNUTLS, tmp_path / "gnutls") as server:
        server.listening()
        watching = watch()
        for _ in range(5):
            command = [program("wget"), "-q", "-O", "/dev/null", "--ca-certificate", str(certificate().cert)]
            pid, _ = senders.run([*command, *[server.url("/hello?n=1")] * 3])
        ledger = watching.ledger()
    assert ledger.counted(pid, CLIENT) == {HELLO: 3}
    assert ledger.counted(server.pid, SERVER) == {HELLO: 15}


def copy_of_libssl(folder: Path) -> dict[str, str]:
    """Where the dynamic linker finds a copy, which no other process maps."""
    folder.mkdir(exist_ok=True)
    shutil.copyfile(libssl(), folder / "libssl.so.3")
    return {"LD_LIBRARY_PATH": str(folder)}


def test_replaced_and_deleted_library(watch: Callable[..., Watch], server: Running, tmp_path: Path) -> None:
    """One process has the old file, which is deleted, another its successor under the same name."""
    env = [program("env"), *(f"{k}={v}" for k, v in copy_of_libssl(tmp_path / "copy").items())]
    with ExitStack() as stack:
        old = stack.enter_context(asking(server, LIBRARIES["OpenSSL"], 3, env))
        loaded = stack.enter_context(holding(env))
        (tmp_path / "copy" / "libssl.so.3").unlink()
        watching = watch("--log-level", "debug")
        watching.agent.wait_stderr(rf"TLS: probes on .*libssl.so.3 /proc/{loaded.pid}/map_files")
        copy_of_libssl(tmp_path / "copy")
        new = stack.enter_context(holding(env))
        watching.agent.wait_stderr(rf"TLS: probes on .*libssl.so.3 /proc/{new.pid}/map_files")
        ask(old)
    assert watching.ledger().counted(old.pid, CLIENT) == {HELLO: 3}


@contextmanager
def holding(before: Sequence[str]) -> Iterator[subprocess.Popen[str]]:
    """A program that has OpenSSL loaded, listens, and does nothing with it."""
    code = "import ssl, socket, sys; s = socket.create_server(('127.0.0.1', 0)); print('ready'); sys.stdin.read()"
    pipe = subprocess.PIPE
    with subprocess.Popen([*before, sys.executable, "-uc", code], stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process
        process.communicate()


def test_library_in_another_mount_namespace(watch: Callable[..., Watch], server: Running, tmp_path: Path) -> None:
    """The same path, another file: what containers have."""
    copy_of_libssl(tmp_path / "copy")
    over = f'mount --bind {tmp_path}/copy/libssl.so.3 {libssl()} && exec "$0" "$@"'
    inside = [program("unshare"), "--mount", "sh", "-c", over]
    with holding(inside) as holder, asking(server, LIBRARIES["OpenSSL"], 5, inside) as asked:
        watching = watch("--log-level", "debug")
        found = watching.agent.wait_stderr(r"TLS: probes on .*libssl.so.3 /proc/(\d+)/map_files/\S+")
        until(
            lambda: len([s for s in watching.agent.stderr if "TLS: probes on OpenSSL" in s]) >= 2,
            "both files have probes",
        )
        assert found
        assert holder.poll() is None
        ask(asked)
    assert watching.ledger().counted(asked.pid, CLIENT) == {HELLO: 5}


def test_signs_that_cross(watch: Callable[..., Watch], server: Running, tmp_path: Path) -> None:
    """httpx with many at once: between OpenSSL's call and the socket's another task may run (anyio)."""
    watching = watch()
    asks = senders.every_route([server])
    sender = senders.python("httpx_client", tmp_path, asks, "h1")
    spans = watching.ledger().of(sender.pid, CLIENT)
    statuses = {a.number: a.status for a in asks}
    seen = {s.number: s.attributes["http.response.status_code"] for s in spans if s.number in statuses}
    assert len(seen) == len(spans)
    assert seen == {number: statuses[number] for number in seen}
    assert {s.attributes["server.port"] for s in spans} <= {server.port}
    assert (len(seen), watching.lost("tls_unlinked")) == (len(asks), 0)
