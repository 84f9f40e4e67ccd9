/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * The interface between fronts and handlers. A front (front_*.bpf.c) holds the
 * programs: each reads what its tracepoint passes, and calls one of the
 * handlers below. count.bpf.c and record.bpf.c each define all of them.
 *
 * bcc makes BPF programs only of functions in the main file. So the loader joins
 * the files into one source text, this file first; no file includes another. The
 * loader defines SPACE_* (exporter/model/reason.py). It defines CLOCK_IN_CONTEXT
 * if each event contains its time.
 */

#ifndef __always_inline
#define __always_inline	inline __attribute__((always_inline))
#endif

#define NO_VCPU_ID	(~0U)

/*
 * All times are in ns on CLOCK_MONOTONIC. `vcpu` is the address of KVM's structure of the
 * vCPU if its id must be read there, with read_vcpu_id(). Otherwise it is the constant 0:
 * in lockdown the kernel refuses a program that could read its memory.
 */
static __always_inline int on_exit(u32 space, u64 code, u32 vcpu_id, u64 vcpu, u64 now);
static __always_inline int on_entry(u64 now);
static __always_inline int on_userspace_exit(u32 space, u64 code, u64 now);
static __always_inline int on_thread_end(u32 tid, u64 now);

#ifdef FRONT_ARM64_OPENEULER
/*
 * A front whose exits can come before their reason. If the next event of the thread
 * is not the reason, the exit gets the reason NO_REASON_SPACE, NO_REASON_CODE.
 */
#define REASON_FOLLOWS
static __always_inline int on_exit_without_reason(u32 vcpu_id, u64 now);
static __always_inline int on_reason(u32 space, u64 code, u64 now);
#endif

static __always_inline u32 read_vcpu_id(u64 vcpu)
{
	u32 id = NO_VCPU_ID;

#ifdef KVM_VCPU_ID
	if (bpf_probe_read_kernel(&id, sizeof(id), (void *)(vcpu + KVM_VCPU_ID)))
		return NO_VCPU_ID;
#endif
	return id;
}

#ifdef CLOCK_IN_CONTEXT
/* The time is in the twelfth and last u64 of the context: no raw tracepoint has twelve arguments. */
#define NOW(ctx)	(((u64 *)(ctx))[11])
#else
#define NOW(ctx)	bpf_ktime_get_ns()
#endif

/* A field of the record of a classic tracepoint: ctx points to the record. */
#define FIELD(type, offset)	(*(volatile type *)((char *)ctx + (offset)))
