// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0
/*
 * The handlers that count every KVM exit by vCPU thread and reason, and measure the
 * time until the vCPU runs its guest again. No event leaves the kernel.
 *
 * front.bpf.h declares these handlers, and the fronts call them. maps.bpf.h declares
 * slots, cells and counters, lookup.bpf.h finds them, buckets.bpf.h has bucket_of().
 */

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

/* Add a completed interval to a cell. */
static __always_inline void observe(struct cell *c, u64 ns)
{
	u32 i = bucket_of(ns);

	/* The verifier cannot follow the arithmetic of bucket_of(), so the index is checked here. */
	asm volatile("" : "+r"(i));
	if (i < NR_BUCKETS) {
		c->buckets[i]++;
		c->sum_ns += ns;
		c->completed++;
	}
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
	 * The guest time is written last. A reader that reads before that sees too
	 * little guest time. In the other order the reader would count the interval
	 * twice: once in guest_ns, and once from the old state and since_ns.
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
	/* The state is written last: a reader must never count time in the host as guest time. */
	s->since_ns = now;
	barrier();
	s->state = STATE_GUEST;
	return 0;
}

/*
 * KVM_RUN returns to the VMM. Several of these events can lie between an exit and
 * its entry (a signal can interrupt KVM_RUN before it enters). Each is counted. The
 * interval is added to the first event, which says why the exit left the kernel.
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
 * The thread has ended. User space will read its slot for the last time and free it.
 * This runs in the thread that ends, so the slot still has a single writer.
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
