"""The values that a page must have, computed from the records."""

from __future__ import annotations

import math
from itertools import accumulate

from hypothesis import strategies as st

from exporter.config.options import Classic, Level
from exporter.metrics.exposition.buckets import ClassicBounds
from exporter.metrics.kvm import GUEST, WAIT, Identified
from tests.support import exits, pages
from tests.support.exits import Labels, Name, Total

LEVELS = st.sampled_from(["vcpu", "vm", "off"])
LEVELS_OF_BOTH = st.builds(Level, LEVELS, LEVELS)
CLASSICS = st.sampled_from([Classic(), Classic(2, 1e-6, 3600.0), Classic(16, 0.5, 1.0)])


# Each family of series has a name, and True if it counts exits to the VMM.
COUNTERS = {"kvm_exits_total": False, "kvm_userspace_exits_total": True}
PARTS = {
    "kvm_exit_wait_seconds_total": ("wait", False),
    "kvm_exit_sleep_seconds_total": ("sleep", False),
    "kvm_userspace_exit_vmm_seconds_total": ("vmm", True),
    "kvm_userspace_exit_vmm_wait_seconds_total": ("wait", True),
    "kvm_userspace_exit_vmm_sleep_seconds_total": ("sleep", True),
}
HISTOGRAMS = {"kvm_exit_duration_seconds": False, "kvm_userspace_exit_duration_seconds": True}


def plain(vcpus: list[Identified], name: Name, level: Level) -> dict[str, dict[Labels, float]]:
    """Return the samples that the plain families must have."""
    found: dict[str, dict[Labels, float]] = {
        "kvm_vcpu_exit_in_progress_seconds": {
            (*exits.who(each, vcpu, "vcpu"), *name(each.in_progress.space, each.in_progress.code)): (
                each.in_progress.age_ns / 1e9
            )
            for each, vcpu in vcpus
            if each.in_progress
        },
        "kvm_vm_info": {(str(v.vm.pid), v.vm.name, v.vm.uuid, v.vm.vmm): 1.0 for _, v in vcpus},
    }
    for family, its_level in ((GUEST, level.counters), (WAIT, "off" if level.time == "off" else "vcpu")):
        if its_level != "off":
            sums = exits.total_of(family.member, vcpus, its_level)
            found[family.name] = {labels: count / 1e9 for labels, count in sums.items()}
    if level.time != "off":
        for name_of_family, (part, userspace) in PARTS.items():
            found[name_of_family] = exits.seconds_of(part, vcpus, level.time, name, userspace=userspace)
    return found


def wanted(vcpus: list[Identified], level: str, name: Name, kinds: dict[str, bool]) -> dict[str, dict[Labels, Total]]:
    if level == "off":
        return {}
    return {family: exits.totals(vcpus, level, name, userspace=userspace) for family, userspace in kinds.items()}


def as_text(total: Total, classic: Classic) -> pages.TextHistogram:
    """Return the lines that a histogram must have."""
    cumulated = list(accumulate(total.counts))
    bounds = [(repr(bound), math.log2(bound)) for bound in ClassicBounds.of(classic).bounds]
    buckets = [(text, str(cumulated[round(octave * 4) + 92])) for text, octave in bounds]
    return pages.TextHistogram([*buckets, ("+Inf", str(cumulated[-1]))], str(cumulated[-1]), repr(total.sum_ns / 1e9))
