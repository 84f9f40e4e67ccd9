"""Histograms and bars as SVG. They have no styles of their own: the CSP allows only the style sheet of the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

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


def bar(part: float, split: Sequence[tuple[str, float]] = ()) -> str:
    """A bar that is `part` (0 to 1) full.

    `split` has parts of it from left to right, each with the class of its colour. The rest then has the class r.
    Screen readers skip the bar, because numbers near it have the same values.
    """
    paths, at, end = "", 0, min(200, round(part * 200))
    done = 0.0
    for name, its_part in split:
        done += its_part
        until = min(end, round(done * 200))
        if until > at:
            paths += f'<path class={name} d="M{at} .5h{until - at}"/>'
            at = until
    if end > at or not paths:
        paths += f'<path{" class=r" if split else ""} d="M{at} .5h{end - at}"/>'
    return f'<svg class=bar aria-hidden=true viewBox="0 0 200 1" preserveAspectRatio=none>{paths}</svg>'
