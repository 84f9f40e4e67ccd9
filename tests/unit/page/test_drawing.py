"""Durations are drawn as bars and written as text."""

from __future__ import annotations

from exporter.page.drawing import bars, duration


def test_each_bar_is_an_octave_and_its_height_is_rounded_up() -> None:
    assert bars({}) == ""
    assert bars({0: 1, 12: 1, 13: 4, 17: 1_000_000, 141: 500_000}) == "M0 0v-1M1 0v-9M23 0v-5"


def test_durations_have_a_space_before_the_unit() -> None:
    assert [duration(ns) for ns in (None, 119, 1234, 17_200_000_000)] == [
        "–",
        "119\u00a0ns",
        "1.23\u00a0µs",
        "17.2\u00a0s",
    ]
