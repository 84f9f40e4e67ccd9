"""arm64: exception classes and return codes of kvm:kvm_exit (arch/arm64/kvm/trace_arm.h)."""

from __future__ import annotations

import struct

from exporter.kernel.btf import KernelBtf
from exporter.kernel.isa.entry import CodeSpace, Fields, HostFront, Isa, Version, begins_with
from exporter.model.reason import Space

TRAP_RET = 2
"""Return code of a trap: ARM_EXCEPTION_TRAP, arch/arm64/include/asm/kvm_asm.h."""

#: arch/arm64/include/asm/kvm_arm.h kvm_arm_exception_class, then arch/arm64/include/asm/esr.h for the classes
#: that table lacks; the names without the prefix EC_.
_TRAP = {
    # WFE is rather a spin loop, but the tracepoint does not carry the ISS that tells it from WFI.
    "idle": {0x01: "WFx"},
    # A stage 2 data abort: MMIO, or a page that is not there (yet). The tracepoint does not tell which. Once a guest
    # has touched its memory, nearly all are MMIO.
    "mmio": {0x24: "DABT_LOW"},
    "sysreg": {
        0x03: "CP15_32", 0x04: "CP15_64", 0x05: "CP14_MR", 0x06: "CP14_LS", 0x08: "CP10_ID", 0x0C: "CP14_64",
        0x18: "SYS64",
    },
    "hypercall": {0x12: "HVC32", 0x13: "SMC32", 0x16: "HVC64", 0x17: "SMC64"},
    "fault": {0x20: "IABT_LOW"},
    "exception": {
        0x0D: "BTI", 0x0E: "ILL", 0x1C: "FPAC", 0x21: "IABT_CUR", 0x22: "PC_ALIGN", 0x25: "DABT_CUR",
        0x26: "SP_ALIGN", 0x27: "MOPS", 0x28: "FP_EXC32", 0x2C: "FP_EXC64", 0x2D: "GCS", 0x2F: "SERROR",
    },
    "debug": {
        0x30: "BREAKPT_LOW", 0x31: "BREAKPT_CUR", 0x32: "SOFTSTP_LOW", 0x33: "SOFTSTP_CUR",
        0x34: "WATCHPT_LOW", 0x35: "WATCHPT_CUR", 0x38: "BKPT32", 0x3A: "VECTOR32", 0x3C: "BRK64",
    },
    # The first use of a unit that the host has not switched on for the guest (FP_ASIMD, SVE, SME, PAC), and
    # ERET and SVC of a guest hypervisor's own guests.
    "other": {
        0x00: "UNKNOWN", 0x07: "FP_ASIMD", 0x09: "PAC", 0x0A: "OTHER", 0x11: "SVC32", 0x15: "SVC64",
        0x19: "SVE", 0x1A: "ERET", 0x1D: "SME", 0x1F: "IMP_DEF",
    },
}  # fmt: skip

#: arch/arm64/include/asm/kvm_asm.h kvm_arm_exception_type, and ARM_EXCEPTION_IL, which that table lacks.
_RET = {
    "interrupt": {0: "IRQ"},
    # SERROR is an asynchronous abort; IL is an illegal return to the guest, which ends in KVM_EXIT_FAIL_ENTRY.
    "exception": {1: "SERROR", 3: "IL"},
    # Traps have a space of their own; HYP_GONE is HVC_STUB_ERR, arch/arm64/include/asm/virt.h.
    "other": {TRAP_RET: "TRAP", 0xBADCA11: "HYP_GONE"},
}


def _recognise(fields: Fields) -> bool:
    # The front reads the arguments of the raw tracepoint. No file of the kernel lists them. The order of the record's
    # fields stands for their order: TRACE_EVENT() of trace_arm.h declares both in the same order.
    return begins_with(fields, ("ret", 4), ("esr_ec", 4))


def _host_front(_fields: Fields, _btf: KernelBtf, _version: Version | None) -> HostFront:
    """The raw tracepoint has ret and esr_ec as arguments on every kernel."""
    return HostFront({}, vcpu_ids=False)


def _encode_exit(space: int, code: int, _vcpu_id: int) -> bytes:
    """Encode the arguments `ret` and `esr_ec` of the raw tracepoint."""
    if code < 1 << 31:
        if space == Space.ARM64_TRAP:
            return struct.pack("=QQ", TRAP_RET, code)
        if space == Space.ARM64_RET and code != TRAP_RET:
            return struct.pack("=QQ", code, 0)
    raise ValueError(f"an arm64 exit of space {space}, code {code}")


ISA = Isa(
    name="arm64",
    machines=("aarch64",),
    bpf_syscall=280,  # include/uapi/asm-generic/unistd.h
    perf_event_open_syscall=241,
    front="front_arm64.bpf.c",
    recognise=_recognise,
    host_front=_host_front,
    uses_btf=False,
    replay_defines={},
    encode_exit=_encode_exit,
    spaces=(
        CodeSpace(
            Space.ARM64_TRAP,
            _TRAP,
            table="REC->esr_ec",
            # Traps and the other exits share a metric, and both have a SERROR.
            prefix="EC_",
            fixed={0x00: "UNKNOWN_EC"},
            reserved=("EC_",),
        ),
        CodeSpace(Space.ARM64_RET, _RET, table="REC->ret", unnamed=lambda code: f"UNKNOWN_RET_0x{code:x}"),
    ),
    kvm_remedy="arm64 has KVM built in: a kernel with CONFIG_KVM=y, booted at EL2",
)
