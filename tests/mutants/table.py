"""All changes, in the order of the program's parts."""

from __future__ import annotations

from tests.mutants import (
    buckets,
    collecting,
    counting,
    fronts,
    lookups,
    missed_ends,
    parts,
    reading,
    shares,
    time_split,
)

CHANGES = (
    *lookups.CHANGES,
    *counting.CHANGES,
    *buckets.CHANGES,
    *fronts.CHANGES,
    *reading.CHANGES,
    *collecting.CHANGES,
    *missed_ends.CHANGES,
    *shares.CHANGES,
    *parts.CHANGES,
    *time_split.CHANGES,
)
