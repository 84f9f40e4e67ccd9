// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0
/*
 * The front for kvm:kvm_exit of x86 (arch/x86/kvm/trace.h). exporter/kernel/isa/x86_front.py
 * chooses a tracepoint and its macros, and says why.
 *
 * Raw tracepoint: REASON_ARG, VCPU_ARG, ISA_ARG and VCPU_ID_ARG are numbers of arguments.
 * Without REASON_ARG, the reason is read from KVM's structure of the vCPU, at the offset
 * VMX_EXIT_REASON, or SVM_VMCB and then SVM_EXIT_CODE. Without VCPU_ID_ARG, the vCPU's id is
 * read at the offset KVM_VCPU_ID.
 *
 * Classic tracepoint: *_OFFSET are offsets in its record. Before Linux 5.11 there is no
 * VCPU_ID_OFFSET.
 */

#ifdef FRONT_X86

#ifdef ISA_ARG
/* No exit has this code: KVM's memory could not be read. */
#define UNREAD_CODE	(~0ULL)

static __always_inline u64 code_of(struct bpf_raw_tracepoint_args *ctx, u32 isa)
{
#ifdef REASON_ARG
	return ctx->args[REASON_ARG];
#else
	u64 vcpu = ctx->args[VCPU_ARG];
	u32 code = 0;

#ifdef VMX_EXIT_REASON
	if (isa == SPACE_VMX &&
	    !bpf_probe_read_kernel(&code, sizeof(code), (void *)(vcpu + VMX_EXIT_REASON)))
		return code;
#endif
#ifdef SVM_VMCB
	u64 vmcb = 0;

	if (isa == SPACE_SVM &&
	    !bpf_probe_read_kernel(&vmcb, sizeof(vmcb), (void *)(vcpu + SVM_VMCB)) &&
	    !bpf_probe_read_kernel(&code, sizeof(code), (void *)(vmcb + SVM_EXIT_CODE)))
		return code;
#endif
	return UNREAD_CODE;
#endif /* REASON_ARG */
}

int kvm_exit(struct bpf_raw_tracepoint_args *ctx)
{
	u64 now = NOW(ctx);
	u32 isa = ctx->args[ISA_ARG];
	u64 code = code_of(ctx, isa);

#ifdef VCPU_ID_ARG
	return on_exit(isa, code, ctx->args[VCPU_ID_ARG], 0, now);
#elif defined(KVM_VCPU_ID)
	return on_exit(isa, code, NO_VCPU_ID, ctx->args[VCPU_ARG], now);
#else
	return on_exit(isa, code, NO_VCPU_ID, 0, now);
#endif
}
#endif /* ISA_ARG */

#ifdef ISA_OFFSET
/* Returns 1: perf events lose each event for which a program on the classic tracepoint returns 0. */
int kvm_exit_classic(struct bpf_raw_tracepoint_args *ctx)
{
	u64 now = NOW(ctx);
	u32 vcpu_id = NO_VCPU_ID;

#ifdef VCPU_ID_OFFSET
	vcpu_id = FIELD(u32, VCPU_ID_OFFSET);
#endif
	on_exit(FIELD(u32, ISA_OFFSET), FIELD(u32, EXIT_REASON_OFFSET), vcpu_id, 0, now);
	return 1;
}
#endif /* ISA_OFFSET */
#endif /* FRONT_X86 */
