"""Numbers and durations as Go reads them. tests/web/toolkit_values.py has the values that exporter-toolkit takes."""

from __future__ import annotations

import pytest

from exporter.web import go_yaml

LONG = "9" * 100_000


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "is not a duration"),
        ("-", "is not a duration"),
        ("1d", "is not a duration"),
        ("1s x", "is not a duration"),
        ("1", r"has no unit \(one second is 1s\)"),
        ("1h30", r"has no unit \(one second is 1s\)"),
        (".5", r"has no unit \(one second is 1s\)"),
        ("9223372037s", "is out of range"),  # 2**63 ns are 9223372036.9 s
        (LONG + "s", "is not a duration"),
        ("1٣s", "is not a duration"),
    ],
)
def test_other_texts_are_not_durations(text: str, problem: str) -> None:
    with pytest.raises(ValueError, match=f"^{problem}$"):
        go_yaml.duration(text)


def test_a_duration_has_the_precision_of_go() -> None:
    """A part of a nanosecond is dropped from each number."""
    assert go_yaml.duration("9223372036s") == 9223372036.0
    assert go_yaml.duration("1.9ns0.9ns") == 1e-9
    assert go_yaml.duration("-1h1ms") == -3600.001


@pytest.mark.parametrize("text", [LONG, "-" + LONG, "0x" + "f" * 16, "1e400", "1e19", "many", ""])
def test_other_texts_are_not_whole_numbers(text: str) -> None:
    with pytest.raises(ValueError, match=r"^is out of range$"):
        go_yaml.integer(text)


def test_whole_numbers_have_64_bits() -> None:
    assert go_yaml.integer("0x7fff_ffff_ffff_ffff") == (1 << 63) - 1
    assert go_yaml.integer("-0b" + "1" * 63) == -(1 << 63) + 1
    assert go_yaml.integer("-010") == -8
    assert go_yaml.integer("00") == 0
