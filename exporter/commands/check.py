"""The command `check`: check whether this host has everything that the exporter needs."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from exporter.commands import configuration
from exporter.commands.arguments import add_command
from exporter.config.options import Config


def add(commands: Any) -> None:
    """Add the command to argparse's subparsers."""
    configuration.add_file(add_command(commands, "check", run, help="check what this host lacks"))


def run(config: Config, _: argparse.Namespace) -> int:
    """Print a table with a row for each need; returns the exit status: 1 if something is missing."""
    from exporter.kernel import host, preflight  # noqa: PLC0415 - usage errors need none of it

    checks = host.checks(config, proc=Path("/proc"), sysfs=Path("/sys"))
    print(preflight.table(checks), end="")
    return preflight.status(checks)
