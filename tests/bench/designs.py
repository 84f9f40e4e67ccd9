"""BPF programs that are compared. They run on one tracepoint of a cheap system call, task:task_prctl_unknown.

The first argument of prctl says whether the event stands for an exit or an entry. The second one stands for the reason.
Each pair of functions is one way to count exits, and PAIR() makes a program of it. `empty` shows the cost of the
measurement itself. `floor` reads the clock and stores it, twice: every tool that measures intervals needs that. The
other pairs follow the designs of known tools, without their code.
"""

EXIT_OPTION, ENTRY_OPTION = 0x4B00, 0x4B01
"""Options of prctl that the kernel does not know."""

DEFINES = {"EXIT_OPTION": EXIT_OPTION, "ENTRY_OPTION": ENTRY_OPTION}
CLASSIC_DEFINES = {**DEFINES, "CLASSIC": 1}
"""C macros of the programs for a raw tracepoint, and for a classic one."""

TRACEPOINT = r"""
#ifdef CLASSIC
/* The offsets are those of events/task/task_prctl_unknown/format. With another result than 1, perf misses the event. */
#define OPTION(ctx)	(*(u32 *)((char *)(ctx) + 8))
#define REASON(ctx)	(*(u32 *)((char *)(ctx) + 16))
#define RESULT(call)	((call), 1)
#else
/* TP_PROTO(int option, unsigned long arg2, ...), include/trace/events/task.h */
#define OPTION(ctx)	((u32)(ctx)[0])
#define REASON(ctx)	((u32)(ctx)[1])
#define RESULT(call)	(call)
#endif

#define PAIR(name)						\
int name(u64 *ctx)						\
{								\
	if (OPTION(ctx) == EXIT_OPTION)				\
		return RESULT(name##_exit(REASON(ctx)));	\
	return RESULT(name##_entry());				\
}
"""

OURS = r"""
static __always_inline int ours_exit(u32 reason)
{
	return on_exit(SPACE_ARM64_TRAP, reason, NO_VCPU_ID, 0, bpf_ktime_get_ns());
}

static __always_inline int ours_entry(void)
{
	return on_entry(bpf_ktime_get_ns());
}

PAIR(ours)
"""

X86 = r"""
/* The front for x86 finds its arguments in the ones of prctl: the address of a vCPU in KVM's memory, and the ISA. */
int x86(struct bpf_raw_tracepoint_args *ctx)
{
	u64 now = bpf_ktime_get_ns();
	u32 isa = ctx->args[ISA_ARG];

	if (OPTION(ctx->args) == EXIT_OPTION)
		return on_exit(isa, code_of(ctx, isa), NO_VCPU_ID, ctx->args[VCPU_ARG], now);
	return on_entry(now);
}
"""
VCPU_ID, VMX_REASON, VMCB, EXIT_CODE = 0x24, 0x100, 0x140, 0x70
"""Offsets in KVM's memory of a vCPU, and in its VMCB. Each of them is in another cache line, as in the kernel."""
X86_DEFINES = {
    **DEFINES,
    "VCPU_ARG": 1,
    "ISA_ARG": 2,
    "KVM_VCPU_ID": VCPU_ID,
    "VMX_EXIT_REASON": VMX_REASON,
    "SVM_VMCB": VMCB,
    "SVM_EXIT_CODE": EXIT_CODE,
}

OTHERS = r"""
static __always_inline int empty_exit(u32 reason)
{
	return 0;
}

static __always_inline int empty_entry(void)
{
	return 0;
}

PAIR(empty)

BPF_F_TABLE("array", u32, u64, floor_since, 1, BPF_F_MMAPABLE);

static __always_inline int floor_exit(u32 reason)
{
	u32 zero = 0;
	u64 *since = floor_since.lookup(&zero);

	if (since)
		*since = bpf_ktime_get_ns();
	return 0;
}

static __always_inline int floor_entry(void)
{
	u32 zero = 0;
	u64 *since = floor_since.lookup(&zero);

	if (since)
		*since = bpf_ktime_get_ns() - *since;
	return 0;
}

PAIR(floor)

/* An earlier tool: a hash with one struct of 64 reasons for each thread, looked up twice; no histogram. */
struct seed_reason { u64 count, sum, min, max; };
struct seed_thread { u64 since; u32 reason; struct seed_reason reasons[64]; };
BPF_TABLE("hash", u64, struct seed_thread, seed_threads, 4096);
BPF_TABLE("percpu_array", u32, struct seed_thread, seed_zero, 1);

static __always_inline int seed_exit(u32 reason)
{
	u64 id = bpf_get_current_pid_tgid();
	struct seed_thread *t = seed_threads.lookup(&id);

	if (!t) {
		u32 zero = 0;
		struct seed_thread *fresh = seed_zero.lookup(&zero);

		if (!fresh)
			return 0;
		seed_threads.update(&id, fresh);
		t = seed_threads.lookup(&id);
		if (!t)
			return 0;
	}
	t->reason = reason;
	t->since = bpf_ktime_get_ns();
	return 0;
}

static __always_inline int seed_entry(void)
{
	u64 id = bpf_get_current_pid_tgid(), ns;
	struct seed_thread *t = seed_threads.lookup(&id);
	struct seed_reason *r;

	if (!t || !t->since)
		return 0;
	ns = bpf_ktime_get_ns() - t->since;
	r = &t->reasons[t->reason & 63];
	r->count++;
	r->sum += ns;
	if (!r->min || ns < r->min)
		r->min = ns;
	if (ns > r->max)
		r->max = ns;
	return 0;
}

PAIR(seed)

/* bcc's kvmexit: only counts of exits, in a per-CPU hash with a per-CPU cache of one thread. */
struct percpu_counts { u64 reasons[70]; };
struct percpu_cache { u64 id; struct percpu_counts counts; };
BPF_TABLE("percpu_hash", u64, struct percpu_counts, percpu_threads, 4096);
BPF_TABLE("percpu_array", u32, struct percpu_cache, percpu_last, 1);
BPF_TABLE("percpu_array", u32, struct percpu_counts, percpu_zero, 1);

static __always_inline int percpu_exit(u32 reason)
{
	u64 id = bpf_get_current_pid_tgid();
	u32 zero = 0;
	struct percpu_cache *last = percpu_last.lookup(&zero);
	struct percpu_counts *known;

	if (!last || reason >= 70)
		return 0;
	if (last->id != id) {
		if (last->id)
			percpu_threads.update(&last->id, &last->counts);
		known = percpu_threads.lookup(&id);
		if (!known)
			known = percpu_zero.lookup(&zero);
		if (!known)
			return 0;
		bpf_probe_read_kernel(&last->counts, sizeof(last->counts), known);
		last->id = id;
	}
	last->counts.reasons[reason]++;
	return 0;
}

static __always_inline int percpu_entry(void)
{
	return 0;
}

PAIR(percpu)

/* A simple bcc script: start times, reasons and sums in three hashes, with updates and deletes. */
struct hash_key { u64 id; u32 reason; u32 pad; };
BPF_TABLE("hash", u64, u64, hash_since, 4096);
BPF_TABLE("hash", u64, u32, hash_reason, 4096);
BPF_TABLE("hash", struct hash_key, u64, hash_count, 16384);

static __always_inline int hash_exit(u32 reason)
{
	u64 id = bpf_get_current_pid_tgid(), now = bpf_ktime_get_ns();

	hash_since.update(&id, &now);
	hash_reason.update(&id, &reason);
	return 0;
}

static __always_inline int hash_entry(void)
{
	u64 id = bpf_get_current_pid_tgid(), one = 1, *since = hash_since.lookup(&id), *count;
	u32 *known = hash_reason.lookup(&id);
	struct hash_key key = { .id = id };

	if (!since || !known)
		return 0;
	key.reason = *known;
	count = hash_count.lookup(&key);
	if (count)
		*count += bpf_ktime_get_ns() - *since;
	else
		hash_count.update(&key, &one);
	hash_since.delete(&id);
	hash_reason.delete(&id);
	return 0;
}

PAIR(hash)
"""

PAIRS = ("empty", "floor", "ours", "seed", "percpu", "hash")
"""Names of the programs."""
