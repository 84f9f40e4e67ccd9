"""Histograms and bars as SVG. Nothing here is styled by itself: the page's style sheet does that, as its CSP wants."""

from __future__ import annotations

from collections.abc import Mapping

from exporter.common import text as readable
from exporter.model.buckets import OCTAVES, octave_counts
from exporter.readings.difference import ReasonDifference

HEIGHT = 9
"""One digit: there may be a hundred histograms on a page."""


def words(ns: float | None) -> str:
    """A time as `1.23 µs`; a dash where there is none."""
    if ns is None:
        return "–"
    figure, unit = readable.time(ns)
    return f"{figure}\u00a0{unit.replace('us', 'µs')}"


def histogram(row: ReasonDifference) -> str:
    """Completed intervals by octave, 1 us to 16 s; what is longer or shorter is in the outermost bars."""
    said = f"{words(row.percentile_ns(1))} to {words(row.max_ns)}" if row.completed else "none has ended"
    return (
        f'<svg role=img viewBox="-.5 -{HEIGHT} {OCTAVES} {HEIGHT}" preserveAspectRatio=none><title>{said}</title>'
        f'<path d="{bars(row.buckets)}"/></svg>'
    )


def bars(buckets: Mapping[int, int]) -> str:
    """A vertical stroke for each octave that is not empty, the highest HEIGHT long, none shorter than one."""
    counts = octave_counts(buckets)
    most = max(counts)
    # Rounded up: one exit in a million still shows.
    return "".join(f"M{column} 0v-{-(-value * HEIGHT // most)}" for column, value in enumerate(counts) if value)


def bar(part: float) -> str:
    """A bar that is `part` (0 to 1) full; the figure beside it says the same."""
    return (
        '<svg class=bar aria-hidden=true viewBox="0 0 200 1" preserveAspectRatio=none>'
        f'<path d="M0 .5h{min(200, round(part * 200))}"/></svg>'
    )
