"""The command `demo`: serve /metrics of a recording, on a machine without VMs."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from exporter.commands import configuration
from exporter.commands.arguments import add_command
from exporter.common import logs
from exporter.config.options import Config


def add(commands: Any) -> None:
    """Add the command to argparse's subparsers."""
    parser = add_command(commands, "demo", run, help="serve /metrics of a recording, on a machine without VMs")
    configuration.add_file(parser)
    configuration.add_flags(parser)
    parser.add_argument("--speed", type=_speed, default=1.0, help="how fast recorded time passes (0.01 to 1000)")
    parser.add_argument(
        "--recording",
        type=Path,
        metavar="FILE",
        help="a file that `record` wrote (default: the shipped recording)",
    )


def run(config: Config, arguments: argparse.Namespace) -> int:
    """Serve a replay of the recording until SIGTERM or SIGINT; returns the exit status."""
    if arguments.check:
        return configuration.show(config)
    logs.setup(config.log.level, config.log.format)
    from exporter.recording import recording  # noqa: PLC0415 - usage errors need none of it
    from exporter.service import process  # noqa: PLC0415
    from exporter.service.replay import ReplaySource  # noqa: PLC0415

    file = arguments.recording or recording.DEFAULT
    return process.run(
        config,
        replay=lambda account: ReplaySource(config, file, arguments.speed, account),
        reread=lambda: configuration.read(arguments),
        files=configuration.files(arguments),
    )


def _speed(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0.01 <= value <= 1000:
        raise argparse.ArgumentTypeError("allowed is a number from 0.01 to 1000")
    return value
