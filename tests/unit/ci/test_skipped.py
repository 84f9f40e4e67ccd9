"""The comparison of tests/e2e with what the kernel skipped (tests/e2e/skipped.py) is exact."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from tests.support.paths import ROOT

Compared = Callable[..., list[str]]
NAME, DROPPED = "kvm_userspace_exits_total", "kvm_exit_exporter_dropped_userspace_exits_total"
SEEN = {11: {"KVM_EXIT_IO": 101, "restart": 7}, 13: {"KVM_EXIT_IO": 53}}
ALL = {11: {"KVM_EXIT_IO": 101.0, "restart": 7.0}, 13: {"KVM_EXIT_IO": 53.0}}


class _Page:
    def __init__(self, served: Mapping[int, Mapping[str, float]], dropped: Mapping[str, float]) -> None:
        self._served, self._dropped = served, dropped

    def by(self, label: str, name: str, **labels: int) -> Mapping[str, float]:
        assert (label, name) in {("reason", NAME), ("cause", DROPPED)}
        return self._served[labels["tid"]] if name == NAME else self._dropped


@pytest.fixture
def compared(monkeypatch: pytest.MonkeyPatch) -> Compared:
    """Return a function that compares all threads and the total, and returns the failed checks."""
    monkeypatch.syspath_prepend(ROOT / "tests/e2e")
    checks_of, skipped = importlib.import_module("checks"), importlib.import_module("skipped")

    def compare(
        served: Mapping[int, Any], recursion: int, seen: Mapping[int, Any] = SEEN, **others: float
    ) -> list[str]:
        checks = checks_of.Checks()
        page = _Page(served, {"no_slot": 0.0, "recursion": float(recursion), **others})
        under_test = skipped.Skipped(checks)
        for tid in served:
            under_test.compare(str(tid), page, seen[tid], tid=tid)
        under_test.compare_total(page, seen)
        failures: list[str] = checks.failures
        return failures

    return compare


LACKS_5 = {11: {"KVM_EXIT_IO": 98.0, "restart": 6.0}, 13: {"KVM_EXIT_IO": 52.0}}
ONE_MORE = {11: {"KVM_EXIT_IO": 97.0, "restart": 8.0}, 13: {"KVM_EXIT_IO": 51.0}}
UNKNOWN = {11: {"KVM_EXIT_IO": 100.0, "restart": 7.0, "KVM_EXIT_MMIO": 1.0}, 13: {"KVM_EXIT_IO": 51.0}}
TOTAL = "dropped returns to the VMM"


def test_equal_counts_pass_if_nothing_was_skipped(compared: Compared) -> None:
    assert compared(ALL, 0) == []


def test_counts_pass_that_lack_exactly_what_was_skipped(compared: Compared) -> None:
    assert compared(LACKS_5, 5) == []
    whole_reason = {11: {"KVM_EXIT_IO": 101.0}, 13: {"KVM_EXIT_IO": 53.0}}
    assert compared(whole_reason, 7) == []


@pytest.mark.parametrize(
    ("served", "recursion", "failed"),
    [
        (LACKS_5, 0, [f"11: {NAME} and the oracle", f"13: {NAME} and the oracle", TOTAL]),
        (LACKS_5, 4, ["13: returns that all threads lack", TOTAL]),
        (LACKS_5, 6, [TOTAL]),
        (ALL, 1, [TOTAL]),
        (ONE_MORE, 5, [f"11: {NAME} and the oracle"]),
        (UNKNOWN, 2, [f"11: {NAME} and the oracle"]),
    ],
    ids=["none skipped", "more", "fewer", "all served", "one too many", "unknown reason"],
)
def test_other_counts_fail(compared: Compared, served: Mapping[int, Any], recursion: int, failed: list[str]) -> None:
    assert compared(served, recursion) == failed


def test_another_cause_fails(compared: Compared) -> None:
    assert compared(ALL, 0, no_cell=1.0) == [TOTAL]


def test_a_thread_that_was_not_compared_fails(compared: Compared) -> None:
    assert compared({11: ALL[11]}, 0) == ["threads that were not compared"]
