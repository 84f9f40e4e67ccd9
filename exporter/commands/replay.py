"""The command `replay`: run a recording through the counting program, and print the table of its counts."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from exporter.commands import configuration, console
from exporter.commands.arguments import add_command
from exporter.commands.output import add_output, output
from exporter.config.options import Config
from exporter.terminal.output import Output

if TYPE_CHECKING:
    from exporter.recording.recording import Recording

_NAME = "replay"

_EPILOG = """\
examples:
  replay web-1.kvmrec
  replay web-1.kvmrec --no-idle --sort p99 --limit 10
  replay web-1.kvmrec --vm web-1 --vcpu 0 --userspace
  replay web-1.kvmrec --json | jq '.vcpus[] | {vm, vcpu, guest_ns}'

The events run through the BPF program that counts on a host, with their recorded times, as fast as possible. The table
is the one that `top` would have printed on the recorded host. Nothing is attached, and KVM is not needed. Root and
Linux 5.10 or newer are needed.

Events that were lost during the recording are reported on stderr. The status is 1 if the file is not a complete
recording, and 130 after Ctrl-C.
"""


def add(commands: Any) -> None:
    """Add the command to argparse's subparsers."""
    parser = add_command(
        commands,
        _NAME,
        lambda config, parsed: run(config, parsed.recording, output(parsed)),
        help="show the counts of a recording",
        description="Run a recording's events through the counting program, and print the counts.",
        epilog=_EPILOG,
    )
    parser.add_argument("recording", type=Path, metavar="FILE", help="a file that `record` wrote")
    add_output(parser)
    configuration.add_file(parser)


def run(config: Config, file: Path, output: Output) -> int:
    """Print the table; returns the exit status: 1 if the file is not a complete recording or cannot be replayed."""
    from exporter.kernel import host, privileges  # noqa: PLC0415 - usage errors need none of it
    from exporter.kernel.launcher import Launcher  # noqa: PLC0415
    from exporter.kernel.program import LoadError  # noqa: PLC0415
    from exporter.recording import recording, rerun  # noqa: PLC0415
    from exporter.recording.blocks import RecordingFile  # noqa: PLC0415
    from exporter.terminal import report  # noqa: PLC0415

    try:
        opened = RecordingFile.opened(file)
        with contextlib.closing(Launcher(host.late_replay_request(config))) as loader:
            # The file may come from anybody. Only the loader needs the privileges.
            privileges.drop(privileges.unprivileged_account(config.run_as))
            recorded = recording.read(opened)
            first, last = rerun.readings(loader, recorded)
    except recording.RecordingError as error:
        console.say(str(error), _NAME)
        return console.FAILURE
    except LoadError as error:
        console.say(error.explained(), _NAME)
        return console.FAILURE
    out = console.stdout(_NAME)
    if out is None:
        return console.FAILURE
    try:
        out.write(report.text(output, str(file), first, last, first=True, heading=False))
        out.flush()
    except OSError as error:
        status = console.output_failed(error, out, _NAME)
        if status:
            return status
    for note in (*_losses(recorded), *report.notes(output, first, last, "the recording has none")):
        console.say(note, _NAME)
    return 0


def _losses(recorded: Recording) -> list[str]:
    """A line if events were lost during the recording, else none."""
    from exporter.recording.totals import by_name  # noqa: PLC0415

    lost = {name: count for name, count in by_name(recorded.lost).items() if count}
    if not lost:
        return []
    total, kinds = sum(lost.values()), ", ".join(f"{name} {count}" for name, count in lost.items())
    return [f"{total} events were lost during the recording ({kinds}): the counts are too low by this number"]
