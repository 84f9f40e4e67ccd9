"""Returns to the VMM for which the kernel skipped the exporter's program. Each of them must be counted as dropped.

Linux 7.1 and newer can preempt a BPF program on kvm_userspace_exit. Until the program goes on, the kernel skips it for
the other vCPUs on that CPU. The kernel counts these events, but does not say to which vCPUs they belong. KVM disables
preemption where kvm_exit and kvm_entry fire, so no exit may be skipped.
"""

from __future__ import annotations

from checks import Checks
from oracle import Counts
from page import Page

NAME, DROPPED = "kvm_userspace_exits_total", "kvm_exit_exporter_dropped_userspace_exits_total"
CAUSE = "recursion"


class Skipped:
    """What one exporter has skipped: by thread, as of the last comparison of that thread."""

    def __init__(self, checks: Checks) -> None:
        self._checks = checks
        self._of_thread: dict[int, int] = {}

    def compare(self, what: str, page: Page, seen: dict[str, int], **labels: int) -> dict[str, int]:
        """Compare the counts of a thread with the oracle's; return how many of them the kernel skipped, by reason.

        The counts must be equal if the kernel skipped nothing. Otherwise none may be higher than the oracle's, and all
        threads together may not lack more than the kernel skipped.
        """
        served = page.by("reason", NAME, **labels)
        lacking = {reason: seen.get(reason, 0) - int(served.get(reason, 0)) for reason in {*seen, *served}}
        lacking = {reason: count for reason, count in lacking.items() if count}
        self._of_thread[labels["tid"]] = sum(lacking.values())
        most = count(page)
        if most:
            self._checks.true(f"{what}: {NAME} and the oracle", min(lacking.values(), default=0) >= 0, lacking)
            self._checks.between(f"{what}: returns that all threads lack", 0, self.total(), most)
        else:
            self._checks.equal(f"{what}: {NAME} and the oracle", served, seen)
        return lacking

    def total(self) -> int:
        """Return how many returns to the VMM all threads lack."""
        return sum(self._of_thread.values())

    def compare_total(self, page: Page, oracle: Counts) -> int:
        """Check that the kernel skipped exactly what the threads lack, when all were compared; return the number."""
        self._checks.equal("threads that were not compared", set(oracle) - set(self._of_thread), set())
        dropped = {cause: value for cause, value in page.by("cause", DROPPED).items() if value}
        self._checks.equal("dropped returns to the VMM", dropped, {CAUSE: self.total()} if self.total() else {})
        return self.total()


def count(page: Page) -> int:
    """Return how many returns to the VMM the kernel has skipped."""
    return int(page.by("cause", DROPPED)[CAUSE])
