"""A second exporter with very small pools: it must count every dropped exit."""

from __future__ import annotations

import time

import workload
from compare import Comparison
from oracle import Oracle
from page import Page
from service import Service
from skipped import CAUSE, count
from vms import ExactGuest, identity

ROOM = len(workload.CROWD) - 1
CONFIGURATION = f"""
limits: {{vcpus: {ROOM}, cells: 8}}
linger: 1s
collect_interval: 1s
log: {{format: json}}
"""
FORGOTTEN_SECONDS = 4  # after three collections the guest's end is known and linger is over


def tight(comparison: Comparison, oracle: Oracle) -> None:
    """Run a guest with one vCPU and some reasons too many. Then run a guest that fits."""
    checks = comparison.checks
    service = Service(CONFIGURATION)
    guest = ExactGuest(identity("crowd"), *({workload.SIMPLEST: number} for number in workload.CROWD))
    guest.wait_parked()
    page = Page.settled()
    _all_or_dropped(comparison, oracle, guest, page)
    skipped = count(page)
    guest.end()

    time.sleep(FORGOTTEN_SECONDS)
    page = Page()
    checks.equal("crowd: series after linger", page.select("kvm_exits_total", pid=guest.pid), [])
    for name in ("tracked_vcpus", "cells_in_use"):
        checks.equal(f"crowd: {name} after linger", page.select(f"kvm_exit_exporter_{name}"), [({}, 0.0)])

    guest = ExactGuest(identity("next"), {workload.SIMPLEST: 113})
    guest.wait_parked()
    page = Page.settled()
    comparison.parked("after the crowd", guest, page)
    checks.equal("returns to the VMM that the kernel skipped", count(page), skipped + comparison.skipped.total())
    comparison.skipped_by_all += comparison.skipped.total()
    guest.end()
    checks.equal("exit status of the second exporter", service.stop(), 0)
    checks.equal("errors in the log of the second exporter", service.errors(), [])


def _all_or_dropped(comparison: Comparison, oracle: Oracle, guest: ExactGuest, page: Page) -> None:
    equal = comparison.checks.equal
    tids = {vcpu.tid for vcpu in guest.vcpus}
    known = {int(labels["tid"]) for labels, _ in page.select("kvm_vcpu_guest_seconds_total", pid=guest.pid)}
    equal("crowd: vCPUs with a slot", (len(known), known <= tids), (ROOM, True))
    for kind, counts in (("", oracle.exits()), ("userspace_", oracle.userspace_exits())):
        name = f"kvm_{kind}exits_total"
        served = {tid: page.by("reason", name, tid=tid) for tid in tids}
        counted = sum(sum(reasons.values()) for reasons in served.values())
        total = sum(sum(counts[tid].values()) for tid in tids)
        dropped = page.by("cause", f"kvm_exit_exporter_dropped_{kind}exits_total")
        skipped = dropped[CAUSE] if kind else 0
        # A reason gets a cell at its first exit or never, so every served count is complete.
        for tid, reasons in served.items():
            complete = {reason: counts[tid].get(reason, 0) for reason in reasons}
            if skipped:
                complete = {reason: min(most, int(reasons[reason])) for reason, most in complete.items()}
            equal(f"crowd: {name} of {tid}, reasons with a cell", reasons, complete)
        expected = {
            "no_slot": sum(sum(counts[tid].values()) for tid in tids - known),
            "no_cell": sum(sum(counts[tid].values()) - sum(served[tid].values()) for tid in known),
        }
        if skipped:  # it is not known which vCPUs lack them
            expected = {cause: min(most, int(dropped[cause])) for cause, most in expected.items()}
            expected[CAUSE] = total - counted - sum(expected.values())
        causes = {cause: value for cause, value in dropped.items() if value or cause in expected}
        equal(f"crowd: dropped_{kind}exits_total", causes, expected)
        print(f"{name} with small pools: {total} seen, {counted:.0f} counted, dropped {causes}", flush=True)
