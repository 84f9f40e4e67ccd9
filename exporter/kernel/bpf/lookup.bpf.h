/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * Look-up of the slot of a thread, and of the cell of a reason. The first event of a
 * thread takes a free slot. The first event of a reason takes a free cell. maps.bpf.h
 * declares slots and cells, share.bpf.h says whether a process may take one more.
 */

#define MAX_CHAIN	8	/* most cells in a slot whose codes have the same hash */

/* A reader accepts an identity only with its check: then it has all its words. */
static __always_inline u64 identity_check(struct slot *s)
{
	u64 *comm = (u64 *)s->comm;

	return ~(s->id + 3 * s->born_ns + 5 * comm[0] + 7 * comm[1]);
}

/* The first event of this thread: take a slot. Returns its number, 0 if there is none for it. */
static __always_inline u32 adopt_thread(u64 id, u64 now)
{
	u32 tid = id, n = 0;
	struct slot *s;

	if (!may_take_slot(id >> 32) || free_slots.pop(&n))
		return 0;
	s = slots.lookup(&n);
	if (!s)
		return 0;
	/* Before the first write to the slot: if this fails, the slot is as clean as before. */
	if (tid_slot.update(&tid, &n)) {
		free_slots.push(&n, 0);
		return 0;
	}
	slot_taken(id >> 32);
	s->id = id;
	s->number = n;
	s->born_ns = now;
	bpf_get_current_comm(&s->comm, sizeof(s->comm));
	s->check = identity_check(s);
	forget_away(s);
	s->owner = id;
	return n;
}

static __always_inline void end_wait_for_reason(struct slot *s);

/*
 * The thread with this tid has ended, and tid_slot has this slot for it. If its end was
 * missed earlier, user space may have freed the slot already for another thread.
 *
 * User space reads an ended slot for the last time, and frees it. By then it must see
 * all earlier stores. The kernel orders stores before an unlock and stores after a later
 * lock (tools/memory-model/Documentation/explanation.txt). The deletion contains such an
 * unlock, and the look at the stack such a lock.
 */
static __always_inline void end_slot(struct slot *s, u32 tid)
{
	u32 n;

	if ((u32)s->id == tid)
		end_wait_for_reason(s);
	tid_slot.delete(&tid);
	free_slots.peek(&n);
	if ((u32)s->id == tid)
		s->owner = OWNER_ENDED;
}

/* The slot of the current thread; NULL if it has none and there is none for it. */
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
	if (s && s->owner == id)
		return s;

	known = tid_slot.lookup(&tid);
	if (known) {
		n = *known;
		s = slots.lookup(&n);
		if (s && s->owner == id) {
			*cached = n;
			return s;
		}
		/*
		 * An earlier thread had this tid, and its end was missed: the kernel skips
		 * an event while another program runs on the CPU, or is preempted there.
		 */
		if (s)
			end_slot(s, tid);
	}
	n = adopt_thread(id, now);
	if (!n)
		return NULL;
	*cached = n;
	return slots.lookup(&n);
}

/*
 * The cell of a reason of this vCPU: found in its chain, or taken from the free
 * cells and put at the head of the chain. Returns NULL if there is no cell for this
 * process, or if the chain has MAX_CHAIN cells already (*full is true then).
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
		if (c->code == code && (u32)c->slot_space == space) {
			*number = n;
			return c;
		}
		n = c->next;
	}
	*full = true;
	return NULL;

take:
	if (!may_take_cell(s->id >> 32) || free_cells.pop(&n))
		return NULL;
	c = cells.lookup(&n);
	if (!c)
		return NULL;
	cell_taken(s->id >> 32);
	/* A reader accepts the cell only if not_code is ~code and slot_space is set. */
	c->code = code;
	c->not_code = ~code;
	c->slot_space = (u64)s->number << 32 | space;
	c->next = first;
	s->heads[h] = n;
	*number = n;
	return c;
}
