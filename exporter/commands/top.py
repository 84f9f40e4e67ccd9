"""The command `top`: count KVM exits for a while, show them live, and print them as a table."""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from exporter.commands import configuration, console
from exporter.commands.arguments import add_command, seconds
from exporter.commands.output import add_output, output
from exporter.config.options import Config
from exporter.terminal import address
from exporter.terminal.address import Address
from exporter.terminal.output import Output

if TYPE_CHECKING:
    from exporter.common.signals import Stop
    from exporter.terminal.session import Session

_NAME = "top"
_SOURCES = ("auto", "own", "exporter")
_FILES = {
    "--ca-file": "for https: certificates of the authorities to trust (default: the system's)",
    "--certificate-file": "for https: certificate and private key of this client",
    "--login-file": "a file with one line, USER:PASSWORD, for an exporter that requires a password",
}
_REFRESH_SECONDS = 2.0

_EPILOG = """\
examples:
  top                          the live view; q or Ctrl-C ends it, then the table of the whole run is printed
  top 5                        count for 5 seconds, then print the table
  top 5 | head                 no live view, because stdout is not a terminal
  top -i 1 --plain             print a table every second until Ctrl-C
  top 10 -p 4242 --no-idle     one VM's process, without the time that its guest was idle
  top --vm web-1 --vcpu 0 --reason EC_DABT_LOW,EC_IABT_LOW
  top 60 --sort p99 --limit 10
  top 5 --json | jq '.vcpus[] | {vm, vcpu, exits: ([.reasons[] | select(.kind == "exit").exits] | add)}'

The table has the columns TGID TID COMM KVM_EXIT_REASON COUNT AVG_TIME. COUNT is the number of exits. AVG_TIME is the
mean time from an exit to the next entry in ns, over all completed intervals. The reason that lost the most time comes
first, idle reasons come last. P50, P99 and MAX are the upper bounds of their buckets; a bucket is 19 % wide.

The live view, --json and --csv also say where the time went, if the host's kernel tells it: waiting for a CPU, asleep,
and (--userspace) in the VMM. For the waiting of one vCPU, see the word wait in the second line of top --vm VM --vcpu N.

A line on stderr reports exits that are in no row because the kernel's tables had no room for them, vCPUs that stay in
an exit that began earlier, or filters that match nothing. The status is still 0. It is 1 if nothing can be counted or
the exporter no longer answers, and 2 for a usage error.
"""


@dataclass(frozen=True)
class TopOptions(Output):
    """The parsed command line."""

    duration: float | None
    """How many seconds to count; None: until a signal."""
    interval: float | None
    """Seconds; None: the default of the live view or, without it, a single table at the end."""
    plain: bool
    source: str
    address: Address | None
    """Address of the exporter; None: the address in the configuration."""
    ca_file: Path | None
    certificate_file: Path | None
    login_file: Path | None


def add(commands: Any) -> None:
    """Add the command to argparse's subparsers."""
    parser = add_command(
        commands,
        _NAME,
        lambda config, parsed: run(config, options(parsed)),
        help="show this host's KVM exits on the terminal",
        description="Count KVM exits for a while and show them: live on a terminal, then as a table.",
        epilog=_EPILOG,
    )
    parser.add_argument(
        "duration",
        nargs="?",
        type=seconds(0.001),
        help="how many seconds to count, fractions allowed (default: until Ctrl-C)",
    )
    parser.add_argument(
        "-i",
        "--interval",
        type=seconds(0.1),
        metavar="SECONDS",
        help="time between two refreshes of the live view (2); without a live view: time between two tables",
    )
    parser.add_argument("--plain", "-b", action="store_true", help="no live view, even on a terminal")
    add_output(parser)
    parser.add_argument(
        "--source",
        choices=_SOURCES,
        default="auto",
        help="own: attach BPF programs (needs root); exporter: read one that runs; auto: the exporter if it answers",
    )
    parser.add_argument(
        "--url",
        type=_address,
        metavar="URL",
        help="URL of the exporter: http://, https:// or unix:/PATH (its own socket, or the port in the configuration)",
    )
    for flag, text in _FILES.items():
        parser.add_argument(flag, type=Path, metavar="FILE", help=text)
    configuration.add_file(parser)


def _address(text: str) -> Address:
    try:
        return address.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!a}: {error}") from error


def options(parsed: argparse.Namespace) -> TopOptions:
    """The options in a parsed command line."""
    return TopOptions(
        **vars(output(parsed)),
        duration=parsed.duration,
        interval=parsed.interval,
        plain=parsed.plain,
        source=parsed.source,
        address=parsed.url,
        ca_file=parsed.ca_file,
        certificate_file=parsed.certificate_file,
        login_file=parsed.login_file,
    )


def run(config: Config, options: TopOptions) -> int:
    """Count and print; returns the exit status."""
    from exporter.common.signals import Stop  # noqa: PLC0415 - usage errors need none of it
    from exporter.terminal import client, source  # noqa: PLC0415
    from exporter.terminal.session import Session  # noqa: PLC0415

    out = console.stdout(_NAME)
    if out is None:
        return console.FAILURE
    live_view = _live_view(options, out, os.environ.get("TERM", ""))
    try:
        access = client.credentials(options.ca_file, options.certificate_file, options.login_file)
    except client.CredentialsError as error:
        _say(str(error))
        return console.USAGE_ERROR
    try:
        chosen, line = source.choose(
            options.source,
            [options.address] if options.address else source.default_addresses(config),
            lambda: source.OwnSource(config),
            lambda address: source.ExporterSource(address, access=access),
            None if options.address else source.trusted_users(config),  # a named exporter may be on another host
        )
        try:
            _say(line)
            if not chosen.remote:
                console.say_if_pids_are_foreign(Path("/proc"), _NAME)
            with Stop() as stop:
                session = Session(chosen, options.duration, stop)
                _count(session, stop, options, out, live_view=live_view)
                return _conclude(session, options)
        finally:
            chosen.close()
    except source.SourceError as error:
        _say(str(error))
        return console.FAILURE
    except OSError as error:
        return console.output_failed(error, out, _NAME)


def _say(line: str) -> None:
    console.say(line, _NAME)


def _live_view(options: TopOptions, out: TextIO, term: str) -> bool:
    """True if the live view is wanted and possible. If it is wanted but not possible, stderr says why."""
    if options.plain or options.form != "table" or not (out.isatty() and sys.stdin and sys.stdin.isatty()):
        return False
    from exporter.terminal import live  # noqa: PLC0415

    try:
        live.check(term, out.fileno())
    except live.UnavailableError as error:
        _say(f"no live view: {error}")
        return False
    return True


def _count(session: Session, stop: Stop, options: TopOptions, out: TextIO, *, live_view: bool) -> None:
    """Count until the end of the run, and print. Raises OSError if `out` cannot be written."""
    from exporter.terminal import live  # noqa: PLC0415
    from exporter.terminal.plain import Plain  # noqa: PLC0415
    from exporter.terminal.view import TopView  # noqa: PLC0415

    plain = Plain(session, stop, options, out, _say)
    if live_view:
        # --no-idle is only the initial state of the view: a key shows the idle reasons again.
        live.run(
            session,
            stop,
            TopView(sort=options.sort, userspace=options.userspace, idle=not options.filters.no_idle),
            filters=replace(options.filters, no_idle=False),
            interval=options.interval or _REFRESH_SECONDS,
            limit=options.limit,
        )
        plain.print_run()
    elif options.interval:
        plain.print_intervals(options.interval)
    else:
        if options.duration is None:
            _say("Ctrl-C ends the run and prints the table")
        plain.wait_until(session.end)
        plain.print_run()


def _conclude(session: Session, options: TopOptions) -> int:
    """Print on stderr the facts that the printed numbers do not show; returns the exit status."""
    from exporter.terminal import report  # noqa: PLC0415

    for note in report.notes(options, session.first, session.last, "is a VM running on this host?"):
        _say(note)
    if session.last.since_ns != session.first.since_ns:
        _say("the exporter was restarted during the run: its counts between two readings are lost")
    if session.trouble:
        _say(f"the printed numbers end with the last reading: {session.trouble}")
        return console.FAILURE
    return 0
