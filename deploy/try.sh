#!/bin/sh
# Start the exporter, wait until it counts, print where it is and a sample of the page; then stay until Ctrl-C.
# Usage: try.sh PYTHON SUBCOMMAND [OPTION...]. With DEMO_SECONDS set it ends by itself after so long.
set -eu

python=$1
shift

# Where the page is, from the configuration in force; an address that stands for all of them is reached as localhost.
in_force=$("$python" -m exporter "$@" --config.check)
address=$(echo "$in_force" | sed -n 's/^  listen_address: \["\([^"]*\)".*/\1/p' |
	sed 's/^:/localhost:/; s/^0\.0\.0\.0:/localhost:/; s/^\[::\]:/localhost:/')
url="http://$address$(echo "$in_force" | sed -n 's/^  telemetry_path: "\(.*\)"$/\1/p')"

"$python" -m exporter "$@" &
exporter=$!
stop() {
	kill $exporter 2>/dev/null || :
	wait $exporter
}
trap stop EXIT
trap 'trap - EXIT; stop; exit $?' INT TERM

# Another program may have the port: its page is not ours.
alive() { kill -0 $exporter 2>/dev/null || { trap - EXIT; wait $exporter; exit $?; }; }
page() { curl -fsS --max-time 10 "$url" 2>/dev/null; }

waited=0
until page | grep -q '^kvm_exits_total'; do
	alive
	sleep 1
	waited=$((waited + 1))
	[ $waited -ne 10 ] || echo "no KVM exit seen yet: is a VM running on this host?" >&2
done
sleep 3
alive

shown=$(page) # one page: numbers of several would not go together
for sample in kvm_vm_info kvm_exits_total kvm_exit_duration_seconds_count kvm_userspace_exits_total; do
	printf '%s\n' "$shown" | grep "^$sample{" | head -n 12
done
echo
case $1 in demo) echo "This is a recording, not this host." ;; esac
echo "page:    http://$address/"
echo "metrics: $url    (Ctrl-C to stop)"
if [ -n "${DEMO_SECONDS:-}" ]; then sleep "$DEMO_SECONDS"; else wait $exporter; fi
