# SPDX-License-Identifier: Apache-2.0
"""A certificate for 127.0.0.1 and localhost, made once per run by openssl, and how clients come to trust it.

In: nothing. Out: files. Clients check it as they would any: the environment names it, as administrators do.
"""

from __future__ import annotations

import functools
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from running import ROOT

FOLDER: Final = ROOT / "build" / "truth" / "certificate"
_SUBJECT: Final = "subjectAltName=DNS:localhost,IP:127.0.0.1"


@dataclass(frozen=True, slots=True)
class Certificate:
    """PEM files, and both as PKCS 12 with the password "secret", as Java wants them."""

    cert: Path
    key: Path
    store: Path

    @property
    def pair(self) -> list[str]:
        """As most programs take them on the command line."""
        return [str(self.cert), str(self.key)]


@functools.cache
def certificate() -> Certificate:
    """Raises CalledProcessError with openssl's own words on standard error."""
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(parents=True)
    made = Certificate(FOLDER / "cert.pem", FOLDER / "key.pem", FOLDER / "store.p12")
    new = ["-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
    about = ["-subj", "/CN=localhost", "-addext", _SUBJECT]
    _openssl("req", *new, *about, "-keyout", str(made.key), "-out", str(made.cert))
    both = ["-inkey", str(made.key), "-in", str(made.cert), "-passout", "pass:secret"]
    _openssl("pkcs12", "-export", *both, "-out", str(made.store))
    return made


def trust() -> dict[str, str]:
    """Environment of clients: OpenSSL's and Go's variable, requests', curl's, Node's."""
    path = str(certificate().cert)
    names = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "NODE_EXTRA_CA_CERTS")
    return dict.fromkeys(names, path)


def _openssl(*arguments: str) -> None:
    subprocess.run(["openssl", *arguments], check=True, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)
