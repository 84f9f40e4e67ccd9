"""The parts that the commands' parsers share: adding a command, and types of arguments."""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Callable
from typing import Any

from exporter.config.options import Config


def add_command(
    commands: Any,
    name: str,
    run: Callable[[Config, argparse.Namespace], int],
    *,
    help: str,
    description: str | None = None,
    epilog: str | None = None,
) -> argparse.ArgumentParser:
    """Add a command to argparse's subparsers. `run` returns the exit status."""
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=help,
        description=description,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.set_defaults(run=run)
    return parser


class Once(argparse.Action):
    """Store a value, and refuse a second one. argparse's own "store" silently keeps the last."""

    def __call__(self, _: object, namespace: argparse.Namespace, value: object, *__: object) -> None:
        """Store the value. Raises argparse.ArgumentError if a value is stored already."""
        if getattr(namespace, self.dest) != self.default:
            raise argparse.ArgumentError(self, "can be given only once")
        setattr(namespace, self.dest, value)


def seconds(least: float) -> Callable[[str], float]:
    """An argparse type: a number of seconds, at least `least`."""

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not least <= value <= 1e9:
            raise argparse.ArgumentTypeError(f"{text!a}: allowed is a number of seconds from {least:g}")
        return value

    return parse


def whole(low: int, high: int) -> Callable[[str], int]:
    """An argparse type: a whole number from `low` to `high`."""

    def parse(text: str) -> int:
        if not (text.isascii() and text.isdigit() and len(text) < 16 and low <= int(text) <= high):
            raise argparse.ArgumentTypeError(f"{text!a}: allowed is a whole number from {low} to {high}")
        return int(text)

    return parse


def numbers(text: str) -> list[int]:
    """An argparse type: whole numbers with commas between them. Raises argparse.ArgumentTypeError."""
    parts = text.split(",")
    if not all(part.isascii() and part.isdigit() and len(part) < 11 for part in parts):
        raise argparse.ArgumentTypeError(f"{text!a}: allowed are numbers, with commas between them")
    return [int(part) for part in parts]


def reasons(text: str) -> list[str]:
    """An argparse type: reasons with commas between them. Raises argparse.ArgumentTypeError."""
    parts = text.split(",")
    if not all(parts):
        raise argparse.ArgumentTypeError(f"{text!a}: allowed are reasons, with commas between them")
    return parts


def vm_name(text: str) -> str:
    """An argparse type: a VM's name. Bytes that are not UTF-8 are replaced, as in names from a VM's command line."""
    return os.fsencode(text).decode(errors="replace")
