#!/bin/sh
# What the tests' gRPC peers need: Node packages into build/peers, and the Go peer built there. Quick when nothing changed.
set -eu
cd "$(dirname "$0")/.."
PATH=$PATH:/usr/local/go/bin
folder=build/peers
mkdir -p "$folder/node"

sum=$(cat tests/truth/peers/nodepeer/package.json scripts/peers.sh | cksum)
if [ "$(cat "$folder/.node" 2>/dev/null)" != "$sum" ]; then
	cp tests/truth/peers/nodepeer/package.json "$folder/node/"
	npm install --silent --no-audit --no-fund --prefix "$folder/node" >&2
	echo "$sum" >"$folder/.node"
fi

sum=$(cat tests/truth/peers/gopeer/* scripts/peers.sh | cksum)
if [ "$(cat "$folder/.go" 2>/dev/null)" != "$sum" ]; then
	GOFLAGS=-mod=mod GOTOOLCHAIN=local go build -C tests/truth/peers/gopeer -o "$PWD/$folder/gopeer" .
	echo "$sum" >"$folder/.go"
fi
