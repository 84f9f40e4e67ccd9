"""Write the shells' completion files: python3 -m deploy.completion.source."""

from __future__ import annotations

from pathlib import Path

from deploy.completion.source import shells
from deploy.completion.source.words import PROGRAM, commands
from exporter.commands.cli import command_line

FOLDER = Path(__file__).resolve().parent.parent


def files() -> dict[str, str]:
    """Return a dict from each file's name to its text."""
    found = commands(command_line())
    return {
        f"{PROGRAM}.bash": shells.bash(found),
        f"_{PROGRAM}": shells.zsh(found),
        f"{PROGRAM}.fish": shells.fish(found),
    }


if __name__ == "__main__":
    for name, text in files().items():
        (FOLDER / name).write_text(text)
