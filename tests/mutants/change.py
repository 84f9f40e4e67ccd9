"""One wrong change of the code, and the tests that must notice it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Change:
    """One row of the table."""

    name: str
    """Says in a few words which rule the change breaks."""
    file: str
    old: str
    """A text that occurs once in the file."""
    new: str
    tests: tuple[str, ...]
    """pytest's names of the tests that must fail."""
    equivalent: str = ""
    """The proof that no test can notice the change; "" if a test must notice it."""


def changed(text: str, change: Change) -> str:
    """Return the text of a file after the change. Raises ValueError if the old text does not occur exactly once."""
    found = text.count(change.old)
    if found != 1:
        raise ValueError(f"{change.name}: the old text occurs {found} times in {change.file}")
    return text.replace(change.old, change.new)
