#!/bin/sh
# Write the PrometheusRule of components/prometheus-rule from the rules in deploy/prometheus, to stdout: kustomize reads
# no file from outside of its own folder.
# Usage: prometheus-rule.sh RULES-FILE...
set -eu

cat <<'HEAD'
# Made of deploy/prometheus/*.rules.yml by `make prometheus-rule`: change it there. recording-native is in it, since the
# monitors here ask for native histograms.
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: kvm-exit-exporter
  namespace: kvm-exit-exporter
  labels:
    app.kubernetes.io/name: kvm-exit-exporter
spec:
  groups:
HEAD
for file; do
	# The groups as they stand, two columns further in; a file that holds anything else is not understood.
	[ "$(grep -c '^[a-z]' "$file")" = 1 ] && grep -q '^groups:$' "$file" || {
		echo "$file: expected is groups: at the first column, and nothing else" >&2
		exit 1
	}
	sed '1,/^groups:$/d; s/^./  &/' "$file"
done
