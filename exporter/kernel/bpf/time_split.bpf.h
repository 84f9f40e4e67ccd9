/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * How much of an interval the thread was not on a CPU: it waited for one, or it slept.
 * The scheduler knows it. The loader finds the members of struct task_struct in BTF
 * (exporter/kernel/time_split.py), and defines their offsets:
 *
 *	SCHED_INFO_OFFSET	sched_info.pcount, and behind it sched_info.run_delay
 *	ARRIVAL_OFFSET		sched_info.last_arrival
 *	EXEC_OFFSET		se.exec_start, and behind it se.sum_exec_runtime
 *	PREV_SUM_OFFSET		se.prev_sum_exec_runtime
 *	NVCSW_OFFSET		nvcsw, the voluntary switches
 *
 * Without them, all of this is compiled out.
 */

struct away {
	u64 wait_ns;	/* it could run, and had no CPU */
	u64 sleep_ns;
};

#ifdef SCHED_INFO_OFFSET
/* No thread leaves a CPU and is back in less: so short an interval needs no look. */
#define SHORT_NS	2000

static __always_inline u64 task_word(char *task, u32 offset)
{
	u64 value = 0;

	bpf_probe_read_kernel(&value, sizeof(value), task + offset);
	return value;
}

/*
 * Look at the scheduler's figures. Returns how long the thread was away since the last
 * look, at most `ns`. The first look of a thread returns 0.
 *
 * KVM has preemption off from an entry until after the exit that follows. So the figures
 * do not change there, and one look for each entry is enough. Most looks see in the
 * first two words that the thread was on its CPU all the time.
 *
 * The scheduler brings run_delay up to date before a thread runs. For the time off the
 * CPU there are two measures:
 *
 * - exec_start - sum_exec_runtime grows by exactly this time, no matter when the two
 *   were last brought up to date. But it has the clock of one CPU, which stands still
 *   in interrupts.
 * - last_arrival - prev_sum_exec_runtime has the same clock on all CPUs. It grows in
 *   interrupts, too.
 */
static __always_inline struct away time_away(struct slot *s, u64 ns)
{
	struct away away = {};
	struct { u64 pcount, run_delay; } info = {};
	struct { u64 start, sum; } exec = {};
	u64 exec_base, arrival_base, off_ns;
	u32 nvcsw, cpu;
	char *task = (char *)bpf_get_current_task();

	bpf_probe_read_kernel(&info, sizeof(info), task + SCHED_INFO_OFFSET);
	if (info.pcount == s->pcount)
		return away;
	bpf_probe_read_kernel(&exec, sizeof(exec), task + EXEC_OFFSET);
	exec_base = exec.start - exec.sum;
	arrival_base = task_word(task, ARRIVAL_OFFSET) - task_word(task, PREV_SUM_OFFSET);
	nvcsw = task_word(task, NVCSW_OFFSET);
	cpu = bpf_get_smp_processor_id();
	if (s->pcount) {
		away.wait_ns = info.run_delay - s->run_delay;
		if (nvcsw == s->nvcsw)
			off_ns = away.wait_ns;
		else if (cpu == s->cpu)
			off_ns = exec_base - s->exec_base;
		else
			off_ns = arrival_base - s->arrival_base;
		/* The clocks differ from that of the interval. */
		if (off_ns > ns)
			off_ns = ns;
		if (away.wait_ns > ns)
			away.wait_ns = ns;
		if (off_ns > away.wait_ns)
			away.sleep_ns = off_ns - away.wait_ns;
	}
	s->pcount = info.pcount;
	s->run_delay = info.run_delay;
	s->exec_base = exec_base;
	s->arrival_base = arrival_base;
	s->nvcsw = nvcsw;
	s->cpu = cpu;
	return away;
}

/* Forget the time away so far: it belongs to no interval. */
static __always_inline void forget_away(struct slot *s)
{
	time_away(s, 0);
}

/* KVM_RUN returned to the VMM for the first time since the exit: the kernel's part of the interval ends. */
static __always_inline void end_kernel_part(struct slot *s, u64 now)
{
	struct away away = {};

	/* An event may have an earlier time than the last one. */
	if (now < s->since_ns)
		now = s->since_ns;
	if (now - s->since_ns >= SHORT_NS)
		away = time_away(s, now - s->since_ns);
	s->out_ns = now;
	s->out_wait_ns = away.wait_ns;
	s->out_sleep_ns = away.sleep_ns;
}

/*
 * Split an interval of `ns` that ends now: add the time away to its cells. `user` is the
 * cell of its first return to the VMM: it gets what came after that return. It is NULL if
 * there was no return, or if the return was dropped.
 */
static __always_inline void split_interval(struct slot *s, struct cell *exit, struct cell *user, u64 ns, u64 now)
{
	struct away away;

	if (!s->user_cell) {
		if (ns < SHORT_NS)
			return;
		away = time_away(s, ns);
	} else {
		if (now < s->out_ns)
			return;
		away = time_away(s, now - s->out_ns);
		if (user) {
			user->vmm_ns += now - s->out_ns;
			user->wait_ns += away.wait_ns;
			user->sleep_ns += away.sleep_ns;
		}
		away.wait_ns += s->out_wait_ns;
		away.sleep_ns += s->out_sleep_ns;
	}
	if (exit && exit != user && away.wait_ns + away.sleep_ns) {
		exit->wait_ns += away.wait_ns;
		exit->sleep_ns += away.sleep_ns;
	}
}
#else
static __always_inline void forget_away(struct slot *s) {}
static __always_inline void end_kernel_part(struct slot *s, u64 now) {}
static __always_inline void split_interval(struct slot *s, struct cell *exit, struct cell *user, u64 ns, u64 now) {}
#endif
