"""Which vCPU of its VM a thread is."""

from __future__ import annotations

import re
from pathlib import Path

from exporter.model.records import VcpuRecord
from exporter.naming.cgroup import vcpu_of_thread
from exporter.naming.procfs import cgroup_paths

#: Whole comms: QEMU (accel/kvm/kvm-accel-ops.c), Firecracker (vstate/vcpu.rs), cloud-hypervisor
#: (vmm/src/cpu.rs), crosvm (vcpu.rs), kvmtool (builtin-run.c). A comm has 15 bytes (TASK_COMM_LEN); the
#: number of vCPUs that KVM allows fits in all of them.
_NUMBER = "(0|[1-9][0-9]{0,8})"
_COMM = re.compile(
    f"CPU {_NUMBER}/KVM|fc_vcpu {_NUMBER}|vcpu{_NUMBER}|crosvm_vcpu{_NUMBER}|kvm-vcpu-{_NUMBER}".encode()
)


def index_from_comm(comm: bytes, vcpu_id: int | None) -> str:
    """The index as the kernel's tracepoint or, where that has none, the thread's name gives it; else ""."""
    if vcpu_id is not None:
        return str(vcpu_id)
    match = _COMM.fullmatch(comm.split(b"\0", 1)[0])
    return match[match.lastindex or 0].decode() if match else ""


def nameable(record: VcpuRecord, *, vcpu_ids: bool) -> bool:
    """False for a vCPU whose index only its first exit will tell: labels are given once, and for good.

    `vcpu_ids` says whether the tracepoint has them. On x86 a secondary vCPU's first event is KVM_RUN interrupted
    before any exit.
    """
    return not vcpu_ids or record.vcpu_id is not None or not record.alive or index_from_comm(record.comm, None) != ""


def vcpu_index(comm: bytes, vcpu_id: int | None, pid: int, tid: int, proc: Path) -> str:
    """Index of the vCPU that a thread runs, "" if unknown; raises nothing.

    `comm` may be padded with NULs. `vcpu_id` is None where the tracepoint lacks it (arm64). The last resort
    is libvirt's cgroup of the thread, which QEMU's threads are in even when debug-threads is off.
    """
    known = index_from_comm(comm, vcpu_id)
    return known or vcpu_of_thread(cgroup_paths(proc / str(pid) / "task" / str(tid)))
