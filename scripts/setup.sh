#!/bin/sh
# make setup: system packages (Debian 12/13, Ubuntu 22.04+), .venv, probes. Quick when nothing changed.
# Root or sudo is used for the packages only, and only for those that are missing.
set -eu
cd "$(dirname "$0")/.."

say() { echo "setup: $*"; }
fail() { echo "setup: $*" >&2; exit 1; }
stamp() { cat "$@" | cksum; }

# Python: the system's, at least 3.11; `python3` may be someone's own build, which is fine.
find_python() {
	for candidate in python3 /usr/bin/python3 python3.13 python3.12 python3.11; do
		"$candidate" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null &&
			{ command -v "$candidate"; return; }
	done
	return 1
}

have() { # a command, in the usual places too
	command -v "$1" >/dev/null 2>&1 || [ -x "/usr/sbin/$1" ] || [ -x "/sbin/$1" ]
}

wanted() { # names of packages whose command or file is missing
	while read -r probe package; do
		case $probe in
		/*) [ -e "$probe" ] || echo "$package" ;;
		*.so*) /sbin/ldconfig -p | grep -q "$probe" || echo "$package" ;;
		*) have "$probe" || echo "$package" ;;
		esac
	done <<-LIST
		clang clang
		llvm-strip llvm
		make make
		bpftool $BPFTOOL_PACKAGE
		/usr/include/bpf/bpf_helpers.h libbpf-dev
		/usr/include/linux/bpf.h linux-libc-dev
		libbpf.so.1 libbpf1
		libelf.so.1 libelf1
		libatomic.so.1 libatomic1
		/usr/share/keyrings/debian-archive-keyring.gpg debian-archive-keyring
		nginx nginx-light
		wrk wrk
		ab apache2-utils
		curl curl
		h2load nghttp2-client
		nghttpd nghttp2-server
		apache2 apache2
		gnutls-serv gnutls-bin
		wget wget
		openssl openssl
		/usr/share/doc/python3-pycurl python3-pycurl
		node nodejs
		npm npm
		go golang-go
		javac default-jdk-headless
		mvn maven
		cargo $CARGO_PACKAGE
		$QEMU qemu-system-$QEMU_PACKAGE
		depmod kmod
		busybox busybox-static
		udevadm udev
		file file
		ip iproute2
		ps procps
	LIST
}

install() {
	say "installing: $*"
	scripts/packages.sh "$@" || fail "apt-get could not install: $*"
}

packages() {
	have apt-get || fail "needs Debian or Ubuntu (apt-get)"
	. /etc/os-release
	BPFTOOL_PACKAGE=bpftool
	CARGO_PACKAGE=cargo
	[ "$ID-${VERSION_ID:-}" != debian-12 ] || CARGO_PACKAGE=cargo-web # its own cargo is of 2022
	case " $ID ${ID_LIKE:-} " in *" ubuntu "*) BPFTOOL_PACKAGE=linux-tools-generic ;; esac
	case $(uname -m) in
	x86_64) QEMU=qemu-system-x86_64 QEMU_PACKAGE=x86 ;;
	aarch64) QEMU=qemu-system-aarch64 QEMU_PACKAGE=arm ;;
	*) fail "$(uname -m) is not supported: x86_64 or aarch64" ;;
	esac
	# Go and Rust come as tarballs to many machines; their usual places count.
	PATH=$PATH:/usr/local/go/bin:$HOME/.cargo/bin
	missing=$(wanted | sort -u | tr '\n' ' ')
	find_python >/dev/null || missing="$missing python3 python3-venv"
	# shellcheck disable=SC2086
	[ -z "$missing" ] || install $missing
	[ -z "$missing" ] || [ -z "$(wanted)" ] || fail "still missing after the installation: $(wanted | tr '\n' ' ')"
}

environment() {
	python=$(find_python) || fail "needs Python 3.11 or newer with venv: apt install python3 python3-venv"
	sum=$(stamp pyproject.toml)
	[ -x .venv/bin/stingless ] && [ "$(cat .venv/.stingless 2>/dev/null)" = "$sum" ] && return
	if ! .venv/bin/python -c 'import pip' 2>/dev/null; then
		say "making .venv from $python"
		"$python" -m venv .venv
	fi
	say "installing Python packages"
	.venv/bin/python -m pip install -q --disable-pip-version-check -e '.[dev]' </dev/null
	echo "$sum" >.venv/.stingless
}

packages
environment
quiet=--silent
[ "${V:-}" != 1 ] || quiet=
make --no-print-directory $quiet bpf
