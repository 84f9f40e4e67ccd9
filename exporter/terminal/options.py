"""The command line of `top`."""

from __future__ import annotations

import argparse
import math
import os
from dataclasses import dataclass
from typing import Any

from exporter.readings.grouping import SORT_KEYS, Filters
from exporter.terminal import address
from exporter.terminal.address import Address

SOURCES = ("auto", "own", "exporter")

_EPILOG = """\
examples:
  top                          the live view; q or Ctrl-C ends it, and the table of the whole run follows
  top 5                        5 seconds, then the table
  top 5 | head                 no live view where stdout is no terminal
  top -i 1 --plain             a table every second until Ctrl-C
  top 10 -p 4242 --no-idle     one VM's process, without the time that its guest slept
  top --vm web-1 --vcpu 0 --reason EC_DABT_LOW,EC_IABT_LOW
  top 60 --sort p99 --limit 10
  top 5 --json | jq '.vcpus[] | {vm, vcpu, exits: ([.reasons[] | select(.kind == "exit").exits] | add)}'

The table has the columns TGID TID COMM KVM_EXIT_REASON COUNT AVG_TIME. COUNT has every exit, AVG_TIME is the mean of
the intervals from an exit to the next entry that are complete, in ns. Rows stand in the order of the time lost, idle
reasons last. P50, P99 and MAX are the upper bounds of the buckets they lie in; a bucket is 19 % wide.

Exits that are in no row (no room for them in the kernel's tables), vCPUs that stay in an exit that began before, and
filters that match nothing are said on stderr; the status is 0 all the same. It is 1 where nothing can be counted or
the exporter went away, 2 for usage.
"""


@dataclass(frozen=True)
class Output:
    """What of the numbers is printed, and how."""

    form: str
    filters: Filters
    sort: str
    limit: int | None
    userspace: bool


@dataclass(frozen=True)
class TopOptions(Output):
    """What `top` is to do."""

    duration: float | None
    interval: float | None
    plain: bool
    source: str
    address: Address | None
    """Of the exporter; None: as the configuration has it."""


def add(commands: Any) -> argparse.ArgumentParser:
    """Add the subcommand to argparse's subparsers."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "top",
        help="show this host's KVM exits on the terminal",
        description="Count KVM exits for a while and show them: live on a terminal, then as a table.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "duration", nargs="?", type=seconds(0.001), help="so many seconds, fractions allowed; without: until Ctrl-C"
    )
    parser.add_argument(
        "-i",
        "--interval",
        type=seconds(0.1),
        metavar="SECONDS",
        help="refresh the live view so often (2); without a live view: print a table so often",
    )
    parser.add_argument("--plain", "-b", action="store_true", help="no live view, on a terminal either")
    add_output(parser)
    parser.add_argument(
        "--source",
        choices=SOURCES,
        default="auto",
        help="own: attach programs (needs root); exporter: read one that runs; auto: the exporter if it answers",
    )
    parser.add_argument(
        "--url", type=_address, metavar="URL", help="of the exporter (http://localhost:9939, or as in FILE)"
    )
    return parser


def add_output(parser: argparse.ArgumentParser) -> None:
    """Add what `top` and `replay` have in common."""
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="one JSON document with all numbers; with -i one per line")
    form.add_argument("--csv", action="store_true", help="comma-separated values with a header")
    chosen = parser.add_argument_group("which exits (each can be given more than once)")
    chosen.add_argument("-p", "--pid", action="append", type=_numbers, metavar="PID[,PID]", help="of these processes")
    chosen.add_argument("-t", "--tid", action="append", type=_numbers, metavar="TID[,TID]", help="of these threads")
    chosen.add_argument("--vm", action="append", type=name, metavar="NAME", help="of the VM with exactly this name")
    chosen.add_argument("--vcpu", action="append", type=_numbers, metavar="N[,N]", help="of vCPUs with this index")
    chosen.add_argument("--reason", action="append", type=_words, metavar="R[,R]", help="for these reasons")
    chosen.add_argument("--no-idle", action="store_true", help="leave out WFx, HLT and the like")
    chosen.add_argument("--userspace", action="store_true", help="count returns to the VMM (KVM_EXIT_*) instead")
    parser.add_argument("--sort", choices=SORT_KEYS, default="time", help="order of the rows (time)")
    parser.add_argument("--limit", type=_limit, metavar="N", help="show the first N rows")


def options(parsed: argparse.Namespace) -> TopOptions:
    """The parsed command line."""
    return TopOptions(
        **vars(output(parsed)),
        duration=parsed.duration,
        interval=parsed.interval,
        plain=parsed.plain,
        source=parsed.source,
        address=parsed.url,
    )


def output(parsed: argparse.Namespace) -> Output:
    """What add_output() added, parsed."""
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


def seconds(least: float) -> Any:
    """For argparse: a time of at least so many seconds."""

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not least <= value <= 1e9:
            raise argparse.ArgumentTypeError(f"{text!a}: allowed is a number of seconds from {least:g}")
        return value

    return parse


def _address(text: str) -> Address:
    try:
        return address.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!a}: {error}") from error


def _numbers(text: str) -> list[int]:
    parts = text.split(",")
    if not all(part.isascii() and part.isdigit() and len(part) < 11 for part in parts):
        raise argparse.ArgumentTypeError(f"{text!a}: allowed are numbers, with commas between them")
    return [int(part) for part in parts]


def _words(text: str) -> list[str]:
    parts = text.split(",")
    if not all(parts):
        raise argparse.ArgumentTypeError(f"{text!a}: allowed are reasons, with commas between them")
    return parts


def name(text: str) -> str:
    """A VM's name on a command line."""
    # As a name is read from a VM's command line: bytes that are no UTF-8 are replaced.
    return os.fsencode(text).decode(errors="replace")


def _limit(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 0 < int(text[:10]) < 10**9):
        raise argparse.ArgumentTypeError(f"{text!a}: allowed is a number from 1")
    return int(text[:10])
