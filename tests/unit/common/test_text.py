"""Numbers are shortened to short texts. Text is escaped so that it is safe to print."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.common import text


@pytest.mark.parametrize(
    ("ns", "shown"),
    [
        (None, "-"),
        (0, "0ns"),
        (119, "119ns"),
        (999, "999ns"),
        (1000, "1.00us"),
        (9994, "9.99us"),
        (9996, "10.0us"),
        (99_949, "99.9us"),
        (99_960, "100us"),
        (999_499, "999us"),
        (999_501, "1.00ms"),
        (17_200_000_000, "17.2s"),
        (999_000_000_000, "999s"),
        (4096 * 10**9, "4096s"),
        (99_999 * 10**9, "99999s"),
        (864_000 * 10**9, "10d"),
    ],
)
def test_times_are_shortened(ns: int | None, shown: str) -> None:
    assert text.seconds(ns) == shown


@given(st.integers(0, 2**62))
def test_a_shortened_time_has_at_most_six_characters_and_a_count_at_most_five(ns: int) -> None:
    assert len(text.seconds(ns)) <= 6
    assert len(text.count(ns / 7)) <= 5


@pytest.mark.parametrize(("value", "shown"), [(0, "0"), (7, "7"), (0.25, "0.25"), (12.34, "12.3"), (1234567, "1.23M")])
def test_counts_are_shortened(value: float, shown: str) -> None:
    assert text.count(value) == shown


def test_unprintable_characters_are_escaped() -> None:
    hostile = "a\x1b\x9b\u202e\u0301\ud800\x7f\u00e9"
    assert text.printable(hostile) == "a\\x1b\\x9b\\u202e\\u0301\\ud800\\x7f\u00e9"
