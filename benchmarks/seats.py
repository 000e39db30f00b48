# SPDX-License-Identifier: Apache-2.0
"""Whom overhead.py measures: nginx or Go's net/http, plain or with TLS; their own count is on the plain port."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Final, Self

from common import ROOT, Nginx
from running import until

PORT, TLS_PORT = 8080, 8443
GO_SERVER: Final = ROOT / "build" / "benchmarks" / "go-server"


def certificate(folder: Path) -> Path:
    """A key and a self-signed certificate in one file."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "localhost.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    command += ["-days", "2", "-subj", "/CN=localhost", "-keyout", str(path), "-out", str(path)]
    subprocess.run(command, check=True, capture_output=True)
    return path


class NginxTls(Nginx):
    """As Nginx, with what is measured on a second port."""

    def __init__(self, folder: Path) -> None:
        pem = certificate(folder)
        tls = f"listen 127.0.0.1:{TLS_PORT} ssl reuseport; ssl_certificate {pem}; ssl_certificate_key {pem};"
        super().__init__(folder, PORT, tls)

    def measured(self) -> str:
        return f"https://127.0.0.1:{TLS_PORT}/index.html"


class Go(Nginx):
    """benchmarks/go_server: on both ports. `build` makes it, on the host."""

    def __init__(self, folder: Path, secure: bool) -> None:
        self.port, self.secure = PORT, secure
        command = [str(GO_SERVER), str(PORT), str(TLS_PORT), str(certificate(folder))]
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
        until(lambda: self.process.poll() is not None or self._answers(), "the Go server answers", 60)
        if self.process.poll() is not None:
            raise SystemExit("the Go server did not start")
        self.worker = self.process.pid

    def measured(self) -> str:
        return f"https://127.0.0.1:{TLS_PORT}/index.html" if self.secure else super().measured()

    def __enter__(self) -> Self:
        return self


SEATS: Final = ("nginx", "https", "go", "gotls")


def build(seat: str) -> None:
    """What has to be there before the machine boots that has no compiler to spare."""
    if not seat.startswith("go"):
        return
    GO_SERVER.parent.mkdir(parents=True, exist_ok=True)
    go = shutil.which("go") or "/usr/local/go/bin/go"
    environment = os.environ | {"GOFLAGS": "", "GO111MODULE": "off", "CGO_ENABLED": "0"}
    source = ROOT / "benchmarks" / "go_server" / "main.go"
    subprocess.run([go, "build", "-o", GO_SERVER, source], check=True, env=environment)


def serve(seat: str, folder: Path) -> Nginx:
    if seat == "nginx":
        return Nginx(folder, PORT)
    return NginxTls(folder) if seat == "https" else Go(folder, seat == "gotls")
