"""The sizes of the fault tests, and the result lines that are printed at the end."""

from __future__ import annotations

import os

FULL = os.environ.get("FAULTS") == "full"
"""True under `make faults`: the counts of README.md. Otherwise the tests use a tenth or less."""

LINES: list[str] = []


def often(full: int, short: int) -> int:
    """Return the count for this run: `full` under `make faults`, otherwise `short`."""
    return full if FULL else short


def say(fault: str, **figures: object) -> None:
    """Keep a line of figures for the end of the run."""
    LINES.append(f"{fault}: " + ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in figures.items()))
