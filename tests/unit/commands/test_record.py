"""The command `record` refuses wrong arguments, and an output that it cannot write."""

from __future__ import annotations

import subprocess
import sys

import pytest

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
