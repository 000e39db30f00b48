# SPDX-License-Identifier: Apache-2.0
"""OTLP/HTTP: one attempt to post one encoded request, over one kept-alive connection.

In: bytes. Out: a `Reply`, never an exception. The rule it protects: nothing of the environment decides but proxies, so
that no ~/.netrc and no redirect takes telemetry, or its headers, elsewhere. urllib3 is imported when it is built.
"""

from __future__ import annotations

import ipaddress
import math
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

from exporters.envelope import Body
from exporters.otlp_options import OtlpOptions
from exporters.otlp_transport import (
    MAX_REPLY,
    Reply,
    cause,
    delivered,
    error_status,
    response_parser,
    retry_after,
    user_agent,
)

if TYPE_CHECKING:
    import urllib3

_RETRYABLE: Final = frozenset({429, 502, 503, 504})


def proxy_of(url: str, proxies: Mapping[str, str]) -> str | None:
    """The proxy for this URL. proxies: as urllib has them, by scheme; "no" may hold networks, too (10.0.0.0/8)."""
    parts = urlsplit(url)
    proxy = proxies.get(parts.scheme) or proxies.get("all")
    if not proxy or not parts.hostname or proxy_bypass(parts.hostname, dict(proxies)):
        return None
    try:
        address = ipaddress.ip_address(parts.hostname)
    except ValueError:
        return proxy
    for entry in proxies.get("no", "").split(","):
        try:
            if address in ipaddress.ip_network(entry.strip(), strict=False):
                return None
        except ValueError:
            continue
    return proxy


class HttpTransport:
    """OTLP/HTTP with protobuf bodies, over one kept-alive connection."""

    def __init__(self, options: OtlpOptions) -> None:
        import urllib3

        self._errors = urllib3.exceptions
        self._timeout = urllib3.Timeout
        self._options = options
        self._parse = response_parser(options.signal)
        parts = urllib3.util.parse_url(options.endpoint)
        self._url = parts._replace(auth=None).url
        login = urllib3.make_headers(basic_auth=unquote(parts.auth)) if parts.auth else {}
        self._headers = {"User-Agent": user_agent(), "Accept-Encoding": "gzip", **login, **dict(options.headers)}
        self._headers["Content-Type"] = "application/x-protobuf"
        if options.gzip:
            self._headers["Content-Encoding"] = "gzip"
        self._manager = self._open(options)

    def _open(self, options: OtlpOptions) -> urllib3.PoolManager:
        import urllib3

        secure: dict[str, Any] = {}
        if options.endpoint.startswith("https:"):
            secure = {"ca_certs": options.ca, "cert_file": options.certificate, "key_file": options.key}
        proxy = proxy_of(options.endpoint, getproxies())
        if proxy is None:
            return urllib3.PoolManager(num_pools=1, **secure)
        proxy = proxy if "://" in proxy else f"http://{proxy}"
        login = urllib3.util.parse_url(proxy).auth
        headers = urllib3.make_headers(proxy_basic_auth=unquote(login)) if login else None
        return urllib3.ProxyManager(proxy, num_pools=1, proxy_headers=headers, **secure)

    def prepare(self, body: Body) -> Body:
        if not self._options.gzip:
            return body
        import gzip

        return gzip.compress(body, compresslevel=1, mtime=0)  # level 6 costs three times as much for a tenth in size

    def send(self, prepared: Body, timeout_s: float) -> Reply:
        limit = None if math.isinf(timeout_s) else timeout_s
        try:
            response = self._manager.urlopen(
                "POST",
                self._url,
                body=prepared,
                headers=self._headers,
                timeout=self._timeout(connect=limit, read=limit),
                retries=False,
                redirect=False,  # a redirected POST becomes a GET
                preload_content=False,
            )
            body = response.read(MAX_REPLY, decode_content=True)
            response.release_conn()
        except self._errors.NewConnectionError as error:
            return Reply("retry", cause(error))
        except self._errors.TimeoutError:
            return Reply("retry", f"no answer within {timeout_s:g} s")
        except (self._errors.LocationValueError, ValueError) as error:
            return Reply("refused", cause(error))
        except (self._errors.HTTPError, OSError) as error:
            return Reply("retry", cause(error))
        return self._reply(response, body)

    def _reply(self, response: urllib3.BaseHTTPResponse, body: bytes) -> Reply:
        status = response.status
        protobuf = response.headers.get("Content-Type", "").startswith("application/x-protobuf")
        if 200 <= status < 300:
            return self._accepted(body if protobuf else b"")
        reason = error_status(body).message if protobuf else body[:200].decode("utf-8", "replace").strip()
        message = " ".join(filter(None, (f"HTTP {status}", response.reason, reason.partition("\n")[0])))
        if status in _RETRYABLE:
            return Reply("retry", message, wait_s=retry_after(response.headers.get("Retry-After", ""), time.time()))
        return Reply("refused", message)

    def _accepted(self, body: bytes) -> Reply:
        from google.protobuf.message import DecodeError

        try:
            return delivered(self._parse(body), self._options.signal)
        except DecodeError:  # the status counts; a proxy may have changed the body
            return Reply("delivered")

    def close(self) -> None:
        """Cannot end a call that runs in another thread; its own timeout will."""
        self._manager.clear()
