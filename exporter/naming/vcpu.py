"""Index of the vCPU that a thread runs."""

from __future__ import annotations

import re
from pathlib import Path

from exporter.common.procfs import cgroup_paths
from exporter.model.records import VcpuRecord
from exporter.naming.cgroup import vcpu_of_thread
from exporter.naming.vmm.registry import VMMS

_NUMBER = "(0|[1-9][0-9]{0,8})"
_COMMS = [comm for vmm in VMMS for comm in vmm.vcpu_comms]
_COMM = re.compile("|".join(_NUMBER.join(map(re.escape, comm.split("{}"))) for comm in _COMMS).encode())
_ONLY_VCPU = frozenset(vmm.only_vcpu_comm.encode() for vmm in VMMS if vmm.only_vcpu_comm)


def index_from_comm(comm: bytes, vcpu_id: int | None) -> str:
    """Index from the thread's comm or, if the comm states none, the kernel's vcpu_id; else "".

    The VMM names the thread by the index that its users know. The vcpu_id can be another number: on x86, QEMU passes
    the APIC id (target/i386/cpu.c, x86_cpu_apic_id_from_index()). With two sockets of six cores, the thread
    "CPU 6/KVM" has the vcpu_id 8.
    """
    name = comm.split(b"\0", 1)[0]
    match = _COMM.fullmatch(name)
    if match:
        return match[match.lastindex or 0].decode()
    if name in _ONLY_VCPU:
        return "0"
    return "" if vcpu_id is None else str(vcpu_id)


def nameable(record: VcpuRecord, *, vcpu_ids: bool) -> bool:
    """False for a vCPU whose index is not known yet, but will be after its first exit.

    The labels of a vCPU never change, so they have to wait for its index. Only a vCPU whose comm states no index has
    to wait. `vcpu_ids`: whether the tracepoint has the vcpu_id. On x86 the first event of a secondary vCPU is no exit
    but a KVM_RUN that was interrupted.
    """
    return not vcpu_ids or not record.alive or index_from_comm(record.comm, record.vcpu_id) != ""


def vcpu_index(comm: bytes, vcpu_id: int | None, pid: int, tid: int, proc: Path) -> str:
    """Index of the vCPU that a thread runs, "" if unknown; raises nothing.

    `comm` may be padded with NULs. `vcpu_id` is None where the tracepoint lacks it (arm64, riscv64). The last resort is
    libvirt's cgroup of the thread: QEMU's threads have one even when debug-threads is off.
    """
    known = index_from_comm(comm, vcpu_id)
    return known or vcpu_of_thread(cgroup_paths(proc / str(pid) / "task" / str(tid)))
