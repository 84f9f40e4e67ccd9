"""The command `record` refuses wrong arguments, and an output that it cannot write."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from exporter.commands.record import summary
from tests.support.command import refused


@pytest.mark.parametrize(
    ("arguments", "wrong"),
    [
        ((), "the following arguments are required: FILE"),
        (("x", "0"), "argument duration: '0': allowed is a number of seconds from 0.001"),
        (("x", "--events=0"), "argument --events: '0': allowed is a whole number from 1 to 1000000000000"),
        (("x", "-p", "one"), "argument -p/--pid: 'one': allowed is a whole number from 1 to 4194304"),
        (("x", "-p", "1", "--pid=2"), "argument -p/--pid: can be given only once"),
        (("x", "--vm=a", "--vm=a"), "argument --vm: can be given only once"),
        (("x", "--vm="), "argument --vm: '': allowed is a VM's name"),
        (("x", "--ring-size=100K"), "argument --ring-size: '100K': allowed is a power of two from 64K to 1G"),
        (("x", "--ring-size=2G"), "argument --ring-size: '2G': allowed is a power of two from 64K to 1G"),
    ],
)
def test_wrong_arguments_are_refused_and_the_allowed_values_are_named(arguments: tuple[str, ...], wrong: str) -> None:
    assert refused("record", *arguments).splitlines()[-1] == f"kvm-exit-exporter record: error: {wrong}"


def test_record_exits_with_status_1_if_standard_output_is_closed() -> None:
    said = subprocess.run(
        ["sh", "-c", f"{sys.executable} -m exporter record - 0.1 >&-"], capture_output=True, text=True, check=False
    )
    assert (said.returncode, said.stderr) == (1, "cannot record: standard output is closed\n")


@pytest.mark.parametrize(
    ("exits", "returns", "skipped", "lost"),
    [
        (0, 0, 0, "0 lost"),
        (5, 0, 0, "5 lost (exit 5): try a larger --ring-size"),
        (0, 7, 7, "7 lost (userspace_exit 7): the kernel skipped 7"),
        (5, 7, 7, "12 lost (exit 5, userspace_exit 7): the kernel skipped 7; try a larger --ring-size"),
    ],
)
def test_the_summary_says_why_events_were_lost(exits: int, returns: int, skipped: int, lost: str) -> None:
    events = {"exit": 101, "userspace_exit": 11}
    missing = {"exit": exits, "userspace_exit": returns}
    said = summary(Path("a.kvmrec"), events, missing, skipped=skipped, vms=1, seconds=2.0, size=13)
    assert said == f"a.kvmrec: 112 events (exit 101, userspace_exit 11), {lost}, 1 VM, 2.0 s, 13 bytes"
