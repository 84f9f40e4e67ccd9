"""Debian's Prometheus servers scrape the replay. Their values must equal the exporter's counts.

    python3 -m pytest tests/prometheus            needs root, like the kernel suite

    test_standstill.py  after one pass, counts, buckets and quantiles equal the recording, in every form
    test_moving.py      rate(), and quantiles of rates, between two pauses of the demo

In tests/support/prometheus, for other suites too:

    builds.py           the servers of Debian 12 (2.42), Debian 13 (2.53) and unstable (3.x): the installed one, or its
                        package unpacked into ${XDG_CACHE_HOME:-~/.cache}/kvm-exit-exporter/prometheus (remove that
                        folder to get newer servers)
    server.py           one running server, and its query API
    exporters.py        an exporter that replays the recording once, with the expected counts; a demo that can pause
    pause.py            the demo's page while it is paused

If a server is not available, its tests are skipped; with KERNEL_SUITE=required they fail.
"""
