#!/bin/sh
# Start the exporter, wait until it counts, print where it is and a sample of the page; then stay until Ctrl-C.
# Usage: try.sh PYTHON SUBCOMMAND [OPTION...]. With DEMO_SECONDS set it ends by itself after so long.
set -eu

python=$1
shift
"$python" -m exporter "$@" &
exporter=$!
trap 'kill $exporter 2>/dev/null; wait $exporter' INT TERM EXIT

# Where the page is, from the configuration in force; an address that stands for all of them is reached as localhost.
in_force() { "$python" -m exporter "$@" --config.check; }
address=$(in_force "$@" | sed -n 's/^  listen_address: \["\([^"]*\)".*/\1/p' | sed 's/^:/localhost:/; s/^0\.0\.0\.0:/localhost:/; s/^\[::\]:/localhost:/')
path=$(in_force "$@" | sed -n 's/^  telemetry_path: "\(.*\)"$/\1/p')
url="http://$address$path"

page() { curl -fsS --max-time 10 "$url" 2>/dev/null; }

waited=0
until page | grep -q '^kvm_exits_total'; do
	kill -0 $exporter 2>/dev/null || { trap - EXIT; wait $exporter; exit $?; }
	sleep 1
	waited=$((waited + 1))
	[ $waited -ne 10 ] || echo "no KVM exit seen yet: is a VM running on this host?" >&2
done
sleep 3

page | grep -E '^kvm_(exits_total|vm_info)|^kvm_exit_duration_seconds_(count|sum)' | head -n 40
echo
echo "metrics: $url    (Ctrl-C to stop)"
if [ -n "${DEMO_SECONDS:-}" ]; then sleep "$DEMO_SECONDS"; else wait $exporter; fi
