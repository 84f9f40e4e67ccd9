"""Causes for which no metric counts an event, or an event matches no earlier one, each with its counter and its remedy.

The BPF program counts them (struct counters in the C file). /metrics, the log, `top` and the page read this table.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple


class Drop(NamedTuple):
    """A cause of dropped exits. `why` and `remedy` are texts for the operator."""

    cause: str
    """The value of the label `cause`."""
    why: str
    remedy: str

    @property
    def counter(self) -> str:
        """The program's counter of dropped exits."""
        return f"dropped_{self.cause}"

    @property
    def userspace_counter(self) -> str:
        """The program's counter of dropped returns to the VMM."""
        return f"dropped_userspace_{self.cause}"


DROPS = (
    Drop("no_slot", "no room for their vCPU", "raise limits.vcpus and restart"),
    Drop("no_cell", "no room for their reason", "raise limits.cells and restart"),
    Drop("chain_full", "their vCPU has more than eight reasons with one hash", "please report it"),
)

RECURSION = "recursion"
"""Label of events that the kernel skipped, because the CPU was in a BPF program already. The kernel counts them."""

UNMATCHED = {
    "exit": "unmatched_exit",
    "entry": "unmatched_entry",
    "userspace_exit": "unmatched_userspace_exit",
}
"""The program's counters of events that contradict the state of their vCPU, by the label `kind`."""


def any_dropped(counters: Mapping[str, int]) -> bool:
    """True if the program has dropped an event."""
    return any(counters.get(drop.counter) or counters.get(drop.userspace_counter) for drop in DROPS)


def newly_dropped(counters: Mapping[str, int], known: set[str]) -> Iterator[tuple[Drop, str]]:
    """Yield each drop whose counter is above 0 and not in `known`, with its metric. Adds the counter to `known`."""
    for drop in DROPS:
        for counter, metric in (
            (drop.counter, "dropped_exits_total"),
            (drop.userspace_counter, "dropped_userspace_exits_total"),
        ):
            if counters.get(counter) and counter not in known:
                known.add(counter)
                yield drop, metric


def not_counted(counters: Mapping[str, int]) -> list[str]:
    """Return one sentence for each cause with a count above 0. `counters` are those of a Reading."""
    sentences = [
        f"{counters[drop.counter]} exits were not counted: {drop.why} ({drop.remedy})"
        for drop in DROPS
        if counters.get(drop.counter)
    ]
    if counters.get("missed_kvm_exit"):
        sentences.append(
            f"{counters['missed_kvm_exit']} exits were not counted: their CPU was in a BPF program already"
        )
    if counters.get("expired_early"):
        sentences.append(f"{counters['expired_early']} ended vCPUs may be missing: too many vCPUs ended")
    return sentences
