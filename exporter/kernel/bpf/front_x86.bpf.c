// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0
/*
 * The front for kvm:kvm_exit of x86, as a classic tracepoint (arch/x86/kvm/trace.h).
 * The raw tracepoint passes a struct kvm_vcpu, whose layout is not stable, and since
 * Linux 5.17 no reason. The record of the classic tracepoint has the decoded reason.
 *
 * The loader defines the offsets of the fields, which differ between kernels. Before
 * Linux 5.11 there is no VCPU_ID_OFFSET.
 */

#ifdef FRONT_X86
int kvm_exit(struct bpf_raw_tracepoint_args *ctx)
{
	u64 now = NOW(ctx);
	u32 vcpu_id = NO_VCPU_ID;

#ifdef VCPU_ID_OFFSET
	vcpu_id = FIELD(u32, VCPU_ID_OFFSET);
#endif
	return on_exit(FIELD(u32, ISA_OFFSET), FIELD(u32, EXIT_REASON_OFFSET),
		       vcpu_id, now);
}
#endif /* FRONT_X86 */
