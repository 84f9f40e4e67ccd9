"""Histograms and bars as SVG. They have no styles of their own: the CSP allows only the style sheet of the page."""

from __future__ import annotations

from collections.abc import Mapping

from exporter.common import text
from exporter.model.buckets import OCTAVES, octave_counts
from exporter.readings.difference import ReasonDifference

HEIGHT = 9
"""Height of a histogram. One digit, to save bytes: a page may have a hundred histograms."""


def duration(ns: float | None) -> str:
    """A time as `1.23 µs`; a dash if there is none."""
    if ns is None:
        return "–"
    figure, unit = text.time(ns)
    return f"{figure}\u00a0{unit.replace('us', 'µs')}"


def histogram(row: ReasonDifference) -> str:
    """The completed intervals by octave, 1 us to 16 s. The outermost bars include all shorter and longer intervals."""
    title = f"{duration(row.percentile_ns(1))} to {duration(row.max_ns)}" if row.completed else "none is completed"
    return (
        f'<svg role=img viewBox="-.5 -{HEIGHT} {OCTAVES} {HEIGHT}" preserveAspectRatio=none><title>{title}</title>'
        f'<path d="{bars(row.buckets)}"/></svg>'
    )


def bars(buckets: Mapping[int, int]) -> str:
    """An SVG path with a vertical stroke for each octave that is not empty: the longest has HEIGHT, the shortest 1."""
    counts = octave_counts(buckets)
    most = max(counts)
    # Heights are rounded up, so that one exit in a million is still visible.
    return "".join(f"M{column} 0v-{-(-value * HEIGHT // most)}" for column, value in enumerate(counts) if value)


def bar(part: float) -> str:
    """A bar that is `part` (0 to 1) full.

    It is hidden from screen readers, because the number beside it has the same value.
    """
    return (
        '<svg class=bar aria-hidden=true viewBox="0 0 200 1" preserveAspectRatio=none>'
        f'<path d="M0 .5h{min(200, round(part * 200))}"/></svg>'
    )
