#!/bin/sh
# Install those of the given Debian packages that are missing. Do not start their services, because
# somebody else may use this machine.
# Without root, say which packages are missing. Usage: apt-install.sh PACKAGE...
set -eu

missing() {
	for package; do
		dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null | grep -q '^installed' || printf ' %s' "$package"
	done
}

wanted=$(missing "$@")
[ -n "$wanted" ] || exit 0
if [ "$(id -u)" != 0 ]; then
	echo "not root: please install$wanted"
	exit 1
fi

# Only one run at a time: two runs would change the policy and the package lists at once. apt's children get no lock.
exec 9</var/lib/dpkg
flock 9
wanted=$(missing "$@")
[ -n "$wanted" ] || exit 0

# Status 101 forbids every start (invoke-rc.d(8), deb-systemd-invoke(1)). If the machine has its own policy, that policy
# stays in force. A policy file with the mark is left from a run that was killed.
policy=${POLICY:-/usr/sbin/policy-rc.d}
mark='# Only while deploy/apt-install.sh of kvm-exit-exporter runs.'
if [ ! -e "$policy" ] && [ ! -L "$policy" ] || grep -qsxF "$mark" "$policy"; then
	trap 'rm -f "$policy"' EXIT
	trap 'exit 129' HUP
	trap 'exit 130' INT
	trap 'exit 143' TERM
	printf '#!/bin/sh\n%s\nexit 101\n' "$mark" >"$policy"
	chmod 755 "$policy"
fi

echo "installing$wanted"
export DEBIAN_FRONTEND=noninteractive
apt-get update -q >/dev/null 9<&-
# shellcheck disable=SC2086 # one word a package
apt-get install -y -q --no-install-recommends -o DPkg::Lock::Timeout=600 $wanted >/dev/null 9<&-
