"""The configuration of a command: --config.file, and the flags of `serve` and `demo` that overrule the file."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from exporter.commands.console import FAILURE, USAGE_ERROR
from exporter.config import load
from exporter.config.options import OPTIONS, Config, ConfigError, UnreadableError

# Flag, key in config.yaml, help. The flags have node_exporter's names where node_exporter has such a flag.
_FLAGS = (
    ("--web.listen-address", "web.listen_address", "address to listen on, can be given more than once"),
    ("--web.telemetry-path", "web.telemetry_path", "path of the metrics page"),
    ("--web.config.file", "web.config_file", "file with TLS and users, in the format of Prometheus' exporters"),
    ("--web.max-requests", "web.max_requests", "number of scrapes served at the same time (40)"),
    ("--web.host-names", "web.host_names", "name by which clients may call the exporter, can be given more than once"),
    ("--web.enable-lifecycle", "web.enable_lifecycle", "let POST /-/reload read the configuration again"),
    ("--log.level", "log.level", "debug, info, warn or error"),
    ("--log.format", "log.format", "logfmt or json"),
    ("--collect-interval", "collect_interval", "longest time between two reads of the counters (15s)"),
    ("--linger", "linger", "how long the last values of an ended vCPU are served (5m)"),
)


def add_file(parser: argparse.ArgumentParser) -> None:
    """Add --config.file, which every command has."""
    parser.add_argument("--config.file", dest="file", metavar="FILE", help="configuration file (YAML)")


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add --config.check and the flags that overrule the configuration file."""
    parser.add_argument(
        "--config.check",
        dest="check",
        action="store_true",
        help="print the configuration in force, and exit",
    )
    for flag, key, text in _FLAGS:
        if key == "web.enable_lifecycle":
            parser.add_argument(flag, dest=key, action="store_true", default=None, help=text)
            continue
        repeated = "append" if OPTIONS[key].min_items is not None else "store"
        parser.add_argument(flag, dest=key, action=repeated, metavar="VALUE", help=text)


def read(arguments: argparse.Namespace) -> Config:
    """Read the configuration file if one is named, and overrule it with the flags. Raises ConfigError."""
    config = load.load(Path(arguments.file)) if arguments.file else Config()
    given = {key: getattr(arguments, key, None) for _, key, _ in _FLAGS}
    return load.with_flags(config, {key: value for key, value in given.items() if value is not None})


def files(arguments: argparse.Namespace) -> list[Path]:
    """Return the configuration file, if one is named."""
    return [Path(arguments.file)] if arguments.file else []


def show(config: Config) -> int:
    """Print the configuration in force; returns the exit status.

    If the web configuration file or a certificate that it names is wrong, the error is printed instead.
    """
    if config.web.config_file:
        from exporter.web.toolkit import WebConfigFile  # noqa: PLC0415 - needed for this check alone

        try:
            WebConfigFile(Path(config.web.config_file).absolute()).settings()
        except ConfigError as error:
            return refuse(error)
    print(load.describe(config), end="")
    return 0


def refuse(error: ConfigError) -> int:
    """Print every problem of a configuration; returns the exit status: 1 for an unreadable file, else 2."""
    print(error, file=sys.stderr)
    return FAILURE if isinstance(error, UnreadableError) else USAGE_ERROR
