# SPDX-License-Identifier: Apache-2.0
"""Where probes go for Go's plaintext: found in real builds, and refused where they would see something else."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from go_builds import OLDER, OLDEST, PIE, STRIPPED, small, standard

from instrumenter.binaries.elf import Elf
from instrumenter.binaries.go_buildinfo import BuildInfo, build_info
from instrumenter.binaries.go_functions import find_functions
from instrumenter.binaries.go_samples import SAMPLES
from instrumenter.binaries.go_spills import lost_arguments
from instrumenter.binaries.go_tls import LAYOUT, READ, WRITE, crypto_tls, giving_returns, unknown_layout
from instrumenter.binaries.go_wanted import STD
from instrumenter.binaries.returns import return_sites

SAVED = """package main

import "os"

//go:noinline
func use(b []byte, n int) int { return len(b) + n + len(os.Args) }

type conn struct{ n int }

//go:noinline
func (c *conn) keeps(b []byte) (int, error) { return use(b, c.n) + use(b, 1) + c.n, nil }

//go:noinline
func (c *conn) leaf(b []byte) (int, error) { return c.n, nil }

//go:noinline
func (c *conn) changes(b []byte) (int, error) {
	n := 0
	for len(b) > 2 {
		n += use(b, c.n)
		b = b[n:]
		c = &conn{use(b, n)}
	}
	return n, nil
}

func main() {
	c := &conn{len(os.Args)}
	a, _ := c.keeps(nil)
	b, _ := c.leaf(nil)
	d, _ := c.changes(nil)
	os.Exit(a + b + d)
}
"""


@pytest.mark.parametrize("version", ["", "1.24.11", OLDER, OLDEST])
@pytest.mark.parametrize("flags", [(), (*PIE, *STRIPPED)], ids=["exe", "stripped-pie"])
def test_places(version: str, flags: tuple[str, ...]) -> None:
    """Of Read's seven returns, one has bytes and no error, one both, one follows a panic; four give no bytes."""
    with Elf(str(standard(version, *flags))) as elf:
        found, (name, functions, reason) = find_functions(elf, (READ, WRITE)), crypto_tls(elf)
        sites = return_sites(elf, found[READ])
    assert reason is None
    assert name
    assert 4 < functions.pop(WRITE).offset - found[WRITE].offset < 24  # behind the stack's check, which may come twice
    assert all(re.fullmatch(re.escape(READ) + r"\+0x[0-9a-f]+", name) for name in functions)
    assert len(sites) == 7
    assert [symbol.offset for symbol in functions.values()] == [sites[3], sites[4], sites[6]]


def test_arm64() -> None:
    with Elf(str(small("arm64-tls", SAMPLES[STD], GOARCH="arm64"))) as elf:
        found, (_, functions, reason) = find_functions(elf, (READ, WRITE)), crypto_tls(elf)
        assert reason is None
        assert functions.pop(WRITE).offset == found[WRITE].offset + 16  # four instructions
        assert [s.offset for s in functions.values()] == [*return_sites(elf, found[READ])]


@pytest.mark.parametrize("architecture", ["amd64", "arm64"])
def test_arguments_that_are_not_kept(architecture: str) -> None:
    path = small(f"saved-{architecture}", SAVED, GOARCH=architecture)
    names = {name: f"main.(*conn).{name}" for name in ("keeps", "leaf", "changes")}
    with Elf(str(path)) as elf:
        found = find_functions(elf, names.values())
        lost = {name: lost_arguments(elf, found[function]) for name, function in names.items()}
    assert lost["keeps"] == ""
    assert lost["leaf"] == "does not save its arguments at first"
    assert lost["changes"] != ""


def test_unknown_version(tmp_path: Path) -> None:
    """A stripped program of a release that was not measured is left alone; one with DWARF tells itself."""
    info = BuildInfo("go1.99.1")
    with Elf(str(standard("", *STRIPPED))) as elf:
        assert unknown_layout(elf, info) == "crypto/tls.Conn.conn: 1.99 is newer than what was measured"
        assert unknown_layout(elf, BuildInfo("go1.17")) == ""
    with Elf(str(standard(""))) as elf:
        assert unknown_layout(elf, info) == ""
        assert unknown_layout(elf, BuildInfo()) == ""


def test_another_layout() -> None:
    with Elf(str(standard("", *STRIPPED))) as elf:
        assert unknown_layout(elf, build_info(elf), LAYOUT | {"net.netFD.family": 48}) == "net.netFD.family has moved"


def test_a_return_without_a_store_is_kept() -> None:
    """Only where the straight line before it stores 0 is a return left out."""
    path = small("saved-amd64", SAVED, GOARCH="amd64")
    with Elf(str(path)) as elf:
        for function in find_functions(elf, ("main.(*conn).keeps", "main.(*conn).changes")).values():
            assert giving_returns(elf, function) == return_sites(elf, function)
