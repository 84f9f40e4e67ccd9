"""A snapshot for tests of the exporter's own metrics. Each counter has a different value."""

from __future__ import annotations

from exporter.metrics.own import VmDrops
from exporter.metrics.web import WebStatus
from exporter.model.records import ProcessDrops, RunStats, Snapshot
from exporter.model.vm import Vm
from exporter.web.counts import CAUSES
from exporter.web.response import REASON_PHRASES

COUNTERS = [
    *(f"dropped_{cause}" for cause in ("no_slot", "no_cell", "chain_full")),
    *(f"dropped_userspace_{cause}" for cause in ("no_slot", "no_cell", "chain_full")),
    *(f"unmatched_{event}" for event in ("exit", "entry", "userspace_exit")),
]
WEB = WebStatus(
    responses={status: 2**40 + 3 * status for status in REASON_PHRASES},
    closed={cause: 2**41 + 5 * number for number, cause in enumerate(CAUSES)},
    connections={"new": 11, "no_body": 13, "idle": 17, "busy": 19},
)
PROGRAMS = ["kvm_exit", "kvm_entry", "kvm_userspace_exit", "sched_process_exit"]
DROPPED = (
    VmDrops(Vm(100, "web-1", "", "qemu"), ProcessDrops(101, 103)),
    VmDrops(Vm(200, "200", "", "unknown"), ProcessDrops(0, 107)),
)
SNAPSHOT = Snapshot(
    vcpus=[],
    counters={name: 2**53 + 2 * number for number, name in enumerate(COUNTERS)},
    runs={name: RunStats(0.1 + number, 7 + number, number) for number, name in enumerate(PROGRAMS)},
    slots=4096,
    slots_in_use=3,
    cells=16384,
    cells_in_use=30,
)
