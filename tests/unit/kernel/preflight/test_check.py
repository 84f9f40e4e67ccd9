"""The table of the checks is printed, and the exit status tells the result."""

from __future__ import annotations

from pathlib import Path

from exporter.kernel.preflight import Check, status, table
from tests.unit.kernel.preflight.host import RELEASE, Host


def test_the_table_has_a_row_for_each_check() -> None:
    checks = [
        Check("kernel", True, RELEASE),
        Check("BTF", True, "not used", needed=False),
        Check("tracefs", False, "not mounted", "mount -t tracefs nodev /sys/kernel/tracing"),
        Check("BPF JIT", True, "off", "sysctl"),
        Check("trial load", False, "error: a\n  b\x1b[31m " + "word " * 12, "first do this and " * 4),
        Check("silent", False, ""),
    ]
    assert table(checks) == (
        "CHECK       STATE       DETAIL -> REMEDY\n"
        "kernel      ok          6.1.0-56-cloud-arm64\n"
        "BTF         not needed  not used\n"
        "tracefs     missing     not mounted\n"
        "                        -> mount -t tracefs nodev /sys/kernel/tracing\n"
        "BPF JIT     ok          off\n"
        "                        -> sysctl\n"
        "trial load  missing     error: a   b [31m word word word word word word word\n"
        "                        word word word word word\n"
        "                        -> first do this and first do this and first do this and\n"
        "                           first do this and\n"
        "silent      missing\n"
    )
    assert status(checks) == 1


def test_the_table_of_a_bad_host_fits_80_columns(host: Host) -> None:
    (host.tracefs / "events/kvm").rename(host.tracefs / "events/xen")
    host.caps(0)
    host.pid_namespace("pid:[4026532299]")
    lines = table(host.run(tracefs=Path("/sys/kernel/tracing"))).splitlines()
    assert max(map(len, lines)) <= 80


def test_a_word_that_is_longer_than_the_line_is_not_broken() -> None:
    path = "/" + "x" * 100
    assert (
        table([Check("tracefs", True, path)]) == f"CHECK    STATE       DETAIL -> REMEDY\ntracefs  ok          {path}\n"
    )
