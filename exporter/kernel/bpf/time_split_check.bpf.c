// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0
/* For the check of the offsets that time_split.bpf.h uses (exporter/kernel/time_split.py). It is never attached. */

#ifdef SCHED_INFO_OFFSET
/* Returns the u32 at the offset ctx->args[0] in the task_struct of the calling thread. */
int task_figure(struct bpf_raw_tracepoint_args *ctx)
{
	char *task = (char *)bpf_get_current_task();
	u64 offset = ctx->args[0];
	u32 value = 0;

	bpf_probe_read_kernel(&value, sizeof(value), task + offset);
	return value;
}
#endif
