// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0
/*
 * The handlers that count every KVM exit by vCPU thread and reason, and measure the
 * time until the vCPU runs its guest again. No event leaves the kernel.
 *
 * front.bpf.h declares these handlers, and the fronts call them. maps.bpf.h declares
 * slots, cells and counters, lookup.bpf.h finds them, buckets.bpf.h has bucket_of(),
 * time_split.bpf.h tells where the time of an interval went.
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

/* A dropped event: the counter of its cause, and its process. */
#define DROP(event)		do { COUNT(event); name_drop(false); } while (0)
#define DROP_USERSPACE(event)	do { COUNT(event); name_drop(true); } while (0)

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

/*
 * The state of a vCPU and its guest time share a word, so that a reader never has one
 * without the other. The state is in the low bits. Above it is, in ns:
 *
 * - out of the guest: the guest time.
 * - in the guest: the time when the vCPU would have entered its guest if it had never
 *   left it since then. The guest time is what has passed since this moment.
 */
#define STATE_BITS	2

static __always_inline u32 state_of(struct slot *s)
{
	return s->guest & ((1 << STATE_BITS) - 1);
}

/*
 * A second word has the cell of the exit in progress (0: none), and above it the low
 * bits of since_ns + ns: a reader uses since_ns and the cell only if they belong to the
 * state. Set since_ns first.
 */
static __always_inline void set_state(struct slot *s, u32 state, u64 ns, u32 cell)
{
	s->guest = ns << STATE_BITS | state;
	s->exit = (s->since_ns + ns) << 32 | cell;
}

/* The guest time until `until`. The vCPU must be in its guest. An event may have an earlier time than the last one. */
static __always_inline u64 guest_ns_until(struct slot *s, u64 until)
{
	return (until > s->since_ns ? until : s->since_ns) - (s->guest >> STATE_BITS);
}

/* The vCPU leaves its guest: from here on it is in this state, and in this cell (0: none). */
static __always_inline void leave_guest(struct slot *s, u32 cell, u32 state, u64 now)
{
	u64 guest_ns = s->guest >> STATE_BITS;

	if (state_of(s) == STATE_GUEST) {
		guest_ns = guest_ns_until(s, now);
	} else if (state_of(s) == STATE_HOST) {
		COUNT(unmatched_exit);
		forget_away(s);
	}
	s->since_ns = now;
	s->user_cell = 0;
	set_state(s, state, guest_ns, cell);
}

/* Add an exit to its cell. Without a cell it is dropped. */
static __always_inline void count_exit(struct cell *c, bool full)
{
	if (c)
		c->exits++;
	else if (full)
		DROP(dropped_chain_full);
	else
		DROP(dropped_no_cell);
}

#ifdef REASON_FOLLOWS
static __always_inline void give_reason(struct slot *s, u32 space, u64 code)
{
	struct cell *c;
	u32 n = 0;
	bool full;

	c = cell_of(s, space, code, &n, &full);
	set_state(s, STATE_HOST, s->guest >> STATE_BITS, n);
	count_exit(c, full);
}

/* An event that is not the reason: no reason follows any more. */
static __always_inline void end_wait_for_reason(struct slot *s)
{
	if (state_of(s) == STATE_NO_REASON)
		give_reason(s, NO_REASON_SPACE, NO_REASON_CODE);
}

static __always_inline int on_exit_without_reason(u32 vcpu_id, u64 now)
{
	struct slot *s = current_slot(now);

	if (!s) {
		DROP(dropped_no_slot);
		return 0;
	}
	end_wait_for_reason(s);
	s->vcpu_id_plus_1 = vcpu_id + 1;
	leave_guest(s, 0, STATE_NO_REASON, now);
	return 0;
}

static __always_inline int on_reason(u32 space, u64 code, u64 now)
{
	struct slot *s = current_slot(now);

	if (s && state_of(s) == STATE_NO_REASON)
		give_reason(s, space, code);
	return 0;
}
#else
static __always_inline void end_wait_for_reason(struct slot *s) {}
#endif

static __always_inline int on_exit(u32 space, u64 code, u32 vcpu_id, u64 vcpu, u64 now)
{
	struct slot *s = current_slot(now);
	struct cell *c;
	u32 n = 0;
	bool full;

	if (!s) {
		DROP(dropped_no_slot);
		return 0;
	}
	end_wait_for_reason(s);
	/* A thread runs one vCPU. To read the id costs more than to count an exit, so it is read once. */
	if (vcpu && !s->vcpu_id_plus_1)
		vcpu_id = read_vcpu_id(vcpu);
	if (vcpu_id != NO_VCPU_ID)
		s->vcpu_id_plus_1 = vcpu_id + 1;
	c = cell_of(s, space, code, &n, &full);
	leave_guest(s, n, STATE_HOST, now);
	count_exit(c, full);
	return 0;
}

/* The exit in progress is completed. Add its interval to its cell, and to the cell of its first return to the VMM. */
static __always_inline void end_interval(struct slot *s, u64 now)
{
	u64 ns = now > s->since_ns ? now - s->since_ns : 0;
	struct cell *exit = NULL, *user = NULL;
	u32 n = s->exit, user_cell = s->user_cell;

	if (n) {
		exit = cells.lookup(&n);
		if (exit)
			observe(exit, ns);
	}
	if (user_cell) {
		user = cells.lookup(&user_cell);
		if (user && user_cell != n)
			observe(user, ns);
	}
	split_interval(s, exit, user, ns, now);
}

static __always_inline int on_entry(u64 now)
{
	struct slot *s = current_slot(now);
	u64 guest_ns;

	if (!s)
		return 0;	/* its exits are counted as dropped */
	end_wait_for_reason(s);
	guest_ns = s->guest >> STATE_BITS;
	if (state_of(s) == STATE_HOST) {
		end_interval(s, now);
	} else if (state_of(s) == STATE_GUEST) {
		/* The last entry failed, or its exit was missed: its time counts nowhere. */
		guest_ns = guest_ns_until(s, s->since_ns);
		COUNT(unmatched_entry);
		forget_away(s);
	}
	s->since_ns = now;
	set_state(s, STATE_GUEST, now - guest_ns, 0);
	return 0;
}

/*
 * KVM_RUN returns to the VMM. Several of these events can lie between an exit and
 * its entry (a signal can interrupt KVM_RUN before it enters). Each is counted. The
 * interval is added to the first event, which says why the exit left the kernel.
 *
 * If the vCPU is in its guest, it has left it without an exit: the CPU refused the
 * entry (VMfail of VMX, a VMRUN that SVM does not even try), or the exit was missed.
 * Then this return takes the place of the exit.
 */
static __always_inline int on_userspace_exit(u32 space, u64 code, u64 now)
{
	struct slot *s = current_slot(now);
	struct cell *c;
	u32 n = 0;
	bool full;

	if (!s) {
		DROP_USERSPACE(dropped_userspace_no_slot);
		return 0;
	}
	end_wait_for_reason(s);
	c = cell_of(s, space, code, &n, &full);
	if (c)
		c->exits++;
	else if (full)
		DROP_USERSPACE(dropped_userspace_chain_full);
	else
		DROP_USERSPACE(dropped_userspace_no_cell);

	if (state_of(s) == STATE_GUEST) {
		COUNT(unmatched_entry);
		forget_away(s);
		leave_guest(s, n, STATE_HOST, now);
	} else if (state_of(s) == STATE_FRESH) {
		COUNT(unmatched_userspace_exit);
		return 0;
	}
	if (!s->user_cell) {
		s->user_cell = n ? n : DROPPED_CELL;	/* a later return must not take the interval */
		end_kernel_part(s, now);
	}
	return 0;
}

/* The thread has ended. This runs in the thread that ends, so the slot still has a single writer. */
static __always_inline int on_thread_end(u32 tid, u64 now)
{
	u32 *known = tid_slot.lookup(&tid);
	struct slot *s;
	u32 n;

	if (!known)
		return 0;
	n = *known;
	s = slots.lookup(&n);
	if (s)
		end_slot(s, tid);
	return 0;
}
