"""openEuler's arm64 kernels of the 5.10 line: a kvm:kvm_exit without the exception class (arch/arm64/kvm/trace_arm.h).

The class follows in kvm:kvm_trap_enter (arch/arm64/kvm/trace_handle_exit.h), in the same thread and before the entry.
handle_trap_exceptions() in arch/arm64/kvm/handle_exit.c fires it. Some traps have none: if an SError is pending,
handle_exit() returns before, and an AArch32 instruction whose condition failed needs no handler. Those traps are
counted as `TRAP`, the kernel's own name for the return code. All names and classes are those of arm64.py.
"""

from __future__ import annotations

import struct
from dataclasses import replace

from exporter.kernel.btf import KernelBtf
from exporter.kernel.isa import arm64
from exporter.kernel.isa.entry import Fields, HostFront, Version, begins_with
from exporter.model.reason import Space


def _recognise(fields: Fields) -> bool:
    # As in arm64.py, the order of the record's fields stands for the order of the raw tracepoint's arguments. With a
    # class in kvm_exit, no kvm_trap_enter would be needed: that is another kernel.
    return begins_with(fields, ("vcpu_id", 4), ("ret", 4), ("vcpu_pc", 8)) and "esr_ec" not in fields


def _host_front(_fields: Fields, _btf: KernelBtf, _version: Version | None) -> HostFront:
    return HostFront({}, vcpu_ids=True)


def _encode_exit(space: int, code: int, vcpu_id: int) -> bytes:
    """Encode the arguments of the raw tracepoint. Space and code follow, because a recorded exit has its reason."""
    if code >= 1 << 31 or space not in {Space.ARM64_TRAP, Space.ARM64_RET}:
        raise ValueError(f"an arm64 exit of space {space}, code {code}")
    ret = arm64.TRAP_RET if space == Space.ARM64_TRAP else code
    return struct.pack("=5Q", vcpu_id, ret, 0, space, code)


ISA = replace(
    arm64.ISA,
    name="arm64_openeuler",
    machines=(),  # machine and spaces are those of arm64.py
    front="front_arm64_openeuler.bpf.c",
    recognise=_recognise,
    host_front=_host_front,
    encode_exit=_encode_exit,
    spaces=(),
)
