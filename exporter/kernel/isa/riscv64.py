"""riscv64: interrupts and exceptions of kvm:kvm_exit (arch/riscv/kvm/trace.h), by scause and stval."""

from __future__ import annotations

import struct

from exporter.kernel.btf import KernelBtf
from exporter.kernel.isa.entry import CodeSpace, Fields, HostFront, Isa, Version, begins_with
from exporter.model.reason import Space

_INTERRUPT = 1 << 63  # of scause: CAUSE_IRQ_FLAG, arch/riscv/include/asm/csr.h
_UNREAD = (1 << 64) - 1  # no exit has this scause: the front could not read the kernel's memory

# The instruction of a virtual instruction fault tells an idle guest from a busy one. So the front adds the kind of the
# instruction to the code, in bits 15:8. The kernel knows no cause above 63, so no other exception has such a code.
_VIRTUAL_INST_FAULT = 22
_WFI = _VIRTUAL_INST_FAULT | 1 << 8
_WRS_NTO = _VIRTUAL_INST_FAULT | 2 << 8
_CSR = _VIRTUAL_INST_FAULT | 3 << 8

#: An instruction for each of these codes. For _CSR it is `csrr zero, time`.
_INSTRUCTIONS = {_WFI: 0x10500073, _WRS_NTO: 0x00D00073, _CSR: 0xC0102073}

#: arch/riscv/include/asm/csr.h; the kernel has no table of names in the tracepoint.
_IRQ = {
    "interrupt": {
        1: "IRQ_S_SOFT", 2: "IRQ_VS_SOFT", 3: "IRQ_M_SOFT", 5: "IRQ_S_TIMER", 6: "IRQ_VS_TIMER",
        7: "IRQ_M_TIMER", 9: "IRQ_S_EXT", 10: "IRQ_VS_EXT", 11: "IRQ_M_EXT", 12: "IRQ_S_GEXT",
        13: "IRQ_PMU_OVF",
    },
}  # fmt: skip

#: arch/riscv/include/asm/csr.h. SOFTWARE_CHECK comes from the RISC-V Privileged Architecture, table of scause values.
_EXCEPTION = {
    "idle": {_WFI: "WFI"},
    # MMIO, or a page that is not there (yet). The tracepoint does not tell which. Once a guest has touched its memory,
    # nearly all are MMIO.
    "mmio": {21: "EXC_LOAD_GUEST_PAGE_FAULT", 23: "EXC_STORE_GUEST_PAGE_FAULT"},
    "sysreg": {_CSR: "CSR"},
    # A call of the SBI, the firmware's interface: arch/riscv/kvm/vcpu_sbi.c.
    "hypercall": {10: "EXC_SUPERVISOR_SYSCALL"},
    "fault": {20: "EXC_INST_GUEST_PAGE_FAULT"},
    "exception": {
        0: "EXC_INST_MISALIGNED", 1: "EXC_INST_ACCESS", 2: "EXC_INST_ILLEGAL", 4: "EXC_LOAD_MISALIGNED",
        5: "EXC_LOAD_ACCESS", 6: "EXC_STORE_MISALIGNED", 7: "EXC_STORE_ACCESS", 12: "EXC_INST_PAGE_FAULT",
        13: "EXC_LOAD_PAGE_FAULT", 15: "EXC_STORE_PAGE_FAULT", 18: "EXC_SOFTWARE_CHECK",
    },
    "pause": {_WRS_NTO: "WRS_NTO"},
    "debug": {3: "EXC_BREAKPOINT"},
    "other": {
        8: "EXC_SYSCALL", 9: "EXC_HYPERVISOR_SYSCALL",
        # Another instruction, or an unknown one: a CPU may report 0 in place of the instruction.
        _VIRTUAL_INST_FAULT: "EXC_VIRTUAL_INST_FAULT",
    },
}  # fmt: skip

#: Members of struct kvm_cpu_trap, in order.
_TRAP = ("sepc", "scause", "stval", "htval", "htinst")


def _recognise(fields: Fields) -> bool:
    # The record is a copy of the struct (TRACE_EVENT() of trace.h). The record's order stands for the struct's order.
    # A 32-bit kernel has members of 4 bytes.
    return begins_with(fields, *((name, 8) for name in _TRAP))


def _host_front(_fields: Fields, _btf: KernelBtf, _version: Version | None) -> HostFront:
    """The argument of the raw tracepoint is a pointer to the struct on every kernel."""
    return HostFront({}, vcpu_ids=False)


def _encode_exit(space: int, code: int, _vcpu_id: int) -> bytes:
    """Encode a struct kvm_cpu_trap, which the front reads in place of the pointer."""
    if space == Space.RISCV64_INTERRUPT and code < _INTERRUPT - 1:
        scause, stval = code | _INTERRUPT, 0
    elif space == Space.RISCV64_EXCEPTION and code in _INSTRUCTIONS:
        scause, stval = _VIRTUAL_INST_FAULT, _INSTRUCTIONS[code]
    elif space == Space.RISCV64_EXCEPTION and (code < _INTERRUPT or code == _UNREAD):
        scause, stval = code, 0
    else:
        raise ValueError(f"a riscv64 exit of space {space}, code {code}")
    return struct.pack("=5Q", 0, scause, stval, 0, 0)


ISA = Isa(
    name="riscv64",
    machines=("riscv64",),
    bpf_syscall=280,  # include/uapi/asm-generic/unistd.h
    perf_event_open_syscall=241,
    front="front_riscv64.bpf.c",
    recognise=_recognise,
    host_front=_host_front,
    uses_btf=False,
    replay_defines={"SCAUSE_ARG": 1, "STVAL_ARG": 2},
    encode_exit=_encode_exit,
    spaces=(
        CodeSpace(Space.RISCV64_INTERRUPT, _IRQ, unnamed=lambda code: f"UNKNOWN_IRQ_0x{code:x}"),
        CodeSpace(Space.RISCV64_EXCEPTION, _EXCEPTION),
    ),
    # Commit 91195a90f1d1 ("RISCV: KVM: add tracepoints for entry and exit events") is in Linux 6.11.
    kvm_remedy="modprobe kvm, on Linux 6.11 or newer",
)
