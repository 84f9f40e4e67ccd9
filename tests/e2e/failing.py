"""A guest whose last VM entry fails without an exit (VMfail of Intel): its vCPU must not stay "in the guest"."""

from __future__ import annotations

import time

import workload
from compare import Comparison
from page import Page
from vms import ExactGuest, identity

SECONDS = 2


def compare(comparison: Comparison, with_exporter: bool) -> None:
    """Run the guest twice. Between two scrapes while it is parked, its guest time must not grow."""
    guest = ExactGuest(identity("failing"), *workload.FAILING)
    for when in ("after failed entries", "after more of them"):
        if guest.vcpus:
            guest.again()
        guest.wait_parked()
        page = Page.settled() if with_exporter else None
        comparison.parked(when, guest, page, in_exit=False)
        if page:
            time.sleep(SECONDS)
            name, pid = "kvm_vcpu_guest_seconds_total", guest.pid
            growth = f"failing vCPU {when}: guest seconds {SECONDS} s later"
            comparison.checks.equal(growth, Page().select(name, pid=pid), page.select(name, pid=pid))
    guest.end()
    if with_exporter:
        comparison.ended(guest, Page.settled(), in_exit=False)
