# SPDX-License-Identifier: Apache-2.0
"""The templates of request paths; the kernel's hash is held to the same table by the kernel tests."""

from __future__ import annotations

import pytest

from instrumenter.routes import Routes, printable, template

UUID = b"123e4567-e89b-12d3-a456-426614174000"

TEMPLATES = [
    (b"/", "/"),
    (b"", "/"),
    (b"?x=1", "/"),
    (b"/users", "/users"),
    (b"/users/", "/users/"),
    (b"//users", "//users"),
    (b"/users/1", "/users/*"),
    (b"/users/007/orders/42?x=/1#y", "/users/*/orders/*"),
    (b"/a#b/1", "/a"),
    (b"/v1/users", "/v1/users"),
    (b"/1.5", "/1.5"),
    (b"/" + UUID, "/*"),
    (b"/" + UUID.upper() + b"/x", "/*/x"),
    (b"/aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee", "/*"),
    (b"/aaaaaaaabbbb-cccc--dddd-eeeeeeeeeeee", "/aaaaaaaabbbb-cccc--dddd-eeeeeeeeeeee"),
    (b"/aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeeg", "/aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeeg"),
    (b"/deadbee1", "/*"),
    (b"/DEADBEE1", "/*"),
    (b"/deadbe1", "/deadbe1"),
    (b"/deadbeef", "/deadbeef"),
    (b"/abcdefg1", "/abcdefg1"),
    (b"/" + b"x" * 23 + b"1", "/*"),
    (b"/" + b"x" * 22 + b"1", "/" + "x" * 22 + "1"),
    (b"/" + b"x" * 48, "/" + "x" * 48),
    (b"/" + b"x" * 49, "/*"),
    (b"http://h/users/1?x", "/users/*"),
    (b"HTTPS://user:pw@h:1/users/1", "/users/*"),
    (b"http://h", "/"),
    (b"http://h?x=/1", "/"),
    (b"/http://h/1", "/http://h/*"),
    (b"ftp://h/1", "*"),
    (b"*", "*"),
    (b"example.com:443", "*"),
    (b"host:443", "*"),
    (b"/" + b"/".join([b"a"] * 16), "/" + "/".join(["a"] * 16)),
    (b"/" + b"/".join([b"a"] * 17), "/" + "/".join(["a"] * 15) + "/**"),
    (b"/" + b"/".join([b"1"] * 40), "/" + "/".join(["*"] * 15) + "/**"),
    (b"/\xff\x00x", "/%FF%00x"),
    (b"/" + b"\xc3\xa4" * 24, "/" + "%C3%A4" * 24),
    (b"/" + b"\xc3\xa4" * 25, "/*"),
    (b"/a%20b/%31", "/a%20b/%31"),
]


@pytest.mark.parametrize(("target", "expected"), TEMPLATES)
def test_template(target: bytes, expected: str) -> None:
    assert template(target) == expected


def test_any_bytes_give_a_template_that_is_printable() -> None:
    for byte in range(256):
        text = template(bytes([0x2F, byte, 0x2F, byte, byte]))
        assert text.isascii()
        assert text.isprintable()


def test_printable_keeps_what_is_printable_and_loses_nothing() -> None:
    assert printable(b"a b~") == "a b~"
    assert printable(b"\x7f\t\xe4") == "%7F%09%E4"


def test_routes_asks_once_per_hash_and_stays_small() -> None:
    routes = Routes(limit=2)
    assert routes.name(1, b"/a/1") == "/a/*"
    assert routes.name(1, b"/other") == "/a/*"
    routes.name(2, b"/b")
    routes.name(3, b"/c")
    assert routes.name(1, b"/other") == "/other"  # forgotten, learned anew


@pytest.mark.parametrize(
    ("pattern", "path"),
    [
        (b"/users/", "/users/"),
        (b"GET /users/{id}", "/users/{id}"),
        (b"GET example.org/a/{rest...}", "/a/{rest...}"),
        (b"/{$}", "/{$}"),
        (b"/\xc3\xa4", "/%C3%A4"),
    ],
)
def test_registered_patterns(pattern: bytes, path: str) -> None:
    routes = Routes(2)
    routes.register(7, pattern)
    assert routes.name(7, b"/users/1?x=2") == path


def test_registered_patterns_outlive_what_is_known_of_paths() -> None:
    """Python is told of a pattern once; paths are learned again from any request."""
    routes = Routes(2)
    routes.register(7, b"GET /a/{b}")
    assert [routes.name(i, b"/p%d" % i) for i in (1, 2, 3, 4)] == ["/p1", "/p2", "/p3", "/p4"]
    assert routes.name(7, b"/a/1") == "/a/{b}"
