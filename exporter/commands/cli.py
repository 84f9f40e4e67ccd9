"""The whole command line: builds the parser from all commands, reads the configuration, and runs one command."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from exporter import __version__
from exporter.commands import check, configuration, demo, record, replay, serve, top
from exporter.config.options import ConfigError

_COMMANDS = (serve, demo, top, check, record, replay)
"""In the order of --help."""


def command_line() -> argparse.ArgumentParser:
    """The parser of the whole command line. Tests compare the manual and the shells' completion with it."""
    parser = argparse.ArgumentParser(
        prog="kvm-exit-exporter",
        description="Prometheus exporter for KVM exits: which VM exits, on which vCPU, why, how often, for how long.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"kvm-exit-exporter {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for command in _COMMANDS:
        command.add(commands)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command. Returns the exit status: 2 for usage and configuration errors, 1 for all later failures.

    Raises SystemExit for usage errors, --help and --version.
    """
    if sys.stderr is None:  # stderr is closed: print(file=None) would write messages to stdout
        sys.stderr = Path(os.devnull).open("w", errors="backslashreplace")  # noqa: SIM115 - needed until the process ends
    arguments = command_line().parse_args(argv)
    try:
        config = configuration.read(arguments)
    except ConfigError as error:
        return configuration.refuse(error)
    status: int = arguments.run(config, arguments)
    return status
