#!/bin/sh
# Start the exporter, wait for the first exit, print a sample of the page and its URL, then run until Ctrl-C.
# Usage: try.sh PYTHON SUBCOMMAND [OPTION...]. If DEMO_SECONDS is set, the script ends after that number of seconds.
set -eu

python=$1
shift

# The page's URL, from the configuration in force. localhost replaces a wildcard address.
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

# If another program has the port, the exporter ends. Then the script must not show that program's page.
alive() { kill -0 $exporter 2>/dev/null || { trap - EXIT; wait $exporter; exit $?; }; }
page() { curl -fsS --max-time 10 "$url" 2>/dev/null; }

waited=0
until page | grep -q '^kvm_exits_total'; do
	alive
	sleep 1
	waited=$((waited + 1))
	[ $waited -ne 10 ] || echo "no KVM exit yet: is a VM running on this host?" >&2
done
sleep 3
alive

shown=$(page) # fetch the page only once: numbers from different pages would not agree
for sample in kvm_vm_info kvm_exits_total kvm_exit_duration_seconds_count kvm_userspace_exits_total; do
	printf '%s\n' "$shown" | grep "^$sample{" | head -n 12
done
echo
case $1 in demo) echo "This is a recording, not this host." ;; esac
echo "page:    http://$address/"
echo "metrics: $url    (Ctrl-C to stop)"
if [ -n "${DEMO_SECONDS:-}" ]; then sleep "$DEMO_SECONDS"; else wait $exporter; fi
