// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0
/*
 * The handlers that record: they send every event of vCPU threads to user space
 * through a ring buffer. If the buffer has no room for an event, the event is counted
 * as lost, by its kind.
 *
 * front.bpf.h declares these handlers, and the fronts call them. The loader defines
 * NR_SLOTS (threads that can be followed at a time), RING_BYTES, and ONLY_TGID if
 * only one process is recorded.
 */

/* The numbers are part of the file format: docs/recording-format.md. */
enum event_kind {
	EVENT_EXIT = 1,
	EVENT_ENTRY,
	EVENT_USERSPACE_EXIT,
	EVENT_THREAD_END,
	EVENT_THREAD,		/* before a thread's first event: its comm */
};

/* exporter/recording/ring.py and events.py read this structure. */
struct event {
	u64 ns;
	u32 kind;
	u32 tid;
	u32 tgid;
	u32 space;
	union {
		struct {
			u64 code;
			u32 vcpu_id;
			u32 zero;
		};
		char comm[16];
	};
};

struct lost {
	u64 exit;
	u64 entry;
	u64 userspace_exit;
	u64 thread_end;
};

/* BPF_RINGBUF_OUTPUT multiplies by PAGE_SIZE, but the loader passes the size in bytes. */
#undef PAGE_SIZE
#define PAGE_SIZE	1
BPF_RINGBUF_OUTPUT(events, RING_BYTES);
BPF_F_TABLE("array", u32, struct lost, lost, 1, BPF_F_MMAPABLE);
/* tid -> tgid of the threads that were announced and have not ended. */
BPF_TABLE("hash", u32, u32, threads, NR_SLOTS);
BPF_TABLE("percpu_array", u32, u32, sent, 1);

static __always_inline struct lost *the_lost(void)
{
	u32 zero = 0;

	return lost.lookup(&zero);
}

#define LOST(event) do {						\
	struct lost *__l = the_lost();					\
									\
	if (__l)							\
		__sync_fetch_and_add(&__l->event, 1);			\
} while (0)

/*
 * A wake-up is an interrupt and a context switch: one for each event would cost
 * more than the exit. User space reads the ring ten times a second without being
 * woken. Every WAKE_EVERY-th event of a CPU also wakes it, long before the ring is
 * full.
 */
#define WAKE_EVERY	128

static __always_inline u64 wake_flags(void)
{
	u32 zero = 0, *count = sent.lookup(&zero);

	if (count && ++*count % WAKE_EVERY == 0)
		return BPF_RB_FORCE_WAKEUP;
	return BPF_RB_NO_WAKEUP;
}

static __always_inline bool put(u32 kind, u32 tid, u32 tgid, u32 space, u64 code, u32 vcpu_id,
				u64 now)
{
	struct event *e = events.ringbuf_reserve(sizeof(struct event));

	if (!e)
		return false;
	e->ns = now;
	e->kind = kind;
	e->tid = tid;
	e->tgid = tgid;
	e->space = space;
	e->code = code;
	e->vcpu_id = vcpu_id;
	e->zero = 0;
	events.ringbuf_submit(e, wake_flags());
	return true;
}

/* Send a thread's comm once, before all its events. Returns false if there is no room for it. */
static __always_inline bool announced(u32 tid, u32 tgid, u64 now)
{
	u64 comm[2] = {};
	struct event *e;

	if (threads.lookup(&tid))
		return true;
	if (threads.update(&tid, &tgid))
		return false;
	bpf_get_current_comm(comm, sizeof(comm));
	e = events.ringbuf_reserve(sizeof(struct event));
	if (!e) {
		threads.delete(&tid);
		return false;
	}
	e->ns = now;
	e->kind = EVENT_THREAD;
	e->tid = tid;
	e->tgid = tgid;
	e->space = 0;
	__builtin_memcpy(e->comm, comm, sizeof(comm));
	events.ringbuf_submit(e, wake_flags());
	return true;
}

#ifdef REASON_FOLLOWS
/* An exit whose reason has not come yet. */
struct early_exit {
	u64 ns;
	u64 vcpu_id;
};

/* By tid. */
BPF_TABLE("hash", u32, struct early_exit, early_exits, NR_SLOTS);

/* Send the exit of this process's thread that waits for its reason, if there is one. */
static __always_inline void give_reason(u32 tid, u32 space, u64 code)
{
	struct early_exit *early = early_exits.lookup(&tid);
	u32 tgid = bpf_get_current_pid_tgid() >> 32;
	u64 ns, vcpu_id;

	if (!early)
		return;
	ns = early->ns;
	vcpu_id = early->vcpu_id;
	early_exits.delete(&tid);
	if (!announced(tid, tgid, ns) || !put(EVENT_EXIT, tid, tgid, space, code, vcpu_id, ns))
		LOST(exit);
}

/* An event that is not the reason: no reason follows any more. */
static __always_inline void end_wait_for_reason(u32 tid)
{
	give_reason(tid, NO_REASON_SPACE, NO_REASON_CODE);
}
#else
static __always_inline void end_wait_for_reason(u32 tid) {}
#endif

static __always_inline bool of_another(u32 tgid)
{
#ifdef ONLY_TGID
	return tgid != ONLY_TGID;
#else
	return false;
#endif
}

static __always_inline bool send(u32 kind, u32 space, u64 code, u32 vcpu_id, u64 now)
{
	u64 id = bpf_get_current_pid_tgid();
	u32 tid = id, tgid = id >> 32;

	if (of_another(tgid))
		return true;
	end_wait_for_reason(tid);
	return announced(tid, tgid, now) && put(kind, tid, tgid, space, code, vcpu_id, now);
}

static __always_inline int on_exit(u32 space, u64 code, u32 vcpu_id, u64 vcpu, u64 now)
{
	if (vcpu)
		vcpu_id = read_vcpu_id(vcpu);
	if (!send(EVENT_EXIT, space, code, vcpu_id, now))
		LOST(exit);
	return 0;
}

#ifdef REASON_FOLLOWS
static __always_inline int on_exit_without_reason(u32 vcpu_id, u64 now)
{
	struct early_exit early = {now, vcpu_id};
	u64 id = bpf_get_current_pid_tgid();
	u32 tid = id, tgid = id >> 32;

	if (of_another(tgid))
		return 0;
	end_wait_for_reason(tid);
	if (early_exits.update(&tid, &early))	/* no room to wait for the reason */
		return on_exit(NO_REASON_SPACE, NO_REASON_CODE, vcpu_id, 0, now);
	return 0;
}

static __always_inline int on_reason(u32 space, u64 code, u64 now)
{
	give_reason(bpf_get_current_pid_tgid(), space, code);
	return 0;
}
#endif

static __always_inline int on_entry(u64 now)
{
	if (!send(EVENT_ENTRY, 0, 0, NO_VCPU_ID, now))
		LOST(entry);
	return 0;
}

static __always_inline int on_userspace_exit(u32 space, u64 code, u64 now)
{
	if (!send(EVENT_USERSPACE_EXIT, space, code, NO_VCPU_ID, now))
		LOST(userspace_exit);
	return 0;
}

static __always_inline int on_thread_end(u32 tid, u64 now)
{
	u32 *known, tgid;

	end_wait_for_reason(tid);
	known = threads.lookup(&tid);
	if (!known)
		return 0;
	tgid = *known;
	threads.delete(&tid);
	if (!put(EVENT_THREAD_END, tid, tgid, 0, 0, NO_VCPU_ID, now))
		LOST(thread_end);
	return 0;
}
