"""The sizes of the fault tests, and the result lines that are printed at the end."""

from __future__ import annotations

import os

FULL = os.environ.get("FAULTS") == "full"
"""True under `make faults`: the tests then use the counts in README.md. Otherwise they use a tenth of them or less."""

LINES: list[str] = []


def often(full: int, short: int) -> int:
    """Return the count for this run: `full` under `make faults`, otherwise `short`."""
    return full if FULL else short


def say(fault: str, **figures: object) -> None:
    """Store a line of figures, which is printed at the end of the run."""
    LINES.append(f"{fault}: " + ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in figures.items()))
