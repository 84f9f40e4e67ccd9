"""Metric families before they get a wire format: kvm.py makes them, exposition/ renders them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple, Union

from exporter.metrics.series import Series


class CounterFamily(NamedTuple):
    """A counter of exits: the exits of each series."""

    name: str
    help: str
    labels: tuple[str, ...]
    series: Collection[Series]


class HistogramFamily(NamedTuple):
    """A histogram of durations. Its series can be the same objects as those of a CounterFamily."""

    name: str
    help: str
    labels: tuple[str, ...]
    series: Collection[Series]


class PlainFamily(NamedTuple):
    """A counter or gauge with few series: (label values, value) pairs, each label set once."""

    name: str
    kind: str
    help: str
    labels: tuple[str, ...]
    samples: Sequence[tuple[tuple[str, ...], float]]


Family = Union[CounterFamily, HistogramFamily, PlainFamily]
