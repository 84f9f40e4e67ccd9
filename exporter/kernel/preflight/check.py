"""A row, and the table of them."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Check:
    """One row. A thing that is not needed is ok, present or not."""

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
    """The exit status: 0 if nothing is missing, else 1."""
    return int(not all(check.ok for check in checks))


def table(checks: Sequence[Check]) -> str:
    """The rows as text of at most 80 columns where the words allow it, remedies on lines of their own."""
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
    # Words of a compiler or of a file: one paragraph, nothing that acts on a terminal.
    words = "".join(c if c.isprintable() else " " for c in text[:2000])
    return textwrap.wrap(words, 80, initial_indent=head, subsequent_indent=indent, break_long_words=False,
                         break_on_hyphens=False) or [head.rstrip()]  # fmt: skip


def exists(path: Path) -> bool:
    """Whether it is there; what may not be looked at is not. Path.exists() raises there, up to Python 3.13."""
    try:
        path.stat()
    except OSError:
        return False
    return True
