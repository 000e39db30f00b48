#!/bin/sh
# The programs of tests/truth that have to be built or fetched: build/programs. What did not change is not built again.
set -eu
cd "$(dirname "$0")/.."
PATH=$PATH:/usr/local/go/bin:$HOME/.cargo/bin

SOURCES=tests/truth/services
CLIENTS=tests/truth/clients
OUT=$PWD/build/programs
mkdir -p "$OUT"

changed() { # target, sources...: whether it has to be built; the stamp is written by `done_with`
	target=$1
	shift
	sum=$(cat "$@" | cksum)
	[ -e "$OUT/$target" ] && [ "$(cat "$OUT/$target.sum" 2>/dev/null)" = "$sum" ] && return 1
	echo "programs: $target"
}

done_with() { echo "$sum" >"$OUT/$1.sum"; }

go_program() { # target, toolchain ("": the machine's), flags, sources...
	target=$1 toolchain=$2 flags=$3
	shift 3
	changed "$target" "$@" || return 0
	go=${toolchain:+build/go/$toolchain/go/bin/}go
	# shellcheck disable=SC2086
	GO111MODULE=off GOFLAGS= GOTOOLCHAIN=local CGO_ENABLED=0 "$go" build $flags -o "$OUT/$target" "$@"
	done_with "$target"
}

scripts/go_toolchains.sh 1.21.13 1.24.11
SHOP="$SOURCES/goshop.go $SOURCES/goshop_h2c.go"
# shellcheck disable=SC2086
{
	go_program goshop "" "" $SHOP
	go_program goshop-1.21 1.21.13 "" $SOURCES/goshop.go
	go_program goshop-1.24-stripped 1.24.11 "-ldflags=-s" $SHOP
	go_program goshop-pie "" "-buildmode=pie" $SHOP
}
go_program goclient "" "" $CLIENTS/goclient.go

if changed gogrpc $SOURCES/gogrpc/*; then
	go=$PWD/build/go/1.24.11/go/bin/go
	(cd $SOURCES/gogrpc && GOFLAGS= GOTOOLCHAIN=local GOWORK=off "$go" build -o "$OUT/gogrpc" .)
	done_with gogrpc
fi

go_routes() { # target, toolchain ("": the machine's), module file, flags
	changed "$1" $SOURCES/goroutes/* || return 0
	go=${2:+$PWD/build/go/$2/go/bin/}go
	# shellcheck disable=SC2086
	(cd $SOURCES/goroutes && GOFLAGS= GOTOOLCHAIN=local GOWORK=off CGO_ENABLED=0 "$go" build -modfile="$3" $4 -o "$OUT/$1" .)
	done_with "$1"
}
go_routes goroutes "" go.mod ""
go_routes goroutes-stripped "" go.mod "-buildmode=pie -ldflags=-s"
go_routes goroutes-1.21 1.21.13 older.mod ""
go_routes goroutes-1.21-stripped 1.21.13 older.mod "-ldflags=-s"

if changed node $SOURCES/nodeshop/package.json; then
	rm -rf "$OUT/node"
	mkdir -p "$OUT/node"
	cp $SOURCES/nodeshop/package.json "$OUT/node/"
	npm install --silent --no-audit --no-fund --no-package-lock --prefix "$OUT/node" </dev/null
	done_with node
fi

if changed java $SOURCES/javashop/* $CLIENTS/JavaClient.java; then
	rm -rf "$OUT/java"
	mvn -q -B -Dstyle.color=never -f $SOURCES/javashop/pom.xml dependency:copy-dependencies -DoutputDirectory="$OUT/java/jars" </dev/null
	javac -d "$OUT/java/classes" -cp "$OUT/java/jars/*" $SOURCES/javashop/*.java $CLIENTS/JavaClient.java
	done_with java
fi

if changed axumshop $SOURCES/axumshop/Cargo.toml $SOURCES/axumshop/src/main.rs; then
	mkdir -p "$OUT/rust"
	cp -r $SOURCES/axumshop/. "$OUT/rust/"
	cargo build -q --release --manifest-path "$OUT/rust/Cargo.toml"
	cp "$OUT/rust/target/release/axumshop" "$OUT/axumshop"
	done_with axumshop
fi
