# SPDX-License-Identifier: Apache-2.0
"""Exchanges and the spans they become, as a table. tests/test_names.py runs it.

A case is: what the exchange is (arguments of `exchange`), what of the span is new, attributes that are new, attributes
that are gone; beside the plain span of its side.
"""

from __future__ import annotations

from typing import Any

from exchanges import START

from instrumenter.bpf.abi import Flag, Outcome, Protocol

OFFSET = 1_700_000_000_000_000_000
ERROR = 2
Case = tuple[dict[str, Any], dict[str, Any], dict[str, Any], tuple[str, ...]]

SERVER_SPAN: dict[str, Any] = {
    "name": "GET /users/*",
    "kind": 2,
    "start_ns": OFFSET + START,
    "end_ns": OFFSET + START + 2_000_000,
    "trace_id": bytes(range(1, 17)),
    "span_id": bytes(range(1, 9)),
    "flags": 0x101,
    "attributes": {
        "http.request.method": "GET",
        "http.route": "/users/*",
        "http.response.status_code": 200,
        "http.request.body.size": 0,
        "http.response.body.size": 512,
        "url.scheme": "http",
        "url.path": "/users/12345",
        "server.address": "shop.example",
        "server.port": 8080,
        "client.address": "192.0.2.7",
        "network.peer.address": "192.0.2.7",
        "network.peer.port": 51234,
        "network.protocol.version": "1.1",
        "user_agent.original": "curl/8.5.0",
        "stingless.ttfb_ns": 1_000_000,
    },
}
CLIENT_SPAN: dict[str, Any] = {
    **{k: v for k, v in SERVER_SPAN.items() if k not in ("kind", "attributes")},
    "kind": 3,
    "attributes": {
        "http.request.method": "GET",
        "http.response.status_code": 200,
        "http.request.body.size": 0,
        "http.response.body.size": 512,
        "url.scheme": "http",
        "url.full": "http://shop.example:8080/users/12345",
        "url.template": "/users/*",
        "server.address": "shop.example",
        "server.port": 8080,
        "network.peer.address": "192.0.2.7",
        "network.peer.port": 51234,
        "network.protocol.version": "1.1",
        "stingless.ttfb_ns": 1_000_000,
    },
}
NO_RESPONSE = {"status": 0, "first_ns": None, "response_bytes": 0}
GONE = ("http.response.status_code", "http.response.body.size", "stingless.ttfb_ns")  # without a response

CASES: dict[str, Case] = {
    "plain": ({}, {}, {}, ()),
    "query": (
        {"target": b"/users/1?page=2&sort=up"}, {},
        {"url.path": "/users/1", "url.query": "page=2&sort=up"}, (),
    ),
    "empty query": ({"target": b"/users/1?"}, {}, {"url.path": "/users/1", "url.query": ""}, ()),
    "fragment": ({"target": b"/users/1#top?x"}, {}, {"url.path": "/users/1"}, ()),
    "secret in the query": (
        {"target": b"/users/1?a=b&sig=S3CRET&Token=T&c"}, {},
        {"url.path": "/users/1", "url.query": "a=b&sig=REDACTED&Token=REDACTED&c"}, (),
    ),
    "secret behind a percent-encoded key": (
        {"target": b"/users/1?p%61ssword=S3CRET"}, {},
        {"url.path": "/users/1", "url.query": "p%61ssword=REDACTED"}, (),
    ),
    "no secret": (
        {"target": b"/users/1?design=a&mytoken=b&sig"}, {},
        {"url.path": "/users/1", "url.query": "design=a&mytoken=b&sig"}, (),
    ),
    "absolute-form": (
        {"target": b"http://user:pw@api.example:81/users/1?x=1", "host": b"proxy"}, {},
        {"url.path": "/users/1", "url.query": "x=1", "server.address": "api.example", "server.port": 81}, (),
    ),
    "asterisk-form": (
        {"target": b"*", "method": b"OPTIONS"}, {"name": "OPTIONS *"},
        {"http.request.method": "OPTIONS", "url.path": "*", "http.route": "*"}, (),
    ),
    "authority-form": (
        {"target": b"db.example:443", "method": b"CONNECT", "host": b"db.example:443"}, {"name": "CONNECT *"},
        {"http.request.method": "CONNECT", "http.route": "*", "server.address": "db.example", "server.port": 443},
        ("url.path",),
    ),
    "other method": (
        {"method": b"PURGE"}, {"name": "HTTP /users/*"},
        {"http.request.method": "_OTHER", "http.request.method_original": "PURGE"}, (),
    ),
    "method in lower case": (
        {"method": b"get"}, {"name": "HTTP /users/*"},
        {"http.request.method": "_OTHER", "http.request.method_original": "get"}, (),
    ),
    "404": ({"status": 404}, {}, {"http.response.status_code": 404}, ()),
    "500": ({"status": 500}, {"status": ERROR}, {"http.response.status_code": 500, "error.type": "500"}, ()),
    "redirect": ({"status": 302}, {}, {"http.response.status_code": 302}, ()),
    "HTTP/1.0 without Host": (
        {"protocol": Protocol.HTTP_1_0, "host": b""}, {},
        {"network.protocol.version": "1.0", "server.address": "10.0.0.2", "server.port": 8080}, (),
    ),
    "unknown version": ({"protocol": Protocol.UNKNOWN}, {}, {}, ("network.protocol.version",)),
    "host without port": ({"host": b"shop.example"}, {}, {"server.port": 80}, ()),
    "host without port, TLS": (
        {"host": b"shop.example", "tls": 1}, {}, {"server.port": 443, "url.scheme": "https"}, (),
    ),
    "TLS 1.3": (
        {"tls": 1, "tls_version": 0x0304}, {},
        {"url.scheme": "https", "tls.protocol.name": "tls", "tls.protocol.version": "1.3"}, (),
    ),
    "SSL 3.0": (
        {"tls": 1, "tls_version": 0x0300}, {},
        {"url.scheme": "https", "tls.protocol.name": "ssl", "tls.protocol.version": "3"}, (),
    ),
    "a version of TLS that is not known": ({"tls": 1, "tls_version": 0x7F1C}, {}, {"url.scheme": "https"}, ()),
    "server name of TLS in place of Host": (
        {"tls": 1, "host": b"sni.example", "flags": Flag.SAMPLED | Flag.SERVER_NAME}, {},
        {"url.scheme": "https", "server.address": "sni.example"}, (),
    ),
    "host is IPv6": ({"host": b"[2001:db8::1]:81"}, {}, {"server.address": "2001:db8::1", "server.port": 81}, ()),
    "host of nothing but a port": ({"host": b":81"}, {}, {"server.address": "10.0.0.2", "server.port": 81}, ()),
    "host with a bad port": ({"host": b"h:99999"}, {}, {"server.address": "h", "server.port": 80}, ()),
    "IPv6 peer": (
        {"remote": ("2001:db8::2", 4000), "local": ("::1", 8080)}, {},
        {"client.address": "2001:db8::2", "network.peer.address": "2001:db8::2", "network.peer.port": 4000}, (),
    ),
    "no user agent": ({"agent": b""}, {}, {}, ("user_agent.original",)),
    "bytes that are no UTF-8": (
        {"target": b"/users/1\xff/\x00", "agent": b"a\xe4\tb\x7f", "host": b"h\xff:1"},
        {"name": "GET /users/1%FF/%00"},
        {"url.path": "/users/1%FF/%00", "http.route": "/users/1%FF/%00", "user_agent.original": "a%E4%09b%7F",
         "server.address": "h%FF", "server.port": 1}, (),
    ),
    "bodies": (
        {"request_bytes": 300, "response_bytes": 1 << 40}, {},
        {"http.request.body.size": 300, "http.response.body.size": 1 << 40}, (),
    ),
    "sizes beyond int64": (
        {"request_bytes": (1 << 64) - 1}, {}, {"http.request.body.size": (1 << 63) - 1}, (),
    ),
    "target cut": ({"flags": Flag.SAMPLED | Flag.TARGET_CUT}, {}, {"stingless.target.truncated": True}, ()),
    "folded": ({"flags": Flag.SAMPLED | Flag.FOLDED, "route": 0}, {"name": "GET"}, {}, ("http.route",)),
    "ended before it began": (
        {"duration_ns": -5, "first_ns": -5}, {"end_ns": OFFSET + START}, {}, ("stingless.ttfb_ns",),
    ),
    "parent": (
        {"parent_id": b"\1" * 8, "flags": Flag.SAMPLED | Flag.TRACEPARENT, "state": b"a=1,b=2"},
        {"parent_id": b"\1" * 8, "trace_state": "a=1,b=2", "flags": 0x301}, {}, (),
    ),
    "tracestate that is not ASCII": (
        {"parent_id": b"\1" * 8, "flags": Flag.SAMPLED | Flag.TRACEPARENT, "state": b"a=\xff"},
        {"parent_id": b"\1" * 8, "flags": 0x301}, {}, (),
    ),
    "tracestate without traceparent": ({"state": b"a=1"}, {}, {}, ()),
    "client gone, no response": (
        {"outcome": Outcome.PEER_CLOSED, **NO_RESPONSE}, {"status": ERROR},
        {"error.type": "peer_closed", "stingless.outcome": "peer_closed"}, GONE,
    ),
    "reset, no response": (
        {"outcome": Outcome.RESET, **NO_RESPONSE}, {"status": ERROR},
        {"error.type": "connection_reset", "stingless.outcome": "connection_reset"}, GONE,
    ),
    "closed here, no response": (
        {"outcome": Outcome.LOCAL_CLOSED, **NO_RESPONSE}, {"status": ERROR},
        {"error.type": "connection_closed", "stingless.outcome": "connection_closed"}, GONE,
    ),
    "unreadable": (
        {"outcome": Outcome.UNREADABLE, "status": 0}, {"status": ERROR},
        {"error.type": "unreadable_response", "stingless.outcome": "unreadable_response"},
        ("http.response.status_code",),
    ),
    "reset in the response's body": (
        {"outcome": Outcome.RESET}, {"status": ERROR},
        {"error.type": "connection_reset", "stingless.outcome": "connection_reset"}, (),
    ),
    "reset in a 404's body": (
        {"outcome": Outcome.RESET, "status": 404}, {},
        {"http.response.status_code": 404, "stingless.outcome": "connection_reset"}, (),
    ),
    "reset in a 503's body": (
        {"outcome": Outcome.RESET, "status": 503}, {"status": ERROR},
        {"http.response.status_code": 503, "error.type": "503", "stingless.outcome": "connection_reset"}, (),
    ),
    "long target": (
        {"target": b"/users/" + b"x" * 1500}, {}, {"url.path": "/users/" + "x" * 1500}, (),
    ),
}  # fmt: skip

CLIENT_CASES: dict[str, Case] = {
    "plain": ({}, {}, {}, ()),
    "query with a secret": (
        {"target": b"/users/1?x=1&X-Amz-Signature=S"}, {},
        {"url.full": "http://shop.example:8080/users/1?x=1&X-Amz-Signature=REDACTED"}, (),
    ),
    "TLS": (
        {"tls": 1, "host": b"shop.example"}, {},
        {"url.scheme": "https", "url.full": "https://shop.example/users/12345", "server.port": 443}, (),
    ),
    "no Host": (
        {"host": b""}, {},
        {"url.full": "http://192.0.2.7:51234/users/12345", "server.address": "192.0.2.7", "server.port": 51234}, (),
    ),
    "server name of TLS in place of Host": (
        {"tls": 1, "host": b"sni.example", "flags": Flag.SAMPLED | Flag.SERVER_NAME}, {},
        {"url.scheme": "https", "url.full": "https://sni.example:51234/users/12345", "server.address": "sni.example",
         "server.port": 51234}, (),
    ),
    "server name of TLS, on the usual port": (
        {"tls": 1, "host": b"sni.example", "flags": Flag.SAMPLED | Flag.SERVER_NAME, "remote": ("192.0.2.7", 443)}, {},
        {"url.scheme": "https", "url.full": "https://sni.example/users/12345", "server.address": "sni.example",
         "server.port": 443, "network.peer.port": 443}, (),
    ),
    "no Host, IPv6": (
        {"host": b"", "remote": ("2001:db8::2", 80)}, {},
        {"url.full": "http://[2001:db8::2]:80/users/12345", "server.address": "2001:db8::2", "server.port": 80,
         "network.peer.address": "2001:db8::2", "network.peer.port": 80}, (),
    ),
    "through a proxy": (
        {"target": b"http://user:pw@api.example/users/1", "host": b"api.example"}, {},
        {"url.full": "http://REDACTED:REDACTED@api.example/users/1", "server.address": "api.example",
         "server.port": 80}, (),
    ),
    "through a proxy, no path": (
        {"target": b"http://api.example?x", "host": b"api.example"}, {"name": "GET /"},
        {"url.full": "http://api.example/?x", "url.template": "/", "server.address": "api.example",
         "server.port": 80}, (),
    ),
    "credentials in Host": (
        {"host": b"user@shop.example"}, {}, {"url.full": "http://REDACTED@shop.example/users/12345", "server.port": 80},
        (),
    ),
    "tunnel": (
        {"target": b"db.example:443", "method": b"CONNECT", "host": b"db.example:443"}, {"name": "CONNECT *"},
        {"http.request.method": "CONNECT", "url.template": "*", "url.full": "http://db.example:443",
         "server.address": "db.example", "server.port": 443}, (),
    ),
    "options of the server": (
        {"target": b"*", "method": b"OPTIONS"}, {"name": "OPTIONS *"},
        {"http.request.method": "OPTIONS", "url.template": "*", "url.full": "http://shop.example:8080"}, (),
    ),
    "404": (
        {"status": 404}, {"status": ERROR}, {"http.response.status_code": 404, "error.type": "404"}, (),
    ),
    "server hung up": (
        {"outcome": Outcome.PEER_CLOSED, **NO_RESPONSE}, {"status": ERROR},
        {"error.type": "peer_closed", "stingless.outcome": "peer_closed"}, GONE,
    ),
    "own context sent": (
        {"parent_id": b"\1" * 8, "flags": Flag.SAMPLED | Flag.TRACEPARENT}, {"parent_id": b"\1" * 8}, {}, (),
    ),
    "long target": (
        {"target": b"/users/" + b"x" * 1500}, {}, {"url.full": "http://shop.example:8080/users/" + "x" * 1500}, (),
    ),
}  # fmt: skip
