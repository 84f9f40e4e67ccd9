/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * Look-up of the slot of a thread, and of the cell of a reason. The first event of a
 * thread takes a free slot. The first event of a reason takes a free cell. maps.bpf.h
 * declares slots and cells.
 */

#define MAX_CHAIN	8	/* most cells in a slot whose codes have the same hash */

/* The first event of this thread: take a slot. Returns its number, 0 if no slot is free. */
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
	/* The owner is set last: a reader assumes that a slot with an owner is complete. */
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

/* The slot of the current thread; NULL if it has none and no slot is free. */
static __always_inline struct slot *current_slot(u64 now)
{
	u64 id = bpf_get_current_pid_tgid();
	u32 tid = id, zero = 0, n;
	u32 *cached, *known;
	struct slot *s;

	/*
	 * The slot of the vCPU that last ran on this CPU. The owner of the slot is
	 * compared with this thread. If they differ, this costs a look-up, but never
	 * makes a count wrong.
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
 * The cell of a reason of this vCPU: found in its chain, or taken from the free
 * cells and put at the head of the chain. Returns NULL if no cell is free, or if
 * the chain has MAX_CHAIN cells already (*full is true then).
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
	/* A reader follows the chain from its head: the cell must be complete before it is the head. */
	barrier();
	s->heads[h] = n;
	*number = n;
	return c;
}
