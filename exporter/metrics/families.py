"""Metric families before they get a wire format: kvm.py makes them, exposition/ renders them."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
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


class PartFamily(NamedTuple):
    """A counter of seconds: one part of the duration of each series' exits. A series without this part is left out."""

    name: str
    help: str
    labels: tuple[str, ...]
    part: str
    """Name of a member of TimeParts."""
    series: Collection[Series]

    def values(self) -> Iterator[tuple[Series, float]]:
        """Yield the series, each with its value in seconds."""
        for series in self.series:
            ns = getattr(series.parts(), self.part)
            if ns:
                yield series, ns / 1e9


class PlainFamily(NamedTuple):
    """A counter or gauge with few series: (label values, value) pairs, each label set once."""

    name: str
    kind: str
    help: str
    labels: tuple[str, ...]
    samples: Sequence[tuple[tuple[str, ...], float]]


Family = Union[CounterFamily, HistogramFamily, PartFamily, PlainFamily]
