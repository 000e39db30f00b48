# SPDX-License-Identifier: Apache-2.0
"""Services over TLS, HTTP/2 and WebSocket, and those of gRPC: rows for the same launcher as the plain ones.

The rule it protects: a row says what its users would expect to see, and where that is nothing, why (`hidden`, in the
agent's own words).
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

from truth.certificates import certificate
from truth.launch import (
    BIN,
    FILES,
    HERE,
    NO_ECHO,
    NOT_ASKED,
    PROGRAMS,
    Service,
    built,
    files,
    filled,
    nginx,
    program,
    pypi,
)

SERVICES: Final = HERE / "services"
BORINGSSL: Final = r"BoringSSL in \S+ has no symbols"
JSSE: Final = r"Java's own TLS \(JSSE\)"
RUSTLS: Final = r"rustls \S+ in axumshop has no functions that are the same in every build"

Command = Callable[[int, Path], list[str]]


def _nginx(second: bool) -> Command:
    return lambda port, folder: nginx(port, folder, "FOLDER/output line", "http2" if second else _nginx_tls())


def _nginx_tls() -> str:
    pair = certificate()
    return f"ssl http2; ssl_certificate {pair.cert}; ssl_certificate_key {pair.key}"


def _apache(port: int, folder: Path) -> list[str]:
    pair = certificate()
    words = {"PORT": str(port), "CERTIFICATE": str(pair.cert), "KEY": str(pair.key)}
    configuration = filled("apache.conf", folder, MODULES="/usr/lib/apache2/modules", **words)
    return [program("apache2"), "-DFOREGROUND", "-f", configuration]


def _tlsfiles(port: int, folder: Path) -> list[str]:
    files(folder)
    return [sys.executable, str(SERVICES / "tlsfiles.py"), str(port), *certificate().pair]


def _python(name: str, *, tls: bool = True) -> Command:
    return lambda port, _: [sys.executable, str(SERVICES / name), str(port), *(certificate().pair if tls else ())]


def _uvicorn(port: int, _: Path) -> list[str]:
    pair = certificate()
    app = ["--app-dir", str(SERVICES), "fastshop:app", "--no-use-colors", "--log-level", "info"]
    tls = ["--ssl-certfile", str(pair.cert), "--ssl-keyfile", str(pair.key)]
    return [str(BIN / "uvicorn"), "--host", "127.0.0.1", "--port", str(port), *app, *tls]


def _hypercorn(tls: bool) -> Command:
    def command(port: int, _: Path) -> list[str]:
        pair = certificate()
        secure = ["--certfile", str(pair.cert), "--keyfile", str(pair.key)] if tls else []
        log = ["--access-logfile", "-", "--access-logformat", '"%(R)s" %(s)s']
        return [str(BIN / "hypercorn"), "-b", f"127.0.0.1:{port}", *log, *secure, f"{SERVICES}/fastshop.py:app"]

    return command


def _node(name: str, *how: str, tls: bool = True) -> Command:
    path = str(SERVICES / "nodeshop" / name)
    return lambda port, _: [program("node"), path, str(port), *how, *(certificate().pair if tls else ())]


def _go(name: str, *how: str, tls: bool = True) -> Command:
    return lambda port, _: [built(name), *how, str(port), *(certificate().pair if tls else ())]


def _go_h2c(port: int, _: Path) -> list[str]:
    return [built("goshop"), str(port), "h2c"]


def _jdk(port: int, _: Path) -> list[str]:
    return [program("java"), "-cp", built("java/classes"), "JdkShop", str(port), str(certificate().store)]


def _netty(port: int, _: Path) -> list[str]:
    path = f"{built('java/classes')}:{built('java/jars')}/*"
    return [program("java"), "-cp", path, "NettyShop", str(port), *certificate().pair]


def _gnutls(port: int, _: Path) -> list[str]:
    pair = certificate()
    secure = [f"--x509certfile={pair.cert}", f"--x509keyfile={pair.key}", "--disable-client-cert"]
    return [program("gnutls-serv"), "--http", "--port", str(port), *secure]


ONE: Final = ("HTTP/1",)
TWO: Final = ("HTTP/2",)
BOTH: Final = ("HTTP/1", "HTTP/2")
RPC: Final = ("gRPC",)
SOCKET: Final = ("WebSocket",)
GO: Final = "Go crypto/tls"
AXUM: Final = ("grep", "^axum =", str(SERVICES / "axumshop" / "Cargo.toml"))
NETTY: Final = ("sed", "-n", "/netty-codec-http2/s/.*<version>//p", str(SERVICES / "javashop" / "pom.xml"))
STRIPPED: Final = "goshop-1.24-stripped"
JAVA_VERSION: Final = ("java", "--version")
NODE_VERSION: Final = ("node", "--version")


def npm(name: str) -> tuple[str, ...]:
    return ("node", "-p", f"require({str(PROGRAMS / 'node' / 'node_modules' / name / 'package.json')!r}).version")


def by_go(name: str) -> tuple[str, ...]:
    return ("go", "version", str(PROGRAMS / name))


_GET_ONLY: Final = {
    ("GET", "/missing"): 200, ("GET", "/boom"): 200, ("HEAD", "/hello"): NOT_ASKED, **NO_ECHO,
}  # fmt: skip

SECURED: Final = (
    Service("nginx", "nginx", _nginx(False), {}, False, BOTH, "OpenSSL", "", ("nginx", "-v")),
    Service("nginx h2c", "nginx", _nginx(True), {}, False, TWO, "", "", ("nginx", "-v")),
    Service("apache2", "apache2", _apache, NO_ECHO, False, BOTH, "OpenSSL", "", ("apache2", "-v")),
    Service("http.server", "tlsfiles", _tlsfiles, FILES, False, ONE, "OpenSSL", "", (sys.executable, "--version")),
    Service("uvicorn+fastapi", "fastshop", _uvicorn, {}, True, ONE, "OpenSSL", "", pypi("uvicorn")),
    Service("hypercorn", "fastshop", _hypercorn(True), {}, True, BOTH, "OpenSSL", "", pypi("hypercorn")),
    Service("hypercorn h2c", "fastshop", _hypercorn(False), {}, True, BOTH, "", "", pypi("hypercorn")),
    Service("aiohttp", "aioshop", _python("aioshop.py"), {}, True, ONE, "OpenSSL", "", pypi("aiohttp")),
    Service("node", "nodeshop", _node("server.js", "https"), {}, True, ONE, "OpenSSL", "", NODE_VERSION),
    Service("node http2", "nodeshop", _node("server.js", "http2"), {}, True, BOTH, "OpenSSL", "", NODE_VERSION),
    Service("node h2c", "nodeshop", _node("server.js", "h2c", tls=False), {}, True, TWO, "", "", NODE_VERSION),
    Service("go", "goshop", _go("goshop"), {}, True, BOTH, GO, "", by_go("goshop")),
    Service("go h2c", "goshop", _go_h2c, {}, True, BOTH, "", "", by_go("goshop")),
    Service("go PIE", "goshop", _go("goshop-pie"), {}, True, BOTH, GO, "", by_go("goshop-pie")),
    Service("go 1.21", "goshop", _go("goshop-1.21"), {}, True, BOTH, GO, "", by_go("goshop-1.21")),
    Service(
        "go 1.24 stripped",
        "goshop",
        _go("goshop-1.24-stripped"),
        {},
        True,
        BOTH,
        GO,
        "",
        by_go("goshop-1.24-stripped"),
    ),
    Service("Java HttpsServer", "JdkShop", _jdk, {}, False, ONE, "JSSE", JSSE, JAVA_VERSION),
    Service("Netty", "NettyShop", _netty, {}, False, ONE, "BoringSSL", "", NETTY),
    Service("axum", "axumshop", _go("axumshop"), {}, True, BOTH, "rustls", RUSTLS, AXUM),
    Service("gnutls-serv", "gnutls-serv", _gnutls, _GET_ONLY, False, ONE, "GnuTLS", "", ("gnutls-serv", "--version")),
    Service("ws", "nodeshop", _node("socket.js", tls=False), {}, False, SOCKET, "", "", npm("ws")),
    Service("ws", "nodeshop", _node("socket.js"), {}, False, SOCKET, "OpenSSL", "", npm("ws")),
    Service("websockets", "wsshop", _python("wsshop.py", tls=False), {}, False, SOCKET, "", "", pypi("websockets")),
    Service("websockets", "wsshop", _python("wsshop.py"), {}, False, SOCKET, "OpenSSL", "", pypi("websockets")),
    Service("grpcio", "grpcshop", _python("grpcshop.py", tls=False), {}, False, RPC, "", "", pypi("grpcio")),
    Service("grpcio", "grpcshop", _python("grpcshop.py"), {}, False, RPC, "BoringSSL", BORINGSSL, pypi("grpcio")),
    Service("@grpc/grpc-js", "nodeshop", _node("grpc.js", tls=False), {}, False, RPC, "", "", npm("@grpc/grpc-js")),
    Service("@grpc/grpc-js", "nodeshop", _node("grpc.js"), {}, False, RPC, "OpenSSL", "", npm("@grpc/grpc-js")),
    Service("grpc-go", "gogrpc", _go("gogrpc", "serve", tls=False), {}, False, RPC, "", "", by_go("gogrpc")),
    Service("grpc-go", "gogrpc", _go("gogrpc", "serve"), {}, False, RPC, GO, "", by_go("gogrpc")),
)
