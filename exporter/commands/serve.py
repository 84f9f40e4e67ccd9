"""The command `serve`: count this host's KVM exits, and serve them on /metrics."""

from __future__ import annotations

import argparse
from typing import Any

from exporter.commands import configuration
from exporter.commands.arguments import add_command
from exporter.common import logs
from exporter.config.options import Config


def add(commands: Any) -> None:
    """Add the command to argparse's subparsers."""
    parser = add_command(commands, "serve", run, help="count this host's KVM exits and serve /metrics")
    configuration.add_file(parser)
    configuration.add_flags(parser)


def run(config: Config, arguments: argparse.Namespace) -> int:
    """Serve until SIGTERM or SIGINT; returns the exit status."""
    if arguments.check:
        return configuration.show(config)
    logs.setup(config.log.level, config.log.format)
    from exporter.service import process  # noqa: PLC0415 - usage errors need none of it

    files = configuration.files(arguments)
    return process.run(config, reread=lambda: configuration.read(arguments), files=files)
