"""The manual page: it matches the command line, and mandoc accepts it."""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest

from deploy.completion.source.words import PROGRAM, commands
from exporter.commands.cli import command_line
from tests.support.paths import ROOT

PAGE = ROOT / "docs/man/kvm-exit-exporter.8"
COMMANDS = {command.name or PROGRAM: command for command in commands(command_line())}


def documented() -> dict[str, list[tuple[str, ...]]]:
    """Return the flags of each subcommand.

    They are read from sections with names such as "Options of top and replay".
    """
    found: dict[str, list[tuple[str, ...]]] = {}
    for section in re.split(r"^\.S[sh] ", PAGE.read_text(), flags=re.MULTILINE):
        heading, _, text = section.partition("\n")
        if heading.startswith("Options of "):
            flags = [tuple(_names(line)) for line in re.findall(r"^\.It (Fl .*)$", text, re.MULTILINE)]
            for name in re.split(r", | and ", heading[len("Options of ") :]):
                found.setdefault(name, []).extend(flags)
    return found


def _names(item: str) -> list[str]:
    """Return the names of the flags in an item such as "Fl p , Fl -pid Ar pid"."""
    return ["-" + name for name in re.findall(r"Fl (\S+)", item)]


def test_every_subcommand_has_its_flags_and_no_others() -> None:
    flags = {name: sorted(tuple(sorted(flag.names)) for flag in command.flags) for name, command in COMMANDS.items()}
    page = {name: sorted(tuple(sorted(names)) for names in of) for name, of in documented().items()}
    assert page == flags


def test_flags_that_take_a_value_are_shown_with_it() -> None:
    shown = {
        name: "Ar " in line or "Cm " in line
        for line in re.findall(r"^\.It (Fl .*)$", PAGE.read_text(), re.MULTILINE)
        for name in _names(line)
    }
    assert shown == {name: bool(flag.value) for one in COMMANDS.values() for flag in one.flags for name in flag.names}


def test_every_subcommand_is_described() -> None:
    synopsis, description = re.findall(
        r"^\.Sh (?:SYNOPSIS|DESCRIPTION)\n(.*?)(?=^\.S[sh])", PAGE.read_text(), re.M | re.S
    )
    names = [name for name in COMMANDS if name != PROGRAM]
    assert sorted(re.findall(r"^\.Nm\n\.Cm (\w+)", synopsis, re.M)) == sorted(names)
    assert sorted(re.findall(r"^\.It Cm (\w+)", description, re.M)) == sorted(names)


def test_the_allowed_words_of_a_flag_are_described() -> None:
    page = PAGE.read_text()
    for command in COMMANDS.values():
        for flag in command.flags:
            if flag.value and flag.value.words:
                item = page[page.index(f".It Fl {flag.names[-1][1:]} ") :]
                item = re.split(r"\n\.(?:It|El)\b", item)[0]
                assert set(flag.value.words) <= set(re.findall(r"\w+", item)), flag.names


@pytest.mark.skipif(not shutil.which("mandoc"), reason="no mandoc")
def test_mandoc_reports_no_problem() -> None:
    said = subprocess.run(["mandoc", "-Tlint", "-Wwarning", PAGE], capture_output=True, text=True, check=False)
    assert (said.stdout, said.returncode) == ("", 0)
