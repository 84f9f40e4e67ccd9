"""Exits to the VMM: KVM_EXIT_* and errno of kvm:kvm_userspace_exit (include/trace/events/kvm.h), common to all ISAs."""

from __future__ import annotations

import errno
import struct

from exporter.kernel.isa.entry import CodeSpace
from exporter.model.reason import Space

#: include/uapi/linux/kvm.h, without the prefix KVM_EXIT_; the tracepoint has names only for the first 31.
_REASONS = {
    # AP_RESET_HOLD: a processor of an SEV-ES guest parked until it is woken by an INIT-SIPI.
    "idle": {5: "HLT", 32: "AP_RESET_HOLD"},
    "interrupt": {7: "IRQ_WINDOW_OPEN", 10: "INTR", 16: "NMI", 23: "EPR"},
    "mmio": {6: "MMIO", 12: "TPR_ACCESS", 26: "IOAPIC_EOI", 28: "ARM_NISV", 42: "ARM_LDST64B"},
    "pio": {2: "IO"},
    # SET_TPR is a write to CR8; DCR the device control registers of PowerPC 4xx.
    "sysreg": {
        11: "SET_TPR", 15: "DCR", 29: "X86_RDMSR", 30: "X86_WRMSR", 36: "RISCV_CSR", 38: "LOONGARCH_IOCSR",
    },
    "hypercall": {
        3: "HYPERCALL", 18: "OSI", 19: "PAPR_HCALL", 24: "SYSTEM_EVENT", 27: "HYPERV", 34: "XEN",
        35: "RISCV_SBI", 40: "TDX", 43: "SNP_REQ_CERTS",
    },
    "fault": {31: "DIRTY_RING_FULL", 39: "MEMORY_FAULT"},
    "exception": {1: "EXCEPTION", 8: "SHUTDOWN", 41: "ARM_SEA"},
    "debug": {4: "DEBUG"},
    "other": {
        0: "UNKNOWN", 9: "FAIL_ENTRY", 13: "S390_SIEIC", 14: "S390_RESET", 17: "INTERNAL_ERROR",
        20: "S390_UCONTROL", 21: "WATCHDOG", 22: "S390_TSCH", 25: "S390_STSI", 33: "X86_BUS_LOCK",
        37: "NOTIFY",
    },
}  # fmt: skip


def _errno_name(code: int) -> str:
    return f"error_{errno.errorcode.get(code, code)}"


def encode(space: int, code: int) -> bytes:
    """Encode the arguments `reason` and `errno` of the raw tracepoint.

    Raises ValueError for an exit that kvm_userspace_exit cannot have.
    """
    failed = space == Space.USERSPACE_ERRNO
    if code >= 1 << 31 or not (failed or space == Space.USERSPACE):
        raise ValueError(f"an exit to user space of space {space}, code {code}")
    return struct.pack("=qq", *((0, -code) if failed else (code, 0)))


SPACES = (
    CodeSpace(
        Space.USERSPACE,
        {klass: {code: f"KVM_EXIT_{name}" for code, name in codes.items()} for klass, codes in _REASONS.items()},
        table="REC->reason",
    ),
    CodeSpace(
        Space.USERSPACE_ERRNO,
        {"interrupt": {errno.EINTR: "restart"}},
        fixed={errno.EINTR: "restart"},  # a signal interrupted KVM_RUN: "restart" is the tracepoint's own word
        unnamed=_errno_name,
        reserved=("error_", "restart"),
    ),
)
