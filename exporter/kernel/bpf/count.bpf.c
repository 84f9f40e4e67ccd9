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

/* The vCPU leaves its guest: from here on it is in this state, and in this cell (0: none). */
static __always_inline void leave_guest(struct slot *s, u32 cell, u32 state, u64 now)
{
	u32 was = s->state;
	u64 since = s->since_ns;

	s->exit_cell = cell;
	s->user_cell = 0;
	s->since_ns = now;
	s->state = state;
	/*
	 * The guest time is written last. Until then, a reader sees too little guest
	 * time. In the other order, the reader would count the interval twice: once
	 * in guest_ns, and once from the old state and since_ns.
	 */
	barrier();
	if (was == STATE_GUEST) {
		if (now > since)
			s->guest_ns += now - since;
	} else if (was == STATE_HOST) {
		COUNT(unmatched_exit);
	}
}

/* Add an exit to its cell. Without a cell it is dropped. */
static __always_inline void count_exit(struct cell *c, bool full)
{
	if (c)
		c->exits++;
	else if (full)
		COUNT(dropped_chain_full);
	else
		COUNT(dropped_no_cell);
}

#ifdef REASON_FOLLOWS
static __always_inline void give_reason(struct slot *s, u32 space, u64 code)
{
	struct cell *c;
	u32 n = 0;
	bool full;

	c = cell_of(s, space, code, &n, &full);
	s->exit_cell = n;
	/* A reader that sees this state uses the cell. */
	barrier();
	s->state = STATE_HOST;
	count_exit(c, full);
}

/* An event that is not the reason: no reason follows any more. */
static __always_inline void end_wait_for_reason(struct slot *s)
{
	if (s->state == STATE_NO_REASON)
		give_reason(s, NO_REASON_SPACE, NO_REASON_CODE);
}

static __always_inline int on_exit_without_reason(u32 vcpu_id, u64 now)
{
	struct slot *s = current_slot(now);

	if (!s) {
		COUNT(dropped_no_slot);
		return 0;
	}
	end_wait_for_reason(s);
	s->vcpu_id = vcpu_id;
	leave_guest(s, 0, STATE_NO_REASON, now);
	return 0;
}

static __always_inline int on_reason(u32 space, u64 code, u64 now)
{
	struct slot *s = current_slot(now);

	if (s && s->state == STATE_NO_REASON)
		give_reason(s, space, code);
	return 0;
}
#else
static __always_inline void end_wait_for_reason(struct slot *s) {}
#endif

static __always_inline int on_exit(u32 space, u64 code, u32 vcpu_id, u64 now)
{
	struct slot *s = current_slot(now);
	struct cell *c;
	u32 n = 0;
	bool full;

	if (!s) {
		COUNT(dropped_no_slot);
		return 0;
	}
	end_wait_for_reason(s);
	if (vcpu_id != NO_VCPU_ID)
		s->vcpu_id = vcpu_id;
	c = cell_of(s, space, code, &n, &full);
	leave_guest(s, n, STATE_HOST, now);
	count_exit(c, full);
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
	end_wait_for_reason(s);
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
	end_wait_for_reason(s);
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
		end_wait_for_reason(s);
		s->died_ns = now;
		barrier();
		s->owner = 0;
	}
	tid_slot.delete(&tid);
	return 0;
}
