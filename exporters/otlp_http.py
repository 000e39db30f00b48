# SPDX-License-Identifier: Apache-2.0
"""OTLP/HTTP: one attempt to post one encoded request, over one kept-alive connection.

In: bytes. Out: a `Reply`, never an exception. The rule it protects: nothing of the environment decides but proxies, so
that no ~/.netrc and no redirect takes telemetry, or its headers, elsewhere. urllib3 is imported where it is needed.
"""

from __future__ import annotations

import ipaddress
import math
import time
from base64 import b64encode
from collections.abc import Mapping
from http.client import HTTPException
from typing import Any, Final
from urllib.parse import unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

from exporters.envelope import Body
from exporters.otlp_direct import Answer, DirectPost
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


def _login(endpoint: str) -> dict[str, str]:
    """The header of a URL's user and password (RFC 7617)."""
    login = urlsplit(endpoint).netloc.rpartition("@")[0]
    return {"Authorization": "Basic " + b64encode(unquote(login).encode()).decode()} if login else {}


class PooledPost:
    """By urllib3: TLS and proxies."""

    def __init__(self, options: OtlpOptions, proxy: str | None, headers: Mapping[str, str]) -> None:
        import urllib3

        self._headers = headers
        self._timeout = urllib3.Timeout
        self._errors = urllib3.exceptions
        self._url = urllib3.util.parse_url(options.endpoint)._replace(auth=None).url
        secure: dict[str, Any] = {}
        if options.endpoint.startswith("https:"):
            secure = {"ca_certs": options.ca, "cert_file": options.certificate, "key_file": options.key}
        if proxy is None:
            self._manager = urllib3.PoolManager(num_pools=1, **secure)
            return
        proxy = proxy if "://" in proxy else f"http://{proxy}"
        login = urllib3.util.parse_url(proxy).auth
        of_proxy = urllib3.make_headers(proxy_basic_auth=unquote(login)) if login else None
        self._manager = urllib3.ProxyManager(proxy, num_pools=1, proxy_headers=of_proxy, **secure)

    def post(self, body: Body, timeout_s: float | None, most: int) -> Answer:
        """As DirectPost.post; urllib3's errors become OSError."""
        try:
            response = self._manager.urlopen(
                "POST",
                self._url,
                body=body,
                headers=self._headers,
                timeout=self._timeout(connect=timeout_s, read=timeout_s),
                retries=False,
                redirect=False,  # a redirected POST becomes a GET
                preload_content=False,
            )
            answer = Answer(response.status, response.reason or "", response.headers, response.read(most))
            response.release_conn()
        except self._errors.NewConnectionError as error:
            raise OSError(cause(error)) from error
        except self._errors.TimeoutError as error:
            raise TimeoutError from error
        except self._errors.LocationValueError as error:
            raise ValueError(cause(error)) from error
        except self._errors.HTTPError as error:
            raise OSError(cause(error)) from error
        return answer

    def close(self) -> None:
        """Cannot end a call that runs in another thread; its own timeout will."""
        self._manager.clear()


class HttpTransport:
    """OTLP/HTTP with protobuf bodies, over one kept-alive connection."""

    def __init__(self, options: OtlpOptions) -> None:
        self._options = options
        self._parse = response_parser(options.signal)
        headers = {"User-Agent": user_agent(), **_login(options.endpoint), **dict(options.headers)}
        headers["Content-Type"] = "application/x-protobuf"
        if options.gzip:
            headers["Content-Encoding"] = "gzip"
        proxy = proxy_of(options.endpoint, getproxies())
        self._connection: DirectPost | PooledPost
        if proxy is None and options.endpoint.startswith("http:"):
            self._connection = DirectPost(options.endpoint, headers)
        else:
            self._connection = PooledPost(options, proxy, headers)

    def prepare(self, body: Body) -> Body:
        if not self._options.gzip:
            return body
        import gzip

        return gzip.compress(body, compresslevel=1, mtime=0)  # level 6 costs three times as much for a tenth in size

    def send(self, prepared: Body, timeout_s: float) -> Reply:
        limit = None if math.isinf(timeout_s) else timeout_s
        try:
            answer = self._connection.post(prepared, limit, MAX_REPLY)
        except TimeoutError:
            return Reply("retry", f"no answer within {timeout_s:g} s")
        except ValueError as error:
            return Reply("refused", cause(error))
        except (HTTPException, OSError) as error:
            return Reply("retry", cause(error))
        return self._reply(answer)

    def _reply(self, answer: Answer) -> Reply:
        status, body = answer.status, answer.body
        protobuf = answer.headers.get("Content-Type", "").startswith("application/x-protobuf")
        if 200 <= status < 300:
            return self._accepted(body if protobuf else b"")
        reason = error_status(body).message if protobuf else body[:200].decode("utf-8", "replace").strip()
        message = " ".join(filter(None, (f"HTTP {status}", answer.reason, reason.partition("\n")[0])))
        if status in _RETRYABLE:
            return Reply("retry", message, wait_s=retry_after(answer.headers.get("Retry-After", ""), time.time()))
        return Reply("refused", message)

    def _accepted(self, body: bytes) -> Reply:
        from google.protobuf.message import DecodeError

        try:
            return delivered(self._parse(body), self._options.signal)
        except DecodeError:  # the status counts; a proxy may have changed the body
            return Reply("delivered")

    def close(self) -> None:
        self._connection.close()
