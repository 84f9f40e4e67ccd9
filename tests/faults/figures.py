"""How much is tried, and the lines that say what came of it."""

from __future__ import annotations

import os

FULL = os.environ.get("FAULTS") == "full"
"""`make faults`: the counts of README.md. Otherwise a tenth or less, for the suite of every change."""

LINES: list[str] = []


def often(full: int, short: int) -> int:
    return full if FULL else short


def say(fault: str, **figures: object) -> None:
    """Keep a line of figures for the end of the run."""
    LINES.append(f"{fault}: " + ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in figures.items()))
