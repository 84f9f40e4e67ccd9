"""A row of `check`, and the table of all rows."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Check:
    """One row. `needed` is False for a thing that the exporter does not need; such a row must have `ok` True."""

    name: str
    ok: bool
    detail: str
    remedy: str = ""
    needed: bool = True

    @property
    def state(self) -> str:
        """`ok`, `missing` or `not needed`."""
        if not self.ok:
            return "missing"
        return "ok" if self.needed else "not needed"


def status(checks: Iterable[Check]) -> int:
    """Return the exit status: 0 if nothing is missing, else 1."""
    return int(not all(check.ok for check in checks))


def table(checks: Sequence[Check]) -> str:
    """Return the rows as text, remedies on lines of their own. Only a long word makes a line longer than 80 columns."""
    name_width = max([len("CHECK"), *(len(check.name) for check in checks)])
    rows = [Check("CHECK", True, "DETAIL -> REMEDY"), *checks]
    lines = []
    for number, check in enumerate(rows):
        head = f"{check.name:<{name_width}}  {check.state if number else 'STATE':<10}  "
        indent = " " * len(head)
        lines += _wrapped(check.detail, head, indent)
        if check.remedy:
            lines += _wrapped(check.remedy, indent + "-> ", indent + "   ")
    return "\n".join(lines) + "\n"


def _wrapped(text: str, head: str, indent: str) -> list[str]:
    # The text may come from a compiler or a file. It becomes one paragraph without control characters.
    words = "".join(c if c.isprintable() else " " for c in text[:2000])
    return textwrap.wrap(words, 80, initial_indent=head, subsequent_indent=indent, break_long_words=False,
                         break_on_hyphens=False) or [head.rstrip()]  # fmt: skip


def exists(path: Path) -> bool:
    """Return True if the path exists and this process can access it.

    Without access, Path.exists() raises PermissionError up to Python 3.13.
    """
    try:
        path.stat()
    except OSError:
        return False
    return True
