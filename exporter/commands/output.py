"""The flags that `top` and `replay` share: the form of the output, the filters, the order of the rows."""

from __future__ import annotations

import argparse
from typing import Any

from exporter.commands.arguments import numbers, reasons, vm_name
from exporter.readings.grouping import SORT_KEYS, Filters
from exporter.terminal.output import Output

_FILTERS = (
    (("-p", "--pid"), numbers, "PID[,PID]", "only exits of these processes"),
    (("-t", "--tid"), numbers, "TID[,TID]", "only exits of these threads"),
    (("--vm",), vm_name, "NAME", "only exits of the VM with exactly this name"),
    (("--vcpu",), numbers, "N[,N]", "only exits of vCPUs with this index"),
    (("--reason",), reasons, "R[,R]", "only exits for these reasons"),
)


def add_output(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="JSON: one document with all numbers, on one line")
    form.add_argument("--csv", action="store_true", help="comma-separated values with a header")
    filters = parser.add_argument_group("filters (each can be given more than once)")
    for flags, parse, metavar, text in _FILTERS:
        filters.add_argument(*flags, action="append", type=parse, metavar=metavar, help=text)
    filters.add_argument("--no-idle", action="store_true", help="leave out idle reasons: WFx, HLT and the like")
    filters.add_argument(
        "--userspace", action="store_true", help="count returns to the VMM (KVM_EXIT_*) instead of exits"
    )
    parser.add_argument("--sort", choices=SORT_KEYS, default="time", help="order of the rows (time)")
    parser.add_argument("--limit", type=_limit, metavar="N", help="show the first N rows")


def output(parsed: argparse.Namespace) -> Output:
    """The values of the flags."""
    return Output(
        form="json" if parsed.json else "csv" if parsed.csv else "table",
        filters=Filters(
            pids=_all(parsed.pid),
            tids=_all(parsed.tid),
            vms=frozenset(parsed.vm or ()),
            vcpus=frozenset(map(str, _all(parsed.vcpu))),
            reasons=_all(parsed.reason),
            no_idle=parsed.no_idle,
        ),
        sort=parsed.sort,
        limit=parsed.limit,
        userspace=parsed.userspace,
    )


def _all(given: list[list[Any]] | None) -> frozenset[Any]:
    return frozenset(each for values in given or () for each in values)


def _limit(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 0 < int(text[:10]) < 10**9):
        raise argparse.ArgumentTypeError(f"{text!a}: allowed is a number from 1")
    return int(text[:10])
