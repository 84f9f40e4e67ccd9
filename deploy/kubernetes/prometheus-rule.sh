#!/bin/sh
# Print a PrometheusRule, made from the rules in deploy/prometheus. The copy is needed because kustomize reads no file
# outside its own folder.
# Usage: prometheus-rule.sh RULES-FILE...
set -eu

cat <<'HEAD'
# `make prometheus-rule` makes this file from deploy/prometheus/*.rules.yml: change the rules there.
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
	# Copy the groups, indented by two more columns. Refuse a file that holds anything besides groups.
	[ "$(grep -c '^[a-z]' "$file")" = 1 ] && grep -q '^groups:$' "$file" || {
		echo "$file: expected groups: as the only top-level key" >&2
		exit 1
	}
	sed '1,/^groups:$/d; s/^./  &/' "$file"
done
