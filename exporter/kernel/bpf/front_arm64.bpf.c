// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0
/*
 * The front for kvm:kvm_exit of arm64, as a raw tracepoint:
 * TP_PROTO(int ret, unsigned int esr_ec, unsigned long vcpu_pc),
 * arch/arm64/kvm/trace_arm.h.
 *
 * esr_ec is valid for traps only: with every other ret the kernel reports 0. Bit 31
 * of ret says that an SError is pending too (ARM_EXIT_WITH_SERROR_BIT,
 * arch/arm64/include/asm/kvm_asm.h).
 */

#ifdef FRONT_ARM64
#define ARM_EXIT_CODE(ret)	((u32)(ret) & 0x7fffffffU)
#define ARM_EXCEPTION_TRAP	2

int kvm_exit(struct bpf_raw_tracepoint_args *ctx)
{
	u64 now = NOW(ctx);
	u32 space = SPACE_ARM64_RET, code = ARM_EXIT_CODE(ctx->args[0]);

	if (code == ARM_EXCEPTION_TRAP) {
		space = SPACE_ARM64_TRAP;
		code = ctx->args[1];
	}
	return on_exit(space, code, NO_VCPU_ID, 0, now);
}
#endif /* FRONT_ARM64 */
