"""A reading of 4,096 vCPUs with hostile names."""

from __future__ import annotations

from exporter.model.buckets import BUCKETS
from exporter.model.records import TimeParts
from exporter.readings.reading import InProgress, Reading
from tests.support.readings import SECOND, counted, reading, thread

NAME = "<script>alert('\"&\u202e\ud800\U0001f4a5')</script><img src=x onerror=alert(1)>"


def crowd(parts: TimeParts | None = None) -> Reading:
    """Return 4,096 vCPUs of 64 VMs.

    Each vCPU is in an exit. It has twelve reasons, and each reason has counts in every bucket. Each reason has `parts`.
    """
    everywhere = {number: 10**12 + 7919 * number for number in range(BUCKETS)}
    held = InProgress("<b>" * 20, "sysreg", 5000 * SECOND)
    reasons = [
        counted(f"UNKNOWN_0x{code:08x}{NAME}", "hypercall<", 10**15, everywhere, 10**18, parts=parts)
        for code in range(12)
    ]
    return reading(
        10**6,
        *(
            thread(
                2**22 - number % 64, number + 1, *reasons, vm=f"{number % 64}{NAME}", vcpu=NAME, in_progress=held
            )._replace(vmm=NAME)
            for number in range(4096)
        ),
        counters={"dropped_no_slot": 2**63, "dropped_no_cell": 2**63, "missed_kvm_exit": 2**63, "expired_early": 2**63},
    )
