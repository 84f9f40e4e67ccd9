"""The choices for the output of `top` and `replay`: its form, its filters and the order of its rows."""

from __future__ import annotations

from dataclasses import dataclass

from exporter.readings.grouping import Filters


@dataclass(frozen=True)
class Output:
    """Which numbers are printed, and in which form."""

    form: str
    """table, csv or json."""
    filters: Filters
    sort: str
    """One of readings.grouping.SORT_KEYS."""
    limit: int | None
    """Number of rows; None for all."""
    userspace: bool
    """True: returns to the VMM in place of exits."""
