# Packages of a Debian suite that is not the machine's own, for scripts that read this file and have `fail`.
# Nothing is installed: a private apt root, so the machine's own packages and lists stay as they are.
# The mirror is the machine's own; DEBIAN_MIRROR=URL names one where the machine has none (Ubuntu).

KEYRING=/usr/share/keyrings/debian-archive-keyring.gpg
ARCH=$(dpkg --print-architecture)

mirror() {
	[ -n "${DEBIAN_MIRROR:-}" ] && { echo "$DEBIAN_MIRROR"; return; }
	apt-get indextargets --format '$(REPO_URI) $(RELEASE)' 'Identifier: Packages' |
		awk '$1 ~ /\/debian\/?$/ && $2 !~ /security/ { print $1; exit }'
}

debian_suite() { # suite, directory to work in: apt-get and apt-cache see that suite, until APT_CONFIG is unset
	command -v apt-get >/dev/null || fail "needs apt-get (Debian or Ubuntu)"
	[ -r "$KEYRING" ] || fail "needs $KEYRING: apt install debian-archive-keyring"
	MIRROR=${MIRROR:-$(mirror)}
	[ -n "$MIRROR" ] || fail "this machine has no Debian mirror configured; set DEBIAN_MIRROR=URL"
	mkdir -p "$2/state/lists/partial" "$2/cache/archives/partial"
	: >"$2/status"
	echo "deb [arch=$ARCH signed-by=$KEYRING] $MIRROR $1 main" >"$2/sources.list"
	cat >"$2/apt.conf" <<-CONF
		Dir::State "$2/state";
		Dir::State::status "$2/status";
		Dir::Cache "$2/cache";
		Dir::Etc::sourcelist "$2/sources.list";
		Dir::Etc::sourceparts "/dev/null";
		Dir::Etc::preferences "/dev/null";
		Dir::Etc::preferencesparts "/dev/null";
		Acquire::Languages "none";
		APT::Sandbox::User "root";
	CONF
	export APT_CONFIG="$2/apt.conf"
	apt-get -qq update || fail "no package lists for $1 from the configured mirror; DEBIAN_MIRROR=URL names another"
}
