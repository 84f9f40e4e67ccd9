"""A guest whose last VM entries fail without an exit (VMfail of Intel): its vCPU must not stay "in the guest"."""

from __future__ import annotations

import time

import workload
from compare import Comparison
from page import Page
from vms import ExactGuest, identity

SECONDS = 2


def compare(comparison: Comparison, with_exporter: bool) -> None:
    """Run the guest. While it is parked, its guest time must not grow between two scrapes."""
    guest = ExactGuest(identity("failing"), *workload.FAILING)
    guest.wait_parked()
    page = Page.settled() if with_exporter else None
    comparison.parked("after failed entries", guest, page, in_exit=False)
    if page:
        time.sleep(SECONDS)
        name, pid = "kvm_vcpu_guest_seconds_total", guest.pid
        what = f"failing: guest seconds {SECONDS} s after the failed entries"
        comparison.checks.equal(what, Page().select(name, pid=pid), page.select(name, pid=pid))
    guest.end()
    if page:
        comparison.ended(guest, Page.settled(), in_exit=False)
