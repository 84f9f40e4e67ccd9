"""x86: exit reasons of Intel VMX and AMD SVM. One record of kvm:kvm_exit has both (arch/x86/kvm/trace.h)."""

from __future__ import annotations

from exporter.kernel.isa import x86_front
from exporter.kernel.isa.entry import CodeSpace, FlagBits, Isa, OlderTable
from exporter.model.reason import Space

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

# Before Linux 5.8 ("KVM: x86: Print symbolic names of VMX VM-Exit flags in traces", 2020-05-08), the tables of VMX and
# SVM have the same expression: (REC->isa == 1) ? __print_symbolic(REC->exit_reason, VMX) :
# __print_symbolic(REC->exit_reason, SVM). printfmt.py calls the second one "#2".
_EXIT_REASON, _SECOND_EXIT_REASON = "REC->exit_reason", "REC->exit_reason #2"


ISA = Isa(
    name="x86",
    machines=("x86_64",),
    bpf_syscall=321,  # arch/x86/entry/syscalls/syscall_64.tbl
    perf_event_open_syscall=298,
    front="front_x86.bpf.c",
    recognise=x86_front.recognise,
    host_front=x86_front.host_front,
    uses_btf=True,
    replay_defines=x86_front.REPLAY_DEFINES,
    encode_exit=x86_front.encode_exit,
    spaces=(
        CodeSpace(
            Space.VMX,
            _VMX,
            table="REC->exit_reason & 0xffff",
            older=OlderTable(mark=_SECOND_EXIT_REASON, table=_EXIT_REASON),
            flags=FlagBits(
                code_mask=0xFFFF,  # the basic reason
                table="REC->exit_reason & ~0xffff",
                names={0x80000000: "FAILED_VMENTRY"},  # arch/x86/include/uapi/asm/vmx.h VMX_EXIT_REASON_FLAGS
            ),
        ),
        CodeSpace(
            Space.SVM,
            _SVM,
            table=_EXIT_REASON,
            older=OlderTable(mark=_SECOND_EXIT_REASON, table=_SECOND_EXIT_REASON),
        ),
    ),
    kvm_remedy="modprobe kvm_intel (Intel) or modprobe kvm_amd (AMD)",
)
