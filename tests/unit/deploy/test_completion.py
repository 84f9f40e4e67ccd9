"""Shell completion: the committed files are up to date, and bash, zsh and fish offer the right completions."""

from __future__ import annotations

import os
import pty
import select
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from deploy.completion.source.__main__ import FOLDER, files
from deploy.completion.source.words import PROGRAM, commands
from exporter.commands.cli import command_line
from exporter.config.options import OPTIONS

BASH, ZSH, FISH = (FOLDER / name for name in files())
COMMANDS = {command.name: command for command in commands(command_line())}
SHOW = f'{PROGRAM}() {{ printf "<%s>" "$@"; echo; }}'


@pytest.mark.parametrize("name", files())
def test_the_committed_files_match_the_command_line(name: str) -> None:
    assert (FOLDER / name).read_text() == files()[name], "run `make completion`"


def test_the_descriptions_of_flags_are_not_cut() -> None:
    """Two flags are checked. The text of --ring-size has parentheses, the text of --source explains three values."""
    helps = {name: flag.help for command in COMMANDS.values() for flag in command.flags for name in flag.names}
    assert helps["--ring-size"] == "kernel memory for unwritten events (16M; an event takes 48 bytes there)"
    assert all(f"{word}: " in helps["--source"] for word in ("own", "exporter", "auto"))


def test_the_offered_values_are_the_allowed_values() -> None:
    for flag in COMMANDS["serve"].flags:
        if flag.value and flag.value.words:
            option = OPTIONS[flag.names[0][2:]]
            assert option.allowed == f"one of {', '.join(flag.value.words)}"


def needs(shell: str) -> str:
    return shutil.which(shell) or pytest.skip(f"no {shell}")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "one file.yaml").touch()
    (tmp_path / "only-folder").mkdir()
    return tmp_path


def bash(words: list[str], cwd: Path) -> list[str]:
    """Return the completions that bash offers for the last word.

    `words` are split in the same way as readline splits them.
    """
    run = 'COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _kvm_exit_exporter; printf "%s\\n" "${COMPREPLY[@]}"'
    script = f"source {BASH}; {run}"
    command = [needs("bash"), "--norc", "-uc", script, "bash", PROGRAM, *words]
    said = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=True)
    assert said.stderr == ""
    return said.stdout.split("\n")[:-1] if said.stdout != "\n" else []


def fish(line: str, cwd: Path) -> list[str]:
    """Return the completions that fish offers at the end of the line."""
    script = f"source {FISH}; complete -C {line!r}"
    said = subprocess.run([needs("fish"), "-Nc", script], cwd=cwd, capture_output=True, text=True, check=True)
    assert said.stderr == ""
    return [offer.partition("\t")[0] for offer in said.stdout.splitlines()]


@pytest.mark.parametrize("command", [name for name in COMMANDS if name])
def test_every_flag_is_offered(command: str, folder: Path) -> None:
    names = COMMANDS[command].names
    assert bash([command, "-"], folder) == names
    offered = fish(f"{PROGRAM} {command} -", folder) + fish(f"{PROGRAM} {command} --", folder)
    assert {offer for offer in offered if offer in names} == set(names)
    assert {offer for offer in offered if offer.startswith("--")} <= set(names)


def test_subcommands_are_offered(folder: Path) -> None:
    names = [name for name in COMMANDS if name]
    assert bash([""], folder) == names
    assert sorted(fish(f"{PROGRAM} ", folder)) == sorted(names)


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (["serve", "--log.level", ""], ["debug", "info", "warn", "error"]),
        (["serve", "--log.level", "="], ["debug", "info", "warn", "error"]),
        (["serve", "--log.format", "=", "j"], ["json"]),
        (["serve", "--linger", ""], []),
        (["serve", "--linger", "-"], []),
        (["serve", "--config.file", "one"], ["one file.yaml"]),
        (["serve", "--config.file", "=", "one"], ["one file.yaml"]),
        (["top", "--sort", "=", "p"], ["p50", "p99"]),
        (["top", ""], []),
    ],
)
def test_bash_offers_the_values_of_a_flag(words: list[str], offered: list[str], folder: Path) -> None:
    assert bash(words, folder) == offered


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("serve --log.level ", ["debug", "error", "info", "warn"]),
        ("serve --log.format=j", ["--log.format=json"]),
        ("serve --linger ", []),
        ("serve --config.file one", ["one file.yaml"]),
        ("top --sort p", ["p50", "p99"]),
        ("top ", []),
    ],
)
def test_fish_offers_the_values_of_a_flag(line: str, offered: list[str], folder: Path) -> None:
    assert sorted(fish(f"{PROGRAM} {line}", folder)) == offered


def typed(shell: list[str], cwd: Path, lines: list[str], end: str, seconds: float = 20) -> str:
    """Type lines into an interactive shell. Return everything that it shows until `end` appears."""
    child, terminal = pty.fork()
    if child == 0:
        os.chdir(cwd)
        os.execvpe(shell[0], shell, {"PATH": os.environ["PATH"], "TERM": "dumb", "HOME": str(cwd)})
    shown, deadline = b"", time.monotonic() + seconds
    try:
        os.write(terminal, "".join(line + "\r" for line in lines).encode())
        while shown.count(end.encode()) < 1 and time.monotonic() < deadline:
            if select.select([terminal], [], [], 0.2)[0]:
                try:
                    shown += os.read(terminal, 65536)
                except OSError:  # EIO: the shell has ended
                    break
    finally:
        os.close(terminal)
        os.waitpid(child, 0)
    return shown.decode(errors="replace")


# Each entry has the typed keys, with tabs, and the arguments that the program must get.
KEYS = [
    ("ser\t--log.l\tw\t", "<serve><--log.level=warn>"),
    ("to\t--sort=av\t--no\t", "<top><--sort=avg><--no-idle>"),
    ("che\t--conf\tonl\t", "<check><--config.file=only-folder>"),
]


@pytest.mark.parametrize(("keys", "arguments"), KEYS)
def test_zsh_completes_typed_keys(keys: str, arguments: str, folder: Path) -> None:
    setup = f"fpath=({FOLDER} $fpath); autoload -Uz compinit; compinit -u -D; {SHOW}"
    shown = typed([needs("zsh"), "-f", "-i"], folder, [setup, f"{PROGRAM} {keys}", "exit"], arguments)
    assert arguments in shown


@pytest.mark.parametrize(
    ("keys", "arguments"),
    [
        ("ser\t--log.l\tw\t", "<serve><--log.level><warn>"),
        ("ser\t--log.level=w\t", "<serve><--log.level=warn>"),
        ("che\t--config.file=one\t", "<check><--config.file=one file.yaml>"),
    ],
)
def test_bash_completes_typed_keys(keys: str, arguments: str, folder: Path) -> None:
    shell = [needs("bash"), "--norc", "--noprofile", "-i"]
    shown = typed(shell, folder, [f"source {BASH}; {SHOW}", f"{PROGRAM} {keys}", "exit"], arguments)
    assert arguments in shown
