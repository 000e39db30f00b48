#!/bin/sh
# Installs Debian packages, as root or by sudo. Nothing that is installed may start a service. Arguments: their names.
set -eu

as_root() {
	if [ "$(id -u)" = 0 ]; then "$@"; elif command -v sudo >/dev/null 2>&1; then sudo "$@"; else
		echo "packages: needs root for: $*" >&2
		exit 1
	fi
}

as_root sh -eu -c '
	policy=/usr/sbin/policy-rc.d
	if [ ! -e "$policy" ]; then
		printf "#!/bin/sh\nexit 101\n" >"$policy"
		chmod +x "$policy"
		trap "rm -f $policy" EXIT
	fi
	export DEBIAN_FRONTEND=noninteractive
	apt-get -qq update
	apt-get -qq install -y --no-install-recommends "$@" </dev/null
' packages "$@"
