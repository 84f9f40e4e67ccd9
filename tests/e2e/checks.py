"""Assertions that do not stop the run: each failure is printed at once, passed checks are counted."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Checks:
    """The number of passed checks, and the failed ones."""

    passed: int = 0
    failures: list[str] = field(default_factory=list)

    def true(self, what: str, holds: bool, detail: object = "") -> None:
        if holds:
            self.passed += 1
            return
        self.failures.append(what)
        print(f"FAILED: {what}" + (f": {detail}" if detail != "" else ""), flush=True)

    def equal(self, what: str, actual: object, expected: object) -> None:
        self.true(what, actual == expected, f"is {actual!r}, expected {expected!r}")

    def between(self, what: str, low: float, value: float, high: float) -> None:
        self.true(what, low <= value <= high, f"{value:.6f} is not between {low:.6f} and {high:.6f}")

    def summary(self) -> str:
        return f"{self.passed} passed, {len(self.failures)} failed"
