"""Text on a screen: bars are drawn, and strings are padded to a width."""

from __future__ import annotations

from exporter.terminal import text


def test_a_sparkline_has_a_bar_for_each_octave() -> None:
    """With 24 columns, each bar is one octave. Bucket 12 ends at 2^-20 s, and bucket 108 at 2^4 s."""
    assert text.sparkline({}, 24) == " " * 24
    assert text.sparkline({12: 1}, 24) == text.sparkline({0: 1}, 24) == "█" + " " * 23
    assert text.sparkline({13: 1, 16: 1}, 24) == "█" + " " * 23
    assert text.sparkline({17: 8, 20: 8}, 24) == " █" + " " * 22
    assert text.sparkline({108: 1}, 24) == text.sparkline({141: 1}, 24) == " " * 23 + "█"
    assert text.sparkline({13: 1_000_000, 17: 1, 21: 500_000}, 24) == "█▁▄" + " " * 21
    assert text.sparkline({13: 1, 25: 1}, 8, text.ASCII_BLOCKS) == "##" + " " * 6


def test_wide_letters_are_cut_and_padded_to_the_width_in_columns() -> None:
    assert text.left("\u4ed9\u4eba", 3) == "\u4ed9 "
    assert text.right("\u4ed9\u4eba", 3) == " \u4ed9"
