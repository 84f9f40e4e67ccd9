"""BPF programs that are compared. They run on the tracepoints of a cheap system call, umask.

umask's argument stands for the exit reason. Each pair is one way to count exits: `*_exit` runs at the start of the
call, `*_entry` at its end. `empty` shows the cost of the measurement itself. `floor` is two clock reads and one store:
every tool that measures intervals needs them. The other pairs follow the designs of known tools, without their code.
"""

OURS = r"""
/* events/syscalls/sys_enter_umask/format: the argument follows the system call's number */
#define REASON(ctx) ((u32)((u64 *)(ctx))[2])

int ours_exit(u64 *ctx)
{
	return on_exit(SPACE_ARM64_TRAP, REASON(ctx), NO_VCPU_ID, bpf_ktime_get_ns());
}

int ours_entry(u64 *ctx)
{
	return on_entry(bpf_ktime_get_ns());
}
"""
OURS_PROGRAMS = ("ours_exit", "ours_entry")

OTHERS = r"""
int empty_exit(u64 *ctx) { return 0; }
int empty_entry(u64 *ctx) { return 0; }

BPF_F_TABLE("array", u32, u64, floor_since, 1, BPF_F_MMAPABLE);

int floor_exit(u64 *ctx)
{
	u32 zero = 0;
	u64 *since = floor_since.lookup(&zero);

	if (since)
		*since = bpf_ktime_get_ns();
	return 0;
}

int floor_entry(u64 *ctx)
{
	u32 zero = 0;
	u64 *since = floor_since.lookup(&zero);

	if (since)
		*since = bpf_ktime_get_ns() - *since;
	return 0;
}

/* An earlier tool: a hash with one struct of 64 reasons for each thread, looked up twice; no histogram. */
struct seed_reason { u64 count, sum, min, max; };
struct seed_thread { u64 since; u32 reason; struct seed_reason reasons[64]; };
BPF_TABLE("hash", u64, struct seed_thread, seed_threads, 4096);
BPF_TABLE("percpu_array", u32, struct seed_thread, seed_zero, 1);

int seed_exit(u64 *ctx)
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
	t->reason = REASON(ctx);
	t->since = bpf_ktime_get_ns();
	return 0;
}

int seed_entry(u64 *ctx)
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

/* bcc's kvmexit: only counts of exits, in a per-CPU hash with a per-CPU cache of one thread. */
struct percpu_counts { u64 reasons[70]; };
struct percpu_cache { u64 id; struct percpu_counts counts; };
BPF_TABLE("percpu_hash", u64, struct percpu_counts, percpu_threads, 4096);
BPF_TABLE("percpu_array", u32, struct percpu_cache, percpu_last, 1);
BPF_TABLE("percpu_array", u32, struct percpu_counts, percpu_zero, 1);

int percpu_exit(u64 *ctx)
{
	u64 id = bpf_get_current_pid_tgid();
	u32 zero = 0, reason = REASON(ctx);
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

int percpu_entry(u64 *ctx) { return 0; }

/* A simple bcc script: start times, reasons and sums in three hashes, with updates and deletes. */
struct hash_key { u64 id; u32 reason; u32 pad; };
BPF_TABLE("hash", u64, u64, hash_since, 4096);
BPF_TABLE("hash", u64, u32, hash_reason, 4096);
BPF_TABLE("hash", struct hash_key, u64, hash_count, 16384);

int hash_exit(u64 *ctx)
{
	u64 id = bpf_get_current_pid_tgid(), now = bpf_ktime_get_ns();
	u32 reason = REASON(ctx);

	hash_since.update(&id, &now);
	hash_reason.update(&id, &reason);
	return 0;
}

int hash_entry(u64 *ctx)
{
	u64 id = bpf_get_current_pid_tgid(), one = 1, *since = hash_since.lookup(&id), *count;
	u32 *reason = hash_reason.lookup(&id);
	struct hash_key key = { .id = id };

	if (!since || !reason)
		return 0;
	key.reason = *reason;
	count = hash_count.lookup(&key);
	if (count)
		*count += bpf_ktime_get_ns() - *since;
	else
		hash_count.update(&key, &one);
	hash_since.delete(&id);
	hash_reason.delete(&id);
	return 0;
}
"""

PAIRS = {
    "empty programs": "empty",
    "floor: two clock reads, one store": "floor",
    "this exporter": "ours",
    "seed: one hash, count/sum/min/max": "seed",
    "bcc kvmexit: per-CPU hash, counts only": "percpu",
    "three hashes, update and delete": "hash",
}
PROGRAMS = tuple(f"{prefix}_{end}" for prefix in PAIRS.values() for end in ("exit", "entry"))
