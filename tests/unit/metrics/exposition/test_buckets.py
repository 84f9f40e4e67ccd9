"""The kernel's buckets become classic bounds and native spans."""

from __future__ import annotations

import math
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.config.options import Classic
from exporter.metrics.exposition.buckets import ClassicBounds, nonzero, spans
from exporter.model.buckets import ZERO_THRESHOLD
from tests.support.exits import BUCKETS, observations

FACTORS = [2, 4, 16]
US = st.integers(1, 3_600_000_000)  # the range that the configuration allows: 1us to 1h
RANGES = st.tuples(US, US).filter(lambda pair: pair[0] < pair[1]).map(lambda pair: (pair[0] / 1e6, pair[1] / 1e6))
COUNTS = observations(2**63 - 1).map(lambda found: tuple(found.get(number, 0) for number in range(BUCKETS)))


def packed(counts: tuple[int, ...]) -> bytes:
    return struct.pack(f"={BUCKETS}Q", *counts)


def test_the_default_bounds_are_every_second_octave() -> None:
    """They reach from 2^-20 s, about a microsecond, to 16 s."""
    assert ClassicBounds.of(Classic()).bounds == tuple(2.0**octave for octave in range(-20, 5, 2))


@pytest.mark.parametrize(
    ("factor", "least", "most", "octaves"),
    [
        (2, 1e-6, 3600.0, range(-20, 13)),
        (4, 1e-6, 3600.0, range(-20, 13, 2)),
        (16, 1e-6, 3600.0, range(-20, 13, 4)),
        (2, 0.25, 1.0, range(-2, 1)),  # if an end is on the grid, it is a bound
        (2, 0.251, 1.001, range(-2, 2)),  # if an end is not on the grid, the next bound outside is used
        (4, 0.5, 2.0, (-2, 0, 2)),
        (16, 0.3, 0.4, (-4, 0)),
        (16, 1.0, 1.000001, (0, 4)),
    ],
)
def test_the_bounds_enclose_the_range(factor: int, least: float, most: float, octaves: range) -> None:
    assert ClassicBounds.of(Classic(factor, least, most)).bounds == tuple(2.0**octave for octave in octaves)


@pytest.mark.parametrize("factor", FACTORS)
@given(RANGES)
def test_the_bounds_are_powers_of_two_and_enclose_any_range(factor: int, ends: tuple[float, float]) -> None:
    least, most = ends
    bounds = ClassicBounds.of(Classic(factor, least, most)).bounds
    assert all(math.frexp(bound)[0] == 0.5 for bound in bounds)
    assert {after / before for before, after in zip(bounds, bounds[1:])} == {float(factor)}
    assert bounds[0] <= least < bounds[1]
    assert bounds[-2] < most <= bounds[-1]


@pytest.mark.parametrize("factor", FACTORS)
@given(RANGES, COUNTS)
def test_the_cumulative_counts_are_sums_of_the_native_buckets(
    factor: int, ends: tuple[float, float], counts: tuple[int, ...]
) -> None:
    classic = ClassicBounds.of(Classic(factor, *ends))
    upper = [2.0 ** ((number - 92) / 4) for number in range(BUCKETS - 1)]
    expected = [sum(count for end, count in zip(upper, counts) if end <= bound) for bound in classic.bounds]
    assert list(classic.cumulate(packed(counts))) == [*expected, sum(counts)]


@given(RANGES)
def test_the_bounds_of_a_larger_factor_are_among_those_of_a_smaller_factor(ends: tuple[float, float]) -> None:
    """Therefore Prometheus can sum by `le` after a change of factor, or over hosts with different factors.

    Only the outermost bounds may differ: if an end of the range is not on the coarse grid, the coarse bound lies
    further outside.
    """
    two, four, sixteen = (ClassicBounds.of(Classic(factor, *ends)).bounds for factor in FACTORS)
    for coarse, fine in ((four, two), (sixteen, four)):
        assert set(coarse[1:-1]) <= set(fine)
        inside = {bound for bound in coarse if fine[0] <= bound <= fine[-1]}
        assert inside <= set(fine)
        assert coarse[0] <= fine[0]
        assert fine[-1] <= coarse[-1]


def test_the_ends_of_the_default_range_are_on_every_grid() -> None:
    """Therefore all bounds of a larger factor are among those of a smaller factor."""
    two, four, sixteen = (set(ClassicBounds.of(Classic(factor)).bounds) for factor in FACTORS)
    assert sixteen < four < two
    assert (len(sixteen), len(four), len(two)) == (7, 13, 25)


@given(COUNTS)
def test_nonzero_removes_empty_buckets_at_both_ends(counts: tuple[int, ...]) -> None:
    first, found = nonzero(packed(counts))
    if any(counts):
        assert found[0]
        assert found[-1]
        assert (*[0] * first, *found, *[0] * (BUCKETS - first - len(found))) == counts
    else:
        assert (first, list(found)) == (0, [])


@pytest.mark.parametrize("count", [1, 255, 256, 1 << 32, 1 << 56, (1 << 64) - 1])
@pytest.mark.parametrize("number", [0, 1, 70, 140, 141])
def test_nonzero_finds_a_bucket_whose_count_has_zero_bytes(count: int, number: int) -> None:
    counts = tuple(count if other == number else 0 for other in range(BUCKETS))
    first, found = nonzero(packed(counts))
    assert (first, list(found)) == (number, [count])


@given(COUNTS)
def test_the_spans_have_every_count_at_its_native_index(counts: tuple[int, ...]) -> None:
    """Each span starts and ends with a count above 0. At least three empty buckets lie between two spans."""
    found = spans(1, list(counts[1:]))
    filled = {index + at: count for index, span in found for at, count in enumerate(span) if count}
    assert filled == {number - 92: count for number, count in enumerate(counts) if number and count}
    assert all(span[0] and span[-1] for _, span in found)
    for (index, span), (following, _) in zip(found, found[1:]):
        assert following - (index + len(span)) > 2  # two empty buckets inside a span take fewer bytes than a new span


def test_the_zero_threshold_is_the_bound_of_bucket_0() -> None:
    assert ZERO_THRESHOLD == 2.0**-23
