# SPDX-License-Identifier: Apache-2.0
"""Clients over TLS, HTTP/2, WebSocket and gRPC: one row for each program, protocol and TLS library.

In: what to ask (`Ask`). Out: what the client says became of it (`Sender`). The rule it protects: as in senders.py.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from truth import senders
from truth.certificates import certificate
from truth.launch import HERE, Running, built, program, pypi
from truth.secured import BORINGSSL, GO, JSSE, by_go, npm
from truth.senders import Ask, Held, Sender, Sent, planned, python

Run = Callable[
    [Path, Sequence[Ask], Held | None, Held | None], Sender
]  # what is called: when it has asked, before it asks
CLIENTS: Final = HERE / "clients"
NODE: Final = HERE / "services" / "nodeshop"


@dataclass(frozen=True, slots=True)
class Caller:
    """library: its TLS, "" if it talks in plain. without: methods that it does not send. hidden: as a Service's."""

    label: str
    protocol: str
    library: str
    run: Run
    version: tuple[str, ...]
    hidden: str = ""
    without: tuple[str, ...] = ()
    retries: bool = False  # it asks again by itself where a kept connection was just closed

    def suits(self, running: Running) -> bool:
        """Whether it can talk to this service."""
        return self.protocol in running.service.speaks and bool(self.library) == bool(running.service.library)


def _python(name: str, how: str) -> Run:
    return lambda folder, asks, held, _: python(name, folder, asks, how, held)


def _node(name: str, how: str) -> Run:
    return lambda folder, asks, held, _: planned([program("node"), str(NODE / name)], name, folder, asks, how, held)


def _pycurl(how: str) -> Run:
    command = ["/usr/bin/python3", str(CLIENTS / "pycurl_client.py")]
    return lambda folder, asks, held, _: planned(command, "pycurl_client", folder, asks, how, held)


def _go(name: str, how: str, *first: str) -> Run:
    """Its TLS is in its own file, and it asks at once: what it says before that file has probes is not seen."""
    return lambda folder, asks, held, begin: planned([built(name), *first], name, folder, asks, how, held, begin)


def _java(how: str) -> Run:
    def run(folder: Path, asks: Sequence[Ask], held: Held | None, _: Held | None) -> Sender:
        command = [program("java"), "-cp", built("java/classes"), "JavaClient"]
        return planned(command, "JavaClient", folder, asks, how, held)

    return run


def _curl(version: str) -> Run:
    return lambda folder, asks, _held, _begin: senders.curl(folder, asks, version)


def _curl_each(folder: Path, asks: Sequence[Ask], _held: Held | None, _begin: Held | None) -> Sender:
    """A curl for each: by prior knowledge curl 7.88 cannot use a connection again."""
    each = [senders.curl(folder, [a], "--http2-prior-knowledge") for a in asks]
    sent = tuple(s for sender in each for s in sender.sent)
    return Sender("curl", "curl", each[0].pid, sent, tuple(sender.pid for sender in each[1:]))


def _wget(folder: Path, asks: Sequence[Ask], _held: Held | None, _begin: Held | None) -> Sender:
    """One wget for all; it says the status of each after its URL."""
    urls = folder / f"wget-{asks[0].number}"
    urls.write_text("".join(f"{a.url}\n" for a in asks))
    log = folder / f"{urls.name}.log"
    trusted = f"--ca-certificate={certificate().cert}"
    command = [program("wget"), "-S", "-i", str(urls), "-O", "/dev/null", "-o", str(log), trusted]
    pid, _output = senders.run(command, codes=(8,))  # some of the answers were errors
    said = re.findall(r"^--.*[?&]n=(\d+)$|^ +HTTP/1\.\d (\d{3})", log.read_text(), re.MULTILINE)
    status = {int(n): int(code) for (n, _1), (_2, code) in zip(said[::2], said[1::2], strict=True)}
    return Sender("wget", "wget", pid, tuple(Sent(a, status[a.number]) for a in asks))


def _h2load(version: str, folder: Path, asks: Sequence[Ask], _held: Held | None, _begin: Held | None) -> Sender:
    """One run for each service, ten streams at a time; it says how many got which class of status."""
    sent: list[Sent] = []
    pids = []
    for running in dict.fromkeys(a.service for a in asks):
        own = [a for a in asks if a.service is running]
        urls = folder / f"h2load-{own[0].number}"
        urls.write_text("".join(f"{a.url}\n" for a in own))
        command = [program("h2load"), version, "-n", str(len(own)), "-c", "1", "-m", "10", "-i", str(urls)]
        pid, output = senders.run(command)
        pids.append(pid)
        found = re.search(r"status codes: (\d+) 2xx, (\d+) 3xx, (\d+) 4xx, (\d+) 5xx", output)
        assert found, output
        assert [int(n) for n in found.groups()] == [sum(a.status // 100 == k for a in own) for k in (2, 3, 4, 5)]
        sent += [Sent(a, a.status) for a in own]
    return Sender("h2load", "h2load", pids[0], tuple(sent), tuple(pids[1:]))


_CURL: Final = ("curl", "--version")
_NODE: Final = ("node", "--version")
_JAVA: Final = ("java", "--version")
_H2LOAD: Final = ("h2load", "--version")
_PYCURL: Final = ("/usr/bin/python3", "-c", "import pycurl; print(pycurl.version)")

CALLERS: Final = (
    Caller("curl", "HTTP/1", "", _curl("--http1.1"), _CURL),
    Caller("wget", "HTTP/1", "", _wget, ("wget", "--version"), without=("POST", "HEAD")),
    Caller("requests", "HTTP/1", "", _python("requests_client", "session"), pypi("requests")),
    Caller("aiohttp client", "HTTP/1", "", _python("aiohttp_client", "8"), pypi("aiohttp")),
    Caller("httpx", "HTTP/1", "", _python("httpx_client", "h1"), pypi("httpx")),
    Caller("Node fetch", "HTTP/1", "", _node("client.js", "fetch"), _NODE),
    Caller("Node http client", "HTTP/1", "", _node("client.js", "http"), _NODE),
    Caller("Go http.Client", "HTTP/1", "", _go("goclient", "h1"), by_go("goclient")),
    Caller("Java HttpClient", "HTTP/1", "", _java("h1"), _JAVA, retries=True),
    Caller("curl", "HTTP/1", "OpenSSL", _curl("--http1.1"), _CURL),
    Caller("curl", "HTTP/2", "OpenSSL", _curl("--http2"), _CURL),
    Caller("curl", "HTTP/2", "", _curl_each, _CURL, without=("POST",)),
    Caller("pycurl", "HTTP/1", "GnuTLS", _pycurl("h1"), _PYCURL),
    Caller("pycurl", "HTTP/2", "GnuTLS", _pycurl("h2"), _PYCURL),
    Caller("wget", "HTTP/1", "GnuTLS", _wget, ("wget", "--version"), without=("POST", "HEAD")),
    Caller("requests", "HTTP/1", "OpenSSL", _python("requests_client", "session"), pypi("requests")),
    Caller("requests oneshot", "HTTP/1", "OpenSSL", _python("requests_client", "oneshot"), pypi("requests")),
    Caller("aiohttp client", "HTTP/1", "OpenSSL", _python("aiohttp_client", "8"), pypi("aiohttp")),
    # Its library (anyio) lets others run between a call of OpenSSL and the socket call behind it: of many at once it is
    # not known which socket is whose, and they are counted as lost (test_tls_life.py).
    Caller("httpx", "HTTP/1", "OpenSSL", _python("httpx_client", "single"), pypi("httpx")),
    Caller("httpx", "HTTP/2", "OpenSSL", _python("httpx_client", "h2"), pypi("httpx")),
    Caller("httpx", "HTTP/2", "", _python("httpx_client", "h2"), pypi("httpx")),
    Caller("Node fetch", "HTTP/1", "OpenSSL", _node("client.js", "fetch"), _NODE),
    Caller("Node http client", "HTTP/1", "OpenSSL", _node("client.js", "http"), _NODE),
    Caller("Node http2 client", "HTTP/2", "OpenSSL", _node("client.js", "http2"), _NODE),
    Caller("Node http2 client", "HTTP/2", "", _node("client.js", "http2"), _NODE),
    Caller("Go http.Client", "HTTP/1", GO, _go("goclient", "h1"), by_go("goclient")),
    Caller("Go http.Client", "HTTP/2", GO, _go("goclient", "h2"), by_go("goclient")),
    Caller("Java HttpClient", "HTTP/1", "JSSE", _java("h1"), _JAVA, JSSE),
    Caller("Java HttpClient", "HTTP/2", "JSSE", _java("h2"), _JAVA, JSSE),
    Caller("h2load", "HTTP/2", "OpenSSL", partial(_h2load, "--npn-list=h2"), _H2LOAD, without=("POST", "HEAD")),
    Caller("h2load", "HTTP/2", "", partial(_h2load, "--npn-list=h2"), _H2LOAD, without=("POST", "HEAD")),
    Caller("ws client", "WebSocket", "", _node("socketclient.js", "-"), npm("ws")),
    Caller("ws client", "WebSocket", "OpenSSL", _node("socketclient.js", "-"), npm("ws")),
    Caller("websockets client", "WebSocket", "", _python("websockets_client", "-"), pypi("websockets")),
    Caller("websockets client", "WebSocket", "OpenSSL", _python("websockets_client", "-"), pypi("websockets")),
    Caller("grpcio client", "gRPC", "", _python("grpc_client", "plain"), pypi("grpcio")),
    Caller("grpcio client", "gRPC", "BoringSSL", _python("grpc_client", "tls"), pypi("grpcio"), BORINGSSL),
    Caller("grpc-js client", "gRPC", "", _node("grpcclient.js", "plain"), npm("@grpc/grpc-js")),
    Caller("grpc-js client", "gRPC", "OpenSSL", _node("grpcclient.js", "tls"), npm("@grpc/grpc-js")),
    Caller("grpc-go client", "gRPC", "", _go("gogrpc", "plain", "call"), by_go("gogrpc")),
    Caller("grpc-go client", "gRPC", GO, _go("gogrpc", "tls", "call"), by_go("gogrpc")),
)
