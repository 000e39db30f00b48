# SPDX-License-Identifier: Apache-2.0
"""Services that speak TLS, by whatever library and in whatever way their programs use it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

from running import ROOT

from truth.launch import BIN, HERE, Service, files, nginx, pem, program


def _nginx(port: int, folder: Path) -> list[str]:
    return nginx(port, folder, f"ssl; ssl_certificate {pem()}; ssl_certificate_key {pem()}")


def _http_server(port: int, folder: Path) -> list[str]:
    return [sys.executable, str(HERE / "services" / "tls_files.py"), str(port), str(files(folder)), str(pem())]


def _gunicorn(port: int, _: Path) -> list[str]:
    app = ["--chdir", str(HERE / "services"), "flaskshop:app", "--certfile", str(pem()), "--keyfile", str(pem())]
    return [str(BIN / "gunicorn"), "-w", "2", "-b", f"127.0.0.1:{port}", "--log-level", "error", *app]


def _uvicorn(port: int, _: Path) -> list[str]:
    app = [
        "--app-dir",
        str(HERE / "services"),
        "fastshop:app",
        "--ssl-certfile",
        str(pem()),
        "--ssl-keyfile",
        str(pem()),
    ]
    return [str(BIN / "uvicorn"), "--host", "127.0.0.1", "--port", str(port), "--log-level", "error", *app]


def _node(port: int, _: Path) -> list[str]:
    return [program("node"), str(HERE / "services" / "nodeshop" / "server.js"), str(port), str(pem())]


def _apache(port: int, folder: Path) -> list[str]:
    """It gives its rights up, and could not read the files of a test's own folder."""
    shared = ROOT / "build" / "truth" / "apache"
    if not shared.exists():
        files(shared)
    text = (HERE / "services" / "apache.conf").read_text()
    text = text.replace("PORT", str(port)).replace("FOLDER", str(folder)).replace("PEM", str(pem()))
    text = text.replace("SHARED", str(shared))
    (folder / "apache.conf").write_text(text)
    return [program("apache2"), "-DFOREGROUND", "-f", str(folder / "apache.conf")]


def _gnutls(port: int, _: Path) -> list[str]:
    files = ["--x509certfile", str(pem()), "--x509keyfile", str(pem())]
    return [program("gnutls-serv"), "--http", "--quiet", "--port", str(port), *files]


NOT_FOUND: Final = {("GET", "/boom"): 404, ("POST", "/echo"): 501}
SERVICES: Final = (
    Service("nginx", "nginx", _nginx, {}, sleeps=False, scheme="https"),
    Service("http.server", "tls_files", _http_server, NOT_FOUND, sleeps=False, scheme="https"),
    Service("gunicorn+flask", "flaskshop", _gunicorn, {}, scheme="https"),
    Service("uvicorn+fastapi", "fastshop", _uvicorn, {}, scheme="https"),
    Service("node", "nodeshop", _node, {}, scheme="https"),
    Service("apache", "apache2", _apache, {("POST", "/echo"): 404}, sleeps=False, scheme="https"),
)
GNUTLS: Final = Service("gnutls-serv", "gnutls-serv", _gnutls, {}, scheme="https")
