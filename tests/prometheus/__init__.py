"""Debian's Prometheus servers against the replay: what they store and compute is what the exporter counted.

    python3 -m pytest tests/prometheus            needs root, as the kernel suite does

    test_standstill.py  raw counts, buckets and quantiles after that pass: equal to the recording, in every form
    test_moving.py      rate(), and quantiles of rates, between two moments at which the demo is paused

In tests/support/prometheus, for other suites too:

    builds.py           the servers of Debian 12 (2.42), Debian 13 (2.53) and unstable (3.x): the installed one, or its
                        package unpacked into ${XDG_CACHE_HOME:-~/.cache}/kvm-exit-exporter/prometheus (remove that
                        folder to have newer ones)
    server.py           one running server, and its query API
    exporters.py        one pass of the recording whose page then stands still, and its truth; a demo that can pause
    pause.py            the demo's page while it is paused

A server that cannot be had skips its tests; with KERNEL_SUITE=required it fails them.
"""
