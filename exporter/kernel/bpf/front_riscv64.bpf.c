// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0
/*
 * The front for kvm:kvm_exit of riscv64, as a raw tracepoint:
 * TP_PROTO(struct kvm_cpu_trap *trap), arch/riscv/kvm/trace.h.
 *
 * For a VIRTUAL_INST_FAULT, stval has the instruction or 0. The code gets the kind of
 * the instruction in bits 15:8: exporter/kernel/isa/riscv64.py has the same numbers.
 *
 * A replay has no kernel memory: SCAUSE_ARG and STVAL_ARG are the indexes of arguments.
 */

#ifdef FRONT_RISCV64
/* arch/riscv/include/asm/csr.h */
#define CAUSE_IRQ_FLAG		(1ULL << 63)
#define EXC_VIRTUAL_INST_FAULT	22

/* arch/riscv/kvm/vcpu_insn.c */
#define INSN_WFI		0x10500073
#define INSN_WRS_NTO		0x00d00073
#define IS_SYSTEM(insn)		(((insn) & 0x7f) == 0x73)
/* funct3 of the six CSR instructions. 0 and 4 belong to others, for example SRET and HLV. */
#define HAS_CSR(insn)		((insn) & 0x3000)

/* No exit has this scause: the kernel's memory could not be read. */
#define UNREAD_SCAUSE		(~0ULL)

/* The first members of struct kvm_cpu_trap, arch/riscv/include/asm/kvm_host.h */
struct cpu_trap {
	u64 sepc;
	u64 scause;
	u64 stval;
};

static __always_inline u64 kind_of(u64 insn)
{
	if (insn == INSN_WFI)
		return 1;
	if (insn == INSN_WRS_NTO)
		return 2;
	return IS_SYSTEM(insn) && HAS_CSR(insn) ? 3 : 0;
}

int kvm_exit(struct bpf_raw_tracepoint_args *ctx)
{
	u64 now = NOW(ctx), code;
	u32 space = SPACE_RISCV64_EXCEPTION;
	struct cpu_trap trap = {};

#ifdef SCAUSE_ARG
	trap.scause = ctx->args[SCAUSE_ARG];
	trap.stval = ctx->args[STVAL_ARG];
#else
	if (bpf_probe_read_kernel(&trap, sizeof(trap), (void *)ctx->args[0]))
		trap.scause = UNREAD_SCAUSE;
#endif
	code = trap.scause;
	if (code == EXC_VIRTUAL_INST_FAULT) {
		code |= kind_of(trap.stval) << 8;
	} else if (code & CAUSE_IRQ_FLAG && code != UNREAD_SCAUSE) {
		space = SPACE_RISCV64_INTERRUPT;
		code &= ~CAUSE_IRQ_FLAG;
	}
	return on_exit(space, code, NO_VCPU_ID, 0, now);
}
#endif /* FRONT_RISCV64 */
