#!/bin/sh
# Fetch Debian's stock kernels for the VM tests into build/kernels/<series>/ (boot/vmlinuz-*, lib/modules/*).
set -eu
cd "$(dirname "$0")/.."
. scripts/debian_suite.sh

SUITES=${STINGLESS_KERNEL_SUITES:-"bookworm trixie"}
CACHE=${STINGLESS_KERNELS:-$PWD/build/kernels}
# What a guest needs beyond what is built in: its root over 9p, overlays, virtio, loopback tests, ss.
MODULES="fs/9p fs/netfs fs/fscache fs/fuse fs/overlayfs net/9p net/unix net/ipv4 net/tls drivers/virtio
  drivers/char/virtio_console.ko drivers/block/virtio_blk.ko drivers/net/veth.ko drivers/net/virtio_net.ko
  drivers/net/net_failover.ko net/core lib"

fail() { echo "kernels: $*" >&2; exit 1; }

fetch() { # suite
	suite=$1
	root=$CACHE/.apt/$suite
	mkdir -p "$root/deb"
	debian_suite "$suite" "$root"
	package=$(apt-cache depends "linux-image-$ARCH" 2>/dev/null | sed -n 's/^ *Depends: *\(linux-image-[0-9][^ ]*\)$/\1/p' | head -1)
	[ -n "$package" ] || fail "$suite of the configured mirror has no kernel for $ARCH"
	version=${package#linux-image-}
	series=$(echo "$version" | cut -d. -f1,2)
	target=$CACHE/$series
	if [ "$(cat "$target/version" 2>/dev/null)" != "$version" ]; then
		(cd "$root/deb" && rm -f ./*.deb && apt-get -qq download "$package") || fail "cannot download $package"
		rm -rf "$root/x" "$target.new"
		dpkg -x "$root"/deb/*.deb "$root/x"
		unpack
	fi
	unset APT_CONFIG
	rm -rf "$root"
	echo "$series" >"$CACHE/.$suite"
	echo "kernels: $suite: $version"
}

unpack() { # keeps vmlinuz and the modules named above
	mods=lib/modules/$version
	from=$root/x/usr/$mods
	[ -d "$from" ] || from=$root/x/$mods
	mkdir -p "$target.new/boot" "$target.new/$mods/kernel"
	cp "$root/x/boot/vmlinuz-$version" "$target.new/boot/"
	for module in $MODULES; do
		for path in "$from/kernel/$module" "$from/kernel/$module".xz; do
			[ -e "$path" ] || continue
			mkdir -p "$target.new/$mods/kernel/$(dirname "$module")"
			cp -r "$path" "$target.new/$mods/kernel/$(dirname "$module")/"
		done
	done
	cp "$from"/modules.builtin* "$from"/modules.order "$target.new/$mods/"
	/sbin/depmod -b "$target.new" "$version"
	echo "$version" >"$target.new/version"
	rm -rf "$target"
	mv "$target.new" "$target"
}

mkdir -p "$CACHE"
missing=
for suite in $SUITES; do
	series=$(cat "$CACHE/.$suite" 2>/dev/null || true)
	[ -n "$series" ] && [ -f "$CACHE/$series/version" ] || missing="$missing $suite"
done
[ -z "$missing" ] && exit 0

command -v depmod >/dev/null || [ -x /sbin/depmod ] || fail "needs depmod: apt install kmod"
for suite in $missing; do fetch "$suite"; done
rmdir "$CACHE/.apt" 2>/dev/null || true
