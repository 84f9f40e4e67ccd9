"""Metric families as plain values, before any of the wire formats: what metrics.py makes and exposition/ renders."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Union

SCHEMA = 2
"""Native histogram schema: four buckets an octave, bounds 2^(k/4)."""

FIRST_BOUND = -92
"""k of the first finite bound: bucket 0 is everything up to 2^(-92/4) = 2^-23 seconds."""

BUCKETS = 142
"""Of a histogram: at most 2^-23 s, 140 with the bounds 2^((FIRST_BOUND + i) / 4) s, more than 2^12 s."""


class Histogram(NamedTuple):
    """Counts of BUCKETS buckets, not cumulated, and the sum of what was observed."""

    counts: Sequence[int]
    sum_seconds: float


Value = Union[int, float, Histogram]


class Family(NamedTuple):
    """One metric with all its series: (label values, value) pairs, each label set once."""

    name: str
    kind: str
    """counter (its name ends in _total), gauge or histogram."""
    help: str
    labels: tuple[str, ...]
    samples: Sequence[tuple[tuple[str, ...], Value]]
