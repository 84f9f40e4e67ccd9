"""The table of drops has all counters of the program, and each cause has a sentence."""

from __future__ import annotations

import re

from exporter.model.drops import DROPS, UNMATCHED, newly_dropped, not_counted
from tests.support.paths import ROOT


def test_the_table_has_every_counter_of_the_program() -> None:
    sources = "".join(path.read_text() for path in sorted((ROOT / "exporter/kernel/bpf").rglob("*.bpf.*")))
    counted = set(re.findall(r"\t(?:COUNT|DROP|DROP_USERSPACE)\((\w+)\);", sources))
    assert counted == {
        *(drop.counter for drop in DROPS),
        *(drop.userspace_counter for drop in DROPS),
        *UNMATCHED.values(),
    }


def test_a_drop_is_reported_once_when_its_counter_is_above_0() -> None:
    known: set[str] = set()
    counters = {"dropped_no_slot": 0, "dropped_no_cell": 7, "dropped_userspace_no_cell": 3, "unmatched_exit": 5}
    found = [(drop.cause, metric) for drop, metric in newly_dropped(counters, known)]
    assert found == [("no_cell", "dropped_exits_total"), ("no_cell", "dropped_userspace_exits_total")]
    assert list(newly_dropped(counters, known)) == []
    later = [(drop.cause, metric) for drop, metric in newly_dropped({**counters, "dropped_no_slot": 1}, known)]
    assert later == [("no_slot", "dropped_exits_total")]


def test_each_cause_with_a_count_gives_one_sentence() -> None:
    assert not_counted({}) == []
    assert not_counted({"dropped_no_slot": 0, "missed_kvm_exit": 0, "expired_early": 0}) == []
    assert not_counted(
        {
            "dropped_no_slot": 3,
            "dropped_no_cell": 5,
            "dropped_chain_full": 7,
            "missed_kvm_exit": 11,
            "expired_early": 13,
            "unmatched_exit": 17,
        }
    ) == [
        "3 exits were not counted: no room for their vCPU (raise limits.vcpus and restart)",
        "5 exits were not counted: no room for their reason (raise limits.cells and restart)",
        "7 exits were not counted: their vCPU has more than eight reasons with one hash (please report it)",
        "11 exits were not counted: their CPU was in a BPF program already",
        "13 ended vCPUs may be missing: too many vCPUs ended",
    ]
