"""Rows of a difference as short tuples."""

from __future__ import annotations

from exporter.readings.difference import ReasonDifference
from exporter.readings.reading import nothing

NOTHING = nothing(0)


def shown(rows: list[ReasonDifference]) -> list[tuple[int, str, int]]:
    return [(row.tid, row.reason, row.exits) for row in rows]
