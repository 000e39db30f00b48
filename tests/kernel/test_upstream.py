# SPDX-License-Identifier: Apache-2.0
"""nginx as a proxy: each request to an upstream server is the child of the one that it is for, in one busy thread."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Barrier, Thread

import pytest
from running import until
from truth.launch import free_port, program

from instrumenter.binaries.tls_libraries import Files
from instrumenter.bpf.abi import Rule
from instrumenter.discovery.tls_points import points_of
from kernel.harness import Wire
from kernel.http1 import head
from kernel.test_wire_threads import parents

pytestmark = pytest.mark.kernel

AT_ONCE = 8
WITHIN_S = 60.0
CONFIGURATION = """
daemon off; master_process off; pid {folder}/pid; error_log {folder}/error.log; worker_rlimit_nofile 1024;
events {{ worker_connections 512; }}
http {{
    access_log off; client_body_temp_path {folder}; proxy_temp_path {folder}; fastcgi_temp_path {folder};
    uwsgi_temp_path {folder}; scgi_temp_path {folder};
    upstream leaf {{ server 127.0.0.1:{leaf}; keepalive 4; }}
    proxy_http_version 1.1;
    proxy_set_header Connection "";
    server {{
        listen 127.0.0.1:{port};
        location / {{ proxy_pass http://leaf; }}
        location /asked/ {{ auth_request /auth; mirror /mirror; proxy_pass http://leaf; }}
        location = /auth {{ internal; proxy_pass http://leaf/auth$request_uri; }}
        location = /mirror {{ internal; proxy_pass http://leaf/mirror$request_uri; }}
        location /again/ {{
            proxy_pass http://leaf; proxy_intercept_errors on; error_page 503 = @again;
        }}
        location @again {{ rewrite ^ /second$request_uri break; proxy_pass http://leaf; }}
    }}
}}
"""


class Leaf(BaseHTTPRequestHandler):
    """Answers some requests only when as many others have come, so that they are all under way at once."""

    protocol_version = "HTTP/1.1"
    wbufsize = -1
    together = Barrier(AT_ONCE)

    def do_GET(self) -> None:
        if self.path.startswith("/together"):
            self.together.wait(WITHIN_S)
        self.send_response(503 if self.path.startswith("/again") else 200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"ok")

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


class LeafServer(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64


class Proxy:
    """nginx, watched; everybody else is not."""

    def __init__(self, wire: Wire, port: int) -> None:
        self.wire, self.port = wire, port

    def ask(self, *requests: bytes, answers: int = 0) -> None:
        """On one connection, each in a call of its own; all are answered."""
        with socket.create_connection(("127.0.0.1", self.port), WITHIN_S) as sock:
            for request in requests:
                sock.sendall(request)
            with sock.makefile("rb") as lines:
                for _ in range(answers or len(requests)):
                    while line := lines.readline().strip():
                        assert line
                    assert lines.read(2) == b"ok"

    def parents(self) -> dict[str, str]:
        return parents(self.wire.collect())


@pytest.fixture
def proxy(wire: Wire, tmp_path: Path) -> Iterator[Proxy]:
    leaf = LeafServer(("127.0.0.1", 0), Leaf)
    Thread(target=leaf.serve_forever, daemon=True).start()
    port = free_port()
    configuration = tmp_path / "nginx.conf"
    configuration.write_text(CONFIGURATION.format(folder=tmp_path, leaf=leaf.server_address[1], port=port))
    with subprocess.Popen([program("nginx"), "-p", tmp_path, "-c", configuration]) as nginx:
        try:
            until(lambda: listens(port), "nginx listens", WITHIN_S)
            wire.watch(nginx.pid)
            (library,) = [each for each in Files().tls(nginx.pid).libraries if each.family == "nginx"]
            uprobes = wire.program.uprobes()
            assert uprobes is not None
            with closing(uprobes.attach(library.path, points_of(library))):
                yield Proxy(wire, port)
        finally:
            nginx.terminate()
            leaf.shutdown()
            leaf.server_close()


def listens(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), WITHIN_S):
            return True
    except OSError:
        return False


def own(*targets: str) -> dict[str, str]:
    return {target: f"{target}: upstream" for target in targets}


def test_requests_at_once(proxy: Proxy) -> None:
    """All on connections that are new, then most on such that were kept."""
    names = [f"together/{i}" for i in range(3 * AT_ONCE)]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for asked in [pool.submit(proxy.ask, head(target=f"/{name}")) for name in names]:
            asked.result(WITHIN_S)
    assert proxy.parents() == own(*names)


def test_after_each_other_on_a_connection_that_is_kept(proxy: Proxy) -> None:
    with socket.create_connection(("127.0.0.1", proxy.port), WITHIN_S) as sock, sock.makefile("rb") as lines:
        for name in "abc":
            sock.sendall(head(target=f"/{name}"))
            while lines.readline().strip():
                pass
            assert lines.read(2) == b"ok"
    assert proxy.parents() == own("a", "b", "c")


def test_requests_that_one_request_makes(proxy: Proxy) -> None:
    """Who may pass, a copy for somebody else, and the request; and one that is made again."""
    proxy.ask(head(target="/asked/x"))
    proxy.ask(head(target="/again/y"))
    asked, again = "asked/x: upstream", "again/y: upstream"
    assert proxy.parents() == {
        "auth/asked/x": asked, "mirror/asked/x": asked, "asked/x": asked, "again/y": again, "second/again/y": again,
    }  # fmt: skip


def test_pipelined(proxy: Proxy) -> None:
    """Which of them it works for is not known, nor afterwards: it may have more to do for the first."""
    proxy.ask(head(target="/a") + head(target="/b"), answers=2)
    found = proxy.parents()
    assert sorted(found) == ["a", "b"]
    assert set(found.values()) == {"ambiguous"}


def test_a_traceparent_of_its_own(proxy: Proxy) -> None:
    """nginx hands it on: then both have that parent."""
    trace = "traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    proxy.ask(head("GET", "/a", trace))
    found = proxy.wire.collect()
    assert [Rule(each.rule) for each in found] == [Rule.HEADER] * 2
