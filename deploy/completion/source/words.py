"""Read from the argument parser what completion needs: subcommands, their flags, and the values of each flag."""

from __future__ import annotations

import argparse
from dataclasses import dataclass

from exporter.common import logs

PROGRAM = "kvm-exit-exporter"

FILE, DIRECTORY = "file", "directory"

# Values that the configuration checks itself: argparse does not know them.
_WORDS = {"--log.level": tuple(logs.LEVELS), "--log.format": ("logfmt", "json")}


@dataclass(frozen=True)
class Value:
    """The value of a flag, or a positional argument."""

    name: str
    words: tuple[str, ...] = ()
    kind: str = ""
    """FILE or DIRECTORY: the shell suggests paths. "": the shell cannot suggest a value."""


@dataclass(frozen=True)
class Flag:
    """One option with all of its names."""

    names: tuple[str, ...]
    help: str
    value: Value | None
    repeated: bool
    excluded: tuple[str, ...]
    """Flags that cannot be used together with this one. Includes its own names."""


@dataclass(frozen=True)
class Command:
    """A subcommand. The program itself has the name ""."""

    name: str
    help: str
    flags: tuple[Flag, ...]
    positionals: tuple[Value, ...]

    @property
    def names(self) -> list[str]:
        """All names of all flags."""
        return [name for flag in self.flags for name in flag.names]


def commands(parser: argparse.ArgumentParser) -> list[Command]:
    """Return the program itself with its own flags, followed by every subcommand."""
    (subparsers,) = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    helps = {choice.dest: choice.help or "" for choice in subparsers._choices_actions}
    return [
        _command("", "", parser),
        *(_command(name, helps[name], subparser) for name, subparser in subparsers.choices.items()),
    ]


def _command(name: str, text: str, parser: argparse.ArgumentParser) -> Command:
    actions = [action for action in parser._actions if not isinstance(action, argparse._SubParsersAction)]
    exclusive = {
        action.dest: tuple(name for each in group._group_actions for name in each.option_strings)
        for group in parser._mutually_exclusive_groups
        for action in group._group_actions
    }
    flags = (_flag(action, exclusive.get(action.dest, ())) for action in actions if action.option_strings)
    positionals = (_value(action) for action in actions if not action.option_strings)
    return Command(name, text, tuple(flags), tuple(positionals))


def _flag(action: argparse.Action, excluded: tuple[str, ...]) -> Flag:
    return Flag(
        names=tuple(action.option_strings),
        help=action.help or "",
        value=_value(action) if action.nargs != 0 else None,
        repeated=isinstance(action, argparse._AppendAction),
        excluded=excluded or tuple(action.option_strings),
    )


def _value(action: argparse.Action) -> Value:
    name = action.metavar if isinstance(action.metavar, str) else action.dest
    flag = action.option_strings[0] if action.option_strings else ""
    if action.choices:
        return Value(name, words=tuple(map(str, action.choices)))
    if flag in _WORDS:
        return Value(name, words=_WORDS[flag])
    if name == "FILE" or flag.endswith(".file"):
        return Value(name, kind=FILE)
    return Value(name, kind=DIRECTORY if name == "DIR" else "")
