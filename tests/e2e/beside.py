"""perf beside the exporter: it must count each event, although the exporter's programs are attached too."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from checks import Checks
from oracle import Oracle

from tests.support.perf import PerfCounter


class Perf:
    """Counts events of all CPUs from its creation on."""

    def __init__(self) -> None:
        self._exits, self._userspace_exits = PerfCounter("kvm/kvm_exit"), PerfCounter("kvm/kvm_userspace_exit")

    def compare(self, checks: Checks, oracle: Oracle) -> None:
        """Check that perf has counted as many events as the oracle. No guest may run."""
        for counter, name, counts in (
            (self._exits, "kvm_exit", oracle.exits()),
            (self._userspace_exits, "kvm_userspace_exit", oracle.userspace_exits()),
        ):
            total = sum(count for by_reason in counts.values() for count in by_reason.values())
            checks.equal(f"{name} events that perf counted", counter.count(), total)
            print(f"perf counted {counter.count()} of {total} {name} events", flush=True)
