// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0
/*
 * Count every KVM exit by vCPU thread and reason, and how long it took until
 * the vCPU ran its guest again. No event leaves the kernel: user space maps
 * the arrays below and reads them when it is asked.
 *
 * A vCPU is one thread and its tracepoints fire in that thread, so whatever
 * belongs to a vCPU has a single writer: no atomics, no per-CPU copies.
 *
 * The loader puts fronts.bpf.h before this, and defines NR_SLOTS and NR_CELLS.
 */

/* Keeps the compiler from moving stores that a reader in user space must see in this order. */
#define barrier()	asm volatile("" ::: "memory")

/*
 * Histogram buckets: the powers 2^(k/4) of a second, upper bound inclusive.
 * Bucket 0 holds what is at most 2^-23 s (119 ns), bucket i up to
 * 2^((i - 92) / 4) s, bucket 140 up to 2^12 s, bucket 141 all the rest.
 */
#define NR_BUCKETS	142
#define MIN_BUCKET_NS	119ULL			/* floor(2^-23 s) */
#define MAX_BUCKET_NS	4096000000000ULL	/* 2^12 s */

/*
 * A second is 10^9 = 5^9 * 2^9 ns, so in ns every boundary is 5^9 * 2^(-q/4)
 * times a power of two. These are the four of an octave, scaled so that a
 * value whose highest set bit is bit 62 can be compared with them:
 * floor(5^9 * 2^42 * 2^(-q/4)). Floor is exact, for the value is an integer.
 */
#define BOUND_Q3	5107605667107197932ULL
#define BOUND_Q2	6074000999952099384ULL
#define BOUND_Q1	7223245205676679009ULL
#define BOUND_Q0	8589934592000000000ULL

#define NR_HEADS	64	/* chains of cells in a slot; arm64's 64 ECs get one each */
#define MAX_CHAIN	8

enum vcpu_state {
	STATE_FRESH,		/* neither an exit nor an entry was seen yet */
	STATE_GUEST,
	STATE_HOST,
};

/* One reason of one vCPU. Number 0 is never handed out: it means "none". */
struct cell {
	u64 exits;
	u64 completed;		/* exits that were followed by an entry: what the buckets hold */
	u64 sum_ns;		/* of their intervals */
	u64 code;
	u32 space;		/* what the code is a code of: SPACE_* */
	u32 next;		/* the next cell of the chain */
	u32 slot;		/* whose it is */
	u32 pad0;
	u64 buckets[NR_BUCKETS];
	u64 pad[4];		/* to whole cache lines: neighbours belong to other vCPUs */
};

/* One vCPU thread. The first cache line is all that an exit and an entry touch. */
struct slot {
	u32 owner;		/* tid while the thread lives, else 0 */
	u32 state;
	u64 since_ns;		/* of the last exit or entry, CLOCK_MONOTONIC */
	u64 guest_ns;		/* completed intervals from entry to exit */
	u32 exit_cell;		/* of the exit in flight */
	u32 user_cell;		/* of its first trip to the VMM, 0: none yet */
	u32 vcpu_id;		/* the kernel's, or NO_VCPU_ID */
	u32 tid;		/* stays when the thread has died, as all below */
	u32 tgid;
	u32 number;		/* of this slot */
	u64 born_ns;
	u64 died_ns;		/* 0 while the thread lives */
	char comm[16];		/* at the first event */
	u32 heads[NR_HEADS];	/* chains of cells, by hash of the code */
	u64 pad[6];
};

/* Events that are in no cell. They are rare and belong to no vCPU: atomic adds. */
struct counters {
	u64 dropped_no_slot;
	u64 dropped_no_cell;
	u64 dropped_chain_full;
	u64 dropped_userspace_no_slot;
	u64 dropped_userspace_no_cell;
	u64 dropped_userspace_chain_full;
	u64 unmatched_exit;		/* an exit of a vCPU that was out already */
	u64 unmatched_entry;		/* an entry of a vCPU that was in already */
	u64 unmatched_userspace_exit;	/* no exit was in flight */
};

BPF_F_TABLE("array", u32, struct slot, slots, NR_SLOTS + 1, BPF_F_MMAPABLE);
BPF_F_TABLE("array", u32, struct cell, cells, NR_CELLS + 1, BPF_F_MMAPABLE);
BPF_F_TABLE("array", u32, struct counters, counters, 1, BPF_F_MMAPABLE);
BPF_TABLE("hash", u32, u32, tid_slot, NR_SLOTS);
BPF_TABLE("percpu_array", u32, u32, cpu_slot, 1);
/*
 * User space fills these at the start, lowest numbers on top, and again with what
 * the dead leave behind. Stacks, so that what was used last is used again and the
 * arrays fill from below: user space maps and reads no more of them than that.
 */
BPF_STACK(free_slots, u32, NR_SLOTS);
BPF_STACK(free_cells, u32, NR_CELLS);

static __always_inline struct counters *the_counters(void)
{
	u32 zero = 0;

	return counters.lookup(&zero);
}

#define COUNT(event) do {						\
	struct counters *__c = the_counters();				\
									\
	if (__c)							\
		__sync_fetch_and_add(&__c->event, 1);			\
} while (0)

static __always_inline u32 bucket_of(u64 ns)
{
	u64 x = ns;
	u32 log2 = 0;

	if (ns <= MIN_BUCKET_NS)
		return 0;
	if (ns > MAX_BUCKET_NS)
		return NR_BUCKETS - 1;

	/* ns < 2^42 from here on */
	if (x >> 32) { x >>= 32; log2 += 32; }
	if (x >> 16) { x >>= 16; log2 += 16; }
	if (x >> 8)  { x >>= 8;  log2 += 8; }
	if (x >> 4)  { x >>= 4;  log2 += 4; }
	if (x >> 2)  { x >>= 2;  log2 += 2; }
	log2 += x >> 1;

	x = ns << (62 - log2);
	/* 120 ns is bucket 1: highest bit 6, above all four bounds of its octave */
	return 4 * log2 - 27 + (x > BOUND_Q3) + (x > BOUND_Q2) +
	       (x > BOUND_Q1) + (x > BOUND_Q0);
}

static __always_inline void observe(struct cell *c, u64 ns)
{
	u32 i = bucket_of(ns);

	/* For the verifier, which cannot follow the arithmetic. */
	asm volatile("" : "+r"(i));
	if (i < NR_BUCKETS) {
		c->buckets[i]++;
		c->sum_ns += ns;
		c->completed++;
	}
}

/* A first event of this thread: take a slot. Returns its number, 0 if there is none. */
static __always_inline u32 adopt_thread(u64 id, u64 now)
{
	u32 tid = id, n = 0;
	struct slot *s;

	if (free_slots.pop(&n))
		return 0;
	s = slots.lookup(&n);
	if (!s)
		return 0;
	s->tid = tid;
	s->tgid = id >> 32;
	s->number = n;
	s->vcpu_id = NO_VCPU_ID;
	s->born_ns = now;
	bpf_get_current_comm(&s->comm, sizeof(s->comm));
	/* A reader takes a slot with an owner for complete. */
	barrier();
	s->owner = tid;
	if (tid_slot.update(&tid, &n)) {
		s->owner = 0;
		s->tid = 0;
		free_slots.push(&n, 0);
		return 0;
	}
	return n;
}

static __always_inline struct slot *current_slot(u64 now)
{
	u64 id = bpf_get_current_pid_tgid();
	u32 tid = id, zero = 0, n;
	u32 *cached, *known;
	struct slot *s;

	/*
	 * The slot of the vCPU that last ran on this CPU. The owner decides: a
	 * slot that changed hands since can cost a look-up, never a wrong count.
	 */
	cached = cpu_slot.lookup(&zero);
	if (!cached)
		return NULL;
	n = *cached;
	s = slots.lookup(&n);
	if (s && s->owner == tid)
		return s;

	known = tid_slot.lookup(&tid);
	n = known ? *known : adopt_thread(id, now);
	if (!n)
		return NULL;
	*cached = n;
	return slots.lookup(&n);
}

/*
 * The cell of a reason of this vCPU: found in its chain, or taken from the pool
 * and put at the chain's head. Returns NULL, and *full says why, if it is neither.
 */
static __always_inline struct cell *cell_of(struct slot *s, u32 space, u64 code,
					    u32 *number, bool *full)
{
	u32 h = (code ^ (code >> 8) ^ (space << 4)) & (NR_HEADS - 1);
	u32 first = s->heads[h], n = first;
	struct cell *c;

	*full = false;
#pragma unroll
	for (int i = 0; i < MAX_CHAIN; i++) {
		if (!n)
			goto take;
		c = cells.lookup(&n);
		if (!c)
			return NULL;
		if (c->code == code && c->space == space) {
			*number = n;
			return c;
		}
		n = c->next;
	}
	*full = true;
	return NULL;

take:
	if (free_cells.pop(&n))
		return NULL;
	c = cells.lookup(&n);
	if (!c)
		return NULL;
	c->code = code;
	c->space = space;
	c->next = first;
	c->slot = s->number;
	/* A reader follows the chain from its head. */
	barrier();
	s->heads[h] = n;
	*number = n;
	return c;
}

static __always_inline int on_exit(u32 space, u64 code, u32 vcpu_id, u64 now)
{
	struct slot *s = current_slot(now);
	struct cell *c;
	u32 n = 0, was;
	u64 since;
	bool full;

	if (!s) {
		COUNT(dropped_no_slot);
		return 0;
	}
	if (vcpu_id != NO_VCPU_ID)
		s->vcpu_id = vcpu_id;
	c = cell_of(s, space, code, &n, &full);

	was = s->state;
	since = s->since_ns;
	s->exit_cell = n;
	s->user_cell = 0;
	s->since_ns = now;
	s->state = STATE_HOST;
	/*
	 * The guest time comes last: to a reader in between it is older than the
	 * truth, where state and since_ns of before would make it count twice.
	 */
	barrier();
	if (was == STATE_GUEST) {
		if (now > since)
			s->guest_ns += now - since;
	} else if (was == STATE_HOST) {
		COUNT(unmatched_exit);
	}
	if (c)
		c->exits++;
	else if (full)
		COUNT(dropped_chain_full);
	else
		COUNT(dropped_no_cell);
	return 0;
}

static __always_inline int on_entry(u64 now)
{
	struct slot *s = current_slot(now);
	struct cell *c;
	u64 ns;
	u32 n;

	if (!s)
		return 0;	/* its exits are counted as dropped */
	if (s->state == STATE_HOST) {
		ns = now > s->since_ns ? now - s->since_ns : 0;
		n = s->exit_cell;
		if (n) {
			c = cells.lookup(&n);
			if (c)
				observe(c, ns);
		}
		n = s->user_cell;
		if (n) {
			c = cells.lookup(&n);
			if (c)
				observe(c, ns);
		}
	} else if (s->state == STATE_GUEST) {
		COUNT(unmatched_entry);
	}
	/* In this order: time out of the guest must never pass for time in it. */
	s->since_ns = now;
	barrier();
	s->state = STATE_GUEST;
	return 0;
}

/*
 * KVM_RUN returns to the VMM. Several of these can lie between an exit and its
 * entry (KVM_RUN interrupted by a signal before it enters): each is counted, the
 * interval belongs to the first, for that is why the exit left the kernel.
 */
static __always_inline int on_userspace_exit(u32 space, u64 code, u64 now)
{
	struct slot *s = current_slot(now);
	struct cell *c;
	u32 n = 0;
	bool full;

	if (!s) {
		COUNT(dropped_userspace_no_slot);
		return 0;
	}
	c = cell_of(s, space, code, &n, &full);
	if (c)
		c->exits++;
	else if (full)
		COUNT(dropped_userspace_chain_full);
	else
		COUNT(dropped_userspace_no_cell);

	if (s->state != STATE_HOST)
		COUNT(unmatched_userspace_exit);
	else if (!s->user_cell)
		s->user_cell = n;
	return 0;
}

/*
 * The thread has ended: its slot is user space's to read a last time and to give
 * back. In the dying thread, so that the slot still has but one writer.
 */
static __always_inline int on_thread_end(u32 tid, u64 now)
{
	u32 *n = tid_slot.lookup(&tid);
	struct slot *s;

	if (!n)
		return 0;
	s = slots.lookup(n);
	if (s) {
		s->died_ns = now;
		barrier();
		s->owner = 0;
	}
	tid_slot.delete(&tid);
	return 0;
}
