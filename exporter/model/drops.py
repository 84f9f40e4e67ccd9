"""What was not counted, and what an operator can do about it: for people; the same counters are on /metrics."""

from __future__ import annotations

from collections.abc import Mapping

_NOT_COUNTED = {
    "dropped_no_slot": "exits were not counted: no room for their vCPU (raise limits.vcpus)",
    "dropped_no_cell": "exits were not counted: no room for their reason (raise limits.cells)",
    "dropped_chain_full": "exits were not counted: their vCPU has too many reasons of one hash; please report it",
    "missed_kvm_exit": "exits were not counted: their CPU was in a BPF program already",
    "expired_early": "vCPUs that ended may be missing: too many did",
}


def not_counted(counters: Mapping[str, int]) -> list[str]:
    """A sentence for each of a Reading's counters of what is missing, and moved."""
    return [f"{counters[name]} {what}" for name, what in _NOT_COUNTED.items() if counters.get(name)]
