"""Some exits decide whether the raw kvm_exit is trusted."""

from __future__ import annotations

import pytest

from exporter.kernel.exit_check import Compared, ExitCheck, Verdict


@pytest.mark.parametrize(
    ("agreed", "differed", "verdict"),
    [
        (0, 0, Verdict.OPEN),
        (7, 0, Verdict.OPEN),
        (8, 0, Verdict.AGREES),
        (8, 7, Verdict.AGREES),
        (8, 8, Verdict.OPEN),
        (0, 7, Verdict.OPEN),
        (0, 8, Verdict.DIFFERS),
        (7, 8, Verdict.DIFFERS),
        (9, 8, Verdict.AGREES),
    ],
)
def test_the_majority_of_at_least_eight_exits_decides(agreed: int, differed: int, verdict: Verdict) -> None:
    assert Compared(agreed, differed, 0x30, 0xC).verdict is verdict


def test_the_difference_has_both_codes() -> None:
    difference = "an exit was read as 0x30, and its record has 0xc"
    assert Compared(0, 8, 0x30, 0xC).difference == difference


def test_without_descriptors_there_is_no_check() -> None:
    assert not ExitCheck({})
