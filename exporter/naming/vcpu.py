"""Index of the vCPU that a thread runs."""

from __future__ import annotations

import re
from pathlib import Path

from exporter.model.records import VcpuRecord
from exporter.naming.cgroup import vcpu_of_thread
from exporter.naming.procfs import cgroup_paths
from exporter.naming.vmm.registry import VMMS

_NUMBER = "(0|[1-9][0-9]{0,8})"
_COMM = re.compile("|".join(_NUMBER.join(map(re.escape, vmm.vcpu_comm.split("{}"))) for vmm in VMMS).encode())


def index_from_comm(comm: bytes, vcpu_id: int | None) -> str:
    """The index from the kernel's tracepoint or, where the tracepoint has none, from the thread's comm; else ""."""
    if vcpu_id is not None:
        return str(vcpu_id)
    match = _COMM.fullmatch(comm.split(b"\0", 1)[0])
    return match[match.lastindex or 0].decode() if match else ""


def nameable(record: VcpuRecord, *, vcpu_ids: bool) -> bool:
    """False for a vCPU whose index is not known yet, but will be after its first exit.

    The labels of a vCPU never change, so they have to wait for its index. `vcpu_ids`: whether the tracepoint has the
    index. On x86 the first event of a secondary vCPU is no exit but a KVM_RUN that was interrupted.
    """
    return not vcpu_ids or record.vcpu_id is not None or not record.alive or index_from_comm(record.comm, None) != ""


def vcpu_index(comm: bytes, vcpu_id: int | None, pid: int, tid: int, proc: Path) -> str:
    """Index of the vCPU that a thread runs, "" if unknown; raises nothing.

    `comm` may be padded with NULs. `vcpu_id` is None where the tracepoint lacks it (arm64). The last resort is
    libvirt's cgroup of the thread: QEMU's threads have one even when debug-threads is off.
    """
    known = index_from_comm(comm, vcpu_id)
    return known or vcpu_of_thread(cgroup_paths(proc / str(pid) / "task" / str(tid)))
