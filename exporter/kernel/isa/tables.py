"""Built-in names and the class of every known exit code.

The names serve where the running kernel's format file cannot be parsed, and for codes its own table lacks;
they are a superset of the tables of Linux 6.1, 6.12 and 6.18, the newest name where they differ. The classes
serve always: the kernel has none. One set of words on every architecture, so that one dashboard fits a mixed
fleet:

    idle        the guest waits: the time out of it is its own idleness
    interrupt   something asynchronous arrived, or a window to deliver it opened
    mmio, pio   a device register was touched (the interrupt controller's are devices too)
    sysreg      a control, debug, model-specific or system register, or an instruction that reads CPU state
                (CPUID, RDTSC, RDPMC); not an exit of the memory system or of a device
    hypercall   the guest asked its hypervisor, or its firmware, for something
    fault       a page of guest memory was missing, read-only or tracked
    exception   the guest (or the CPU under it) took an exception that the hypervisor intercepts
    pause       a spin loop gave the CPU away
    debug       breakpoints, watchpoints, single-stepping
    other       the rest: among them the instructions with which a guest hypervisor runs its own guests, and
                the maintenance of caches and TLBs
"""

from __future__ import annotations

from exporter.model.reason import Space

CLASSES = (
    "idle", "interrupt", "mmio", "pio", "sysreg", "hypercall", "fault", "exception", "pause", "debug",
    "other",
)  # fmt: skip

#: arch/arm64/include/asm/kvm_arm.h kvm_arm_exception_class, then arch/arm64/include/asm/esr.h for the classes
#: that table lacks; the names without the prefix EC_.
_ARM64_TRAP = {
    # WFE is rather a spin loop, but the tracepoint does not carry the ISS that tells it from WFI.
    "idle": {0x01: "WFx"},
    # A stage 2 data abort: MMIO, or a page that is not there (yet). The tracepoint cannot tell; once a guest
    # has touched its memory nearly all are MMIO.
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

#: arch/arm64/include/asm/kvm_asm.h kvm_arm_exception_type, and ARM_EXCEPTION_IL, which it lacks.
_ARM64_RET = {
    "interrupt": {0: "IRQ"},
    # SERROR is an asynchronous abort; IL an illegal return to the guest, it ends in KVM_EXIT_FAIL_ENTRY.
    "exception": {1: "SERROR", 3: "IL"},
    # Traps have a space of their own; HYP_GONE is HVC_STUB_ERR, arch/arm64/include/asm/virt.h.
    "other": {2: "TRAP", 0xBADCA11: "HYP_GONE"},
}

#: arch/x86/include/uapi/asm/vmx.h VMX_EXIT_REASONS.
_VMX = {
    # MONITOR arms what MWAIT waits for: one idle loop.
    "idle": {12: "HLT", 36: "MWAIT_INSTRUCTION", 39: "MONITOR_INSTRUCTION", 67: "UMWAIT", 68: "TPAUSE"},
    # TPR_BELOW_THRESHOLD is the window of an interrupt that the guest's task priority held back.
    "interrupt": {
        1: "EXTERNAL_INTERRUPT", 3: "INIT_SIGNAL", 4: "SIPI_SIGNAL", 7: "INTERRUPT_WINDOW", 8: "NMI_WINDOW",
        43: "TPR_BELOW_THRESHOLD", 52: "PREEMPTION_TIMER",
    },
    # KVM marks MMIO pages with a misconfigured EPT entry (arch/x86/kvm/mmu/spte.c, make_mmio_spte()).
    "mmio": {44: "APIC_ACCESS", 45: "EOI_INDUCED", 49: "EPT_MISCONFIG", 56: "APIC_WRITE"},
    "pio": {30: "IO_INSTRUCTION"},
    "sysreg": {
        10: "CPUID", 15: "RDPMC", 16: "RDTSC", 28: "CR_ACCESS", 29: "DR_ACCESS", 31: "MSR_READ",
        32: "MSR_WRITE", 46: "GDTR_IDTR", 47: "LDTR_TR", 51: "RDTSCP", 55: "XSETBV", 84: "MSR_READ_IMM",
        85: "MSR_WRITE_IMM",
    },
    "hypercall": {18: "VMCALL", 77: "TDCALL"},
    "fault": {48: "EPT_VIOLATION", 62: "PML_FULL"},
    "exception": {0: "EXCEPTION_NMI", 2: "TRIPLE_FAULT"},
    "pause": {40: "PAUSE_INSTRUCTION"},
    "debug": {37: "MONITOR_TRAP_FLAG"},
    "other": {
        # a guest hypervisor at work
        19: "VMCLEAR", 20: "VMLAUNCH", 21: "VMPTRLD", 22: "VMPTRST", 23: "VMREAD", 24: "VMRESUME",
        25: "VMWRITE", 26: "VMOFF", 27: "VMON", 50: "INVEPT", 53: "INVVPID", 59: "VMFUNC", 76: "SEAMCALL",
        # caches and TLBs
        13: "INVD", 14: "INVLPG", 54: "WBINVD", 58: "INVPCID",
        # a VM entry that failed: the guest did not run at all
        33: "INVALID_STATE", 34: "MSR_LOAD_FAIL", 41: "MCE_DURING_VMENTRY",
        # all else
        9: "TASK_SWITCH", 57: "RDRAND", 60: "ENCLS", 61: "RDSEED", 63: "XSAVES", 64: "XRSTORS",
        74: "BUS_LOCK", 75: "NOTIFY",
    },
}  # fmt: skip

#: arch/x86/include/uapi/asm/vmx.h VMX_EXIT_REASON_FLAGS.
VMX_FLAGS = {0x80000000: "FAILED_VMENTRY"}

#: arch/x86/include/uapi/asm/svm.h SVM_EXIT_REASONS.
_SVM = {
    "idle": {
        0x078: "hlt", 0x08A: "monitor", 0x08B: "mwait", 0x08C: "mwait_cond", 0x0A6: "idle-halt",
        0x80000004: "vmgexit_ap_hlt_loop",
    },
    # SVM has no NMI window: KVM intercepts the IRET that ends the NMI handler.
    "interrupt": {
        0x060: "interrupt", 0x061: "nmi", 0x062: "smi", 0x063: "init", 0x064: "vintr", 0x074: "iret",
        0x80000003: "vmgexit_nmi_complete",
    },
    "mmio": {
        0x401: "avic_incomplete_ipi", 0x402: "avic_unaccelerated_access", 0x80000001: "vmgexit_mmio_read",
        0x80000002: "vmgexit_mmio_write",
    },
    "pio": {0x07B: "io"},
    "sysreg": {
        0x000: "read_cr0", 0x002: "read_cr2", 0x003: "read_cr3", 0x004: "read_cr4", 0x008: "read_cr8",
        0x010: "write_cr0", 0x012: "write_cr2", 0x013: "write_cr3", 0x014: "write_cr4", 0x018: "write_cr8",
        **{0x020 + n: f"read_dr{n}" for n in range(8)}, **{0x030 + n: f"write_dr{n}" for n in range(8)},
        0x065: "cr0_sel_write", 0x066: "read_idtr", 0x067: "read_gdtr", 0x068: "read_ldtr", 0x069: "read_rt",
        0x06A: "write_idtr", 0x06B: "write_gdtr", 0x06C: "write_ldtr", 0x06D: "write_rt",
        0x06E: "rdtsc", 0x06F: "rdpmc", 0x072: "cpuid", 0x07C: "msr", 0x087: "rdtscp", 0x08D: "xsetbv",
        0x08E: "rdpru", 0x08F: "write_efer_trap", 0x090: "write_cr0_trap", 0x094: "write_cr4_trap",
        0x098: "write_cr8_trap",
    },
    "hypercall": {
        0x081: "hypercall", 0x403: "vmgexit", 0x80000005: "vmgexit_ap_jump_table",
        0x80000010: "vmgexit_page_state_change", 0x80000011: "vmgexit_guest_request",
        0x80000012: "vmgexit_ext_guest_request", 0x80000013: "vmgexit_ap_creation",
        0x80000018: "vmgexit_snp_run_vmpl", 0x8000001A: "vmgexit_savic",
        0x8000FFFD: "vmgexit_hypervisor_feature", 0x8000FFFE: "vmgexit_term_request",
        0x8000FFFF: "vmgexit_unsupported_event",
    },
    # MMIO as well: where Intel has EPT_MISCONFIG, a reserved bit in a nested page table entry ends here.
    "fault": {0x400: "npf"},
    "exception": {
        0x040: "DE excp", 0x044: "OF excp", 0x045: "BR excp", 0x046: "UD excp", 0x047: "NM excp",
        0x048: "DF excp", 0x04A: "TS excp", 0x04B: "NP excp", 0x04C: "SS excp", 0x04D: "GP excp",
        0x04E: "PF excp", 0x050: "MF excp", 0x051: "AC excp", 0x052: "MC excp", 0x053: "XF excp",
        0x07F: "shutdown",  # SVM's triple fault
    },
    "pause": {0x077: "pause"},
    "debug": {0x041: "DB excp", 0x043: "BP excp", 0x088: "icebp"},
    "other": {
        # a guest hypervisor at work
        0x080: "vmrun", 0x082: "vmload", 0x083: "vmsave", 0x084: "stgi", 0x085: "clgi", 0x086: "skinit",
        # caches and TLBs
        0x076: "invd", 0x079: "invlpg", 0x07A: "invlpga", 0x089: "wbinvd", 0x0A2: "invpcid",
        # all else
        0x070: "pushf", 0x071: "popf", 0x073: "rsm", 0x075: "swint", 0x07D: "task_switch",
        0x07E: "ferr_freeze", 0x0A5: "buslock", 0xFFFFFFFF: "invalid_guest_state",
    },
}  # fmt: skip

#: include/uapi/linux/kvm.h; the tracepoint names the first 31 only (include/trace/events/kvm.h).
_USERSPACE = {
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

_BY_CLASS = {
    Space.VMX: _VMX,
    Space.SVM: _SVM,
    Space.ARM64_TRAP: _ARM64_TRAP,
    Space.ARM64_RET: _ARM64_RET,
    Space.USERSPACE: {
        klass: {code: f"KVM_EXIT_{name}" for code, name in codes.items()} for klass, codes in _USERSPACE.items()
    },
    # EINTR: a signal, the kernel prints "restart" (include/trace/events/kvm.h).
    Space.USERSPACE_ERRNO: {"interrupt": {4: "restart"}},
}

#: {space: {code: name}}; arm64 trap names without their prefix, VMX codes without their flags.
NAMES: dict[int, dict[int, str]] = {
    space: {code: name for codes in by_class.values() for code, name in codes.items()}
    for space, by_class in _BY_CLASS.items()
}

#: {space: {code: class}}, for the same codes; a code that is not in here is "other".
CLASS_OF: dict[int, dict[int, str]] = {
    space: {code: klass for klass, codes in by_class.items() for code in codes} for space, by_class in _BY_CLASS.items()
}
