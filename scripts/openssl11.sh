#!/bin/sh
# A program on OpenSSL 1.1 for the kernel tests: Debian 11's Python, into build/openssl-1.1. Quick when it is there.
set -eu
cd "$(dirname "$0")/.."
fail() { echo "openssl11: $*" >&2; exit 1; }
. scripts/debian_suite.sh

TARGET=$PWD/build/openssl-1.1
PACKAGES="libssl1.1 libffi7 python3.9-minimal libpython3.9-minimal libpython3.9-stdlib"
[ -x "$TARGET/bin/python3.9" ] && exit 0

echo "openssl11: fetching Debian 11's Python"
work=$TARGET.new
rm -rf "$work"
mkdir -p "$work/deb"
debian_suite bullseye "$work/apt"
# shellcheck disable=SC2086
(cd "$work/deb" && apt-get -qq download $PACKAGES) || fail "cannot download $PACKAGES"
for package in "$work"/deb/*.deb; do dpkg -x "$package" "$work/x"; done
mkdir -p "$TARGET"
rm -rf "$TARGET/bin" "$TARGET/lib"
mv "$work/x/usr/lib" "$TARGET/lib"
mv "$work/x/usr/bin" "$TARGET/bin"
rm -rf "$work"
