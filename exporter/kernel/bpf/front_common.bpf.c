// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0
/*
 * The front for the tracepoints that are the same on every ISA, all raw: entries,
 * exits to the VMM, and the end of a thread.
 */

int kvm_entry(struct bpf_raw_tracepoint_args *ctx)
{
	return on_entry(NOW(ctx));
}

/* TP_PROTO(__u32 reason, int errno), include/trace/events/kvm.h */
int kvm_userspace_exit(struct bpf_raw_tracepoint_args *ctx)
{
	u32 space = SPACE_USERSPACE, code = ctx->args[0];
	int errno = ctx->args[1];

	if (errno < 0) {	/* the reason is that of an earlier KVM_RUN */
		space = SPACE_USERSPACE_ERRNO;
		code = -errno;
	}
	return on_userspace_exit(space, code, NOW(ctx));
}

/* Fires in the thread that ends. */
int sched_process_exit(struct bpf_raw_tracepoint_args *ctx)
{
	return on_thread_end(bpf_get_current_pid_tgid(), NOW(ctx));
}

/*
 * TP_PROTO(struct task_struct *p, pid_t old_pid, struct linux_binprm *bprm). A thread
 * that execs gets the tid of its leader (de_thread(), fs/exec.c). Its old tid ends
 * here: sched_process_exit never fires for it.
 */
int sched_process_exec(struct bpf_raw_tracepoint_args *ctx)
{
	u32 old = ctx->args[1];

	if (old == (u32)bpf_get_current_pid_tgid())
		return 0;
	return on_thread_end(old, NOW(ctx));
}
