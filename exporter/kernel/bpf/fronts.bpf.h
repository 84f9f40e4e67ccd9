/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * The programs: what the tracepoints of each architecture pass, as the calls of
 * four handlers. The loader puts this before the program that defines them:
 * kvm_exit.bpf.c counts, record.bpf.c records. (Joined, not included: bcc makes
 * programs of the functions of the main file only.)
 *
 * The loader defines: SPACE_* (exporter/model/reason.py); FRONT_ARM64, or
 * FRONT_X86 with the offsets of the fields of kvm:kvm_exit; CLOCK_IN_CONTEXT
 * when the events come with their own time.
 */

#ifndef __always_inline
#define __always_inline	inline __attribute__((always_inline))
#endif

#define NO_VCPU_ID	(~0U)

/* All times are of CLOCK_MONOTONIC, in ns. */
static __always_inline int on_exit(u32 space, u64 code, u32 vcpu_id, u64 now);
static __always_inline int on_entry(u64 now);
static __always_inline int on_userspace_exit(u32 space, u64 code, u64 now);
static __always_inline int on_thread_end(u32 tid, u64 now);

#ifdef CLOCK_IN_CONTEXT
/* The twelfth and last u64 of a raw tracepoint context: no tracepoint has so many. */
#define NOW(ctx)	(((u64 *)(ctx))[11])
#else
#define NOW(ctx)	bpf_ktime_get_ns()
#endif

#ifdef FRONT_ARM64
/*
 * TP_PROTO(int ret, unsigned int esr_ec, unsigned long vcpu_pc),
 * arch/arm64/kvm/trace_arm.h. esr_ec means something for traps only, the
 * kernel reports 0 with every other ret. Bit 31 says that an SError is pending
 * besides (ARM_EXIT_WITH_SERROR_BIT, arch/arm64/include/asm/kvm_asm.h).
 */
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
	return on_exit(space, code, NO_VCPU_ID, now);
}
#endif

#ifdef FRONT_X86
/*
 * The raw tracepoint passes a struct kvm_vcpu, whose layout is no interface (and
 * since 5.17 no reason beside it). The classic one carries the decoded reason;
 * its record is what ctx points at.
 */
#define FIELD(type, offset)	(*(volatile type *)((char *)ctx + (offset)))

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
#endif

int kvm_entry(struct bpf_raw_tracepoint_args *ctx)
{
	return on_entry(NOW(ctx));
}

/* TP_PROTO(__u32 reason, int errno), include/trace/events/kvm.h */
int kvm_userspace_exit(struct bpf_raw_tracepoint_args *ctx)
{
	u32 space = SPACE_USERSPACE, code = ctx->args[0];
	int errno = ctx->args[1];

	if (errno < 0) {	/* the reason is left from an earlier KVM_RUN */
		space = SPACE_USERSPACE_ERRNO;
		code = -errno;
	}
	return on_userspace_exit(space, code, NOW(ctx));
}

/* In the dying thread. */
int sched_process_exit(struct bpf_raw_tracepoint_args *ctx)
{
	return on_thread_end(bpf_get_current_pid_tgid(), NOW(ctx));
}

/*
 * TP_PROTO(struct task_struct *p, pid_t old_pid, struct linux_binprm *bprm). A thread
 * that execs takes over its leader's tid (de_thread(), fs/exec.c); its own ends here
 * and never reaches sched_process_exit.
 */
int sched_process_exec(struct bpf_raw_tracepoint_args *ctx)
{
	u32 old = ctx->args[1];

	if (old == (u32)bpf_get_current_pid_tgid())
		return 0;
	return on_thread_end(old, NOW(ctx));
}
