// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0
/*
 * The front for kvm:kvm_exit of openEuler's arm64 kernels of the 5.10 line, as a raw
 * tracepoint: TP_PROTO(unsigned int vcpu_id, int ret, unsigned long vcpu_pc),
 * arch/arm64/kvm/trace_arm.h.
 *
 * The exception class of a trap follows in kvm:kvm_trap_enter, in the same thread:
 * TP_PROTO(unsigned int vcpu_id, unsigned int esr_ec),
 * arch/arm64/kvm/trace_handle_exit.h. Some traps have no such event: see
 * exporter/kernel/isa/arm64_openeuler.py.
 *
 * Bit 31 of ret says that an SError is pending too (ARM_EXIT_WITH_SERROR_BIT,
 * arch/arm64/include/asm/kvm_asm.h).
 */

#ifdef FRONT_ARM64_OPENEULER
#define ARM_EXIT_CODE(ret)	((u32)(ret) & 0x7fffffffU)
#define ARM_EXCEPTION_TRAP	2

/* The reason of a trap without kvm_trap_enter. */
#define NO_REASON_SPACE		SPACE_ARM64_RET
#define NO_REASON_CODE		ARM_EXCEPTION_TRAP

int kvm_exit(struct bpf_raw_tracepoint_args *ctx)
{
	u64 now = NOW(ctx);
	u32 vcpu_id = ctx->args[0];
	u32 space = SPACE_ARM64_RET, code = ARM_EXIT_CODE(ctx->args[1]);

#ifdef CLOCK_IN_CONTEXT
	/* A recorded exit has its reason already: it follows the arguments. */
	if (ctx->args[3]) {
		space = ctx->args[3];
		code = ctx->args[4];
		return on_exit(space, code, vcpu_id, 0, now);
	}
#endif
	if (code == ARM_EXCEPTION_TRAP)
		return on_exit_without_reason(vcpu_id, now);
	return on_exit(space, code, vcpu_id, 0, now);
}

int kvm_trap_enter(struct bpf_raw_tracepoint_args *ctx)
{
	u32 esr_ec = ctx->args[1];

	return on_reason(SPACE_ARM64_TRAP, esr_ec, NOW(ctx));
}
#endif /* FRONT_ARM64_OPENEULER */
