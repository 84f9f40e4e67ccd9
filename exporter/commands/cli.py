"""The command line: parses, and calls."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from exporter import __version__
from exporter.common import logs
from exporter.config import load as configfile
from exporter.config.options import Config, ConfigError, UnreadableError
from exporter.recording import options as replay_options
from exporter.terminal import options

_FAILURE, _USAGE_ERROR = 1, 2

# Flag, key in config.yaml, help. The names are node_exporter's where it has them.
_FLAGS = (
    ("--web.listen-address", "web.listen_address", "address to listen on, can be given more than once"),
    ("--web.telemetry-path", "web.telemetry_path", "path of the metrics page"),
    ("--web.config.file", "web.config_file", "file with TLS and users, in the format of Prometheus' exporters"),
    ("--web.max-requests", "web.max_requests", "scrapes in flight at the same time (40)"),
    ("--web.enable-lifecycle", "web.enable_lifecycle", "let POST /-/reload read the configuration again"),
    ("--log.level", "log.level", "debug, info, warn or error"),
    ("--log.format", "log.format", "logfmt or json"),
    ("--collect-interval", "collect_interval", "read the counters at least so often (15s)"),
    ("--linger", "linger", "serve the last values of an ended vCPU for so long (5m)"),
)


def _speed(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0.01 <= value <= 1000:
        raise argparse.ArgumentTypeError("allowed is a number from 0.01 to 1000")
    return value


def command_line() -> argparse.ArgumentParser:
    """The whole command line, as argparse has it; the manual and the shells' completion are held against it."""
    parser = argparse.ArgumentParser(
        prog="kvm-exit-exporter",
        description="Prometheus exporter for KVM exits: which VM exits, on which vCPU, why, how often, for how long.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"kvm-exit-exporter {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    serve = commands.add_parser("serve", help="count this host's KVM exits and serve /metrics")
    demo = commands.add_parser("demo", help="the same on recorded events, for a machine without VMs")
    top = options.add(commands)
    check = commands.add_parser("check", help="say what this host lacks, if anything")
    record = replay_options.add_record(commands)
    replay = replay_options.add_replay(commands)
    for command in (serve, demo, top, record, replay, check):
        command.allow_abbrev = False
        command.add_argument("--config.file", dest="file", metavar="FILE", help="configuration file (YAML)")
    for command in (serve, demo):
        command.add_argument(
            "--config.check",
            dest="check",
            action="store_true",
            help="print the configuration in force, and exit",
        )
        for flag, key, text in _FLAGS:
            if key == "web.enable_lifecycle":
                command.add_argument(flag, dest=key, action="store_true", default=None, help=text)
                continue
            repeated = "append" if key == "web.listen_address" else "store"
            command.add_argument(flag, dest=key, action=repeated, metavar="VALUE", help=text)
    demo.add_argument("--speed", type=_speed, default=1.0, help="how fast recorded time passes (0.01 to 1000)")
    demo.add_argument("--recording", type=Path, metavar="FILE", help="what `record` wrote, not the one shipped")
    return parser


def _config(arguments: argparse.Namespace) -> Config:
    """Read the file, if one is named, and let the flags overrule it. Raises ConfigError."""
    chosen = configfile.load(Path(arguments.file)) if arguments.file else Config()
    given = {key: getattr(arguments, key, None) for _, key, _ in _FLAGS}
    return configfile.with_flags(chosen, {key: value for key, value in given.items() if value is not None})


def main(argv: Sequence[str] | None = None) -> int:
    """Run a subcommand; returns the exit status: 2 for usage and configuration, 1 for all that fails later."""
    if sys.stderr is None:  # closed: print(file=None) would write to stdout, between the numbers
        sys.stderr = Path(os.devnull).open("w", errors="backslashreplace")  # noqa: SIM115 - until the end
    arguments = command_line().parse_args(argv)
    try:
        chosen = _config(arguments)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return _FAILURE if isinstance(error, UnreadableError) else _USAGE_ERROR
    run = {"check": _check, "top": _top, "record": _record, "replay": _replay}.get(arguments.command)
    if run:
        return run(chosen, arguments)
    if arguments.check:
        return _check_config(chosen)
    logs.setup(chosen.log.level, chosen.log.format)
    # Not at the top: `check` and usage errors need none of it.
    from exporter.recording import recording  # noqa: PLC0415
    from exporter.service import process as service  # noqa: PLC0415

    if arguments.command == "serve":
        return service.run(chosen, reread=lambda: _config(arguments))
    return service.run(
        chosen,
        recorded=arguments.recording or recording.DEFAULT,
        speed=arguments.speed,
        reread=lambda: _config(arguments),
    )


def _top(chosen: Config, arguments: argparse.Namespace) -> int:
    from exporter.commands import top as command  # noqa: PLC0415

    return command.run(chosen, options.options(arguments))


def _record(chosen: Config, arguments: argparse.Namespace) -> int:
    from exporter.commands import record  # noqa: PLC0415

    return record.run(chosen, replay_options.record_options(arguments))


def _replay(chosen: Config, arguments: argparse.Namespace) -> int:
    from exporter.commands import replay  # noqa: PLC0415

    return replay.run(chosen, arguments.recording, options.output(arguments))


def _check_config(chosen: Config) -> int:
    """Print the configuration, unless something is wrong in the web configuration file or the certificates it names."""
    if chosen.web.config_file:
        from exporter.web.toolkit import WebConfigFile  # noqa: PLC0415

        try:
            WebConfigFile(Path(chosen.web.config_file).absolute()).settings()
        except ConfigError as error:
            print(error, file=sys.stderr)
            return _FAILURE if isinstance(error, UnreadableError) else _USAGE_ERROR
    print(configfile.describe(chosen), end="")
    return 0


def _check(chosen: Config, _: argparse.Namespace) -> int:
    from exporter.kernel import host, preflight  # noqa: PLC0415

    checks = host.checks(chosen, proc=Path("/proc"), sysfs=Path("/sys"))
    print(preflight.table(checks), end="")
    return preflight.status(checks)
