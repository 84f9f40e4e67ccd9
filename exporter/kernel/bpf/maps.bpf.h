/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * The data of the counting programs: a slot for each vCPU thread, a cell for each
 * of its reasons, and the maps that hold them. User space maps the three arrays
 * into its memory and reads them there (exporter/collect/maps.py).
 *
 * A vCPU is one thread, and its tracepoints fire in that thread. So the data of a
 * vCPU has a single writer, and needs no atomics and no per-CPU copies.
 *
 * A reader can see the writer's stores in any order: some CPUs reorder stores, and the
 * program has no memory barriers (the oldest kernels have none for BPF). So no reader
 * relies on an order. Values that belong together are in one aligned 64-bit word, or
 * one word holds a check over the others. tests/kernel/test_order.py shows the reader
 * every order of the stores of each handler.
 *
 * The loader defines NR_SLOTS, NR_CELLS and NR_BUCKETS.
 */

#define NR_HEADS	64	/* chains of cells in a slot; arm64's 64 ECs get one each */

enum vcpu_state {
	STATE_FRESH,		/* neither an exit nor an entry was seen yet */
	STATE_GUEST,
	STATE_HOST,		/* an exit is in progress */
	STATE_NO_REASON,	/* as STATE_HOST; the reason of the exit has not come yet */
};

/* One reason of one vCPU. Number 0 is never used: it means "none". */
struct cell {
	u64 exits;
	u64 completed;		/* exits followed by an entry; the sum of the buckets */
	u64 sum_ns;		/* duration of the completed exits */
	u64 code;
	u64 not_code;		/* ~code */
	u64 slot_space;		/* number of the slot << 32 | space of the code (SPACE_*) */
	u32 next;		/* the next cell of the chain */
	u32 pad0;
	u64 buckets[NR_BUCKETS];
	/*
	 * Parts of sum_ns. In the cell of a return to the VMM, they have only what came after
	 * that return. With them a cell is whole cache lines: the next cell may belong to
	 * another vCPU.
	 */
	u64 wait_ns;		/* the thread could run, but had no CPU */
	u64 sleep_ns;
	u64 vmm_ns;		/* from the return to the VMM to the entry; 0 in other cells */
};

#define OWNER_ENDED	(~0ULL)
#define DROPPED_CELL	(~0U)	/* no cell has this number: the first return had none */

/*
 * One vCPU thread. An exit and an entry touch the first cache line only, and the line of
 * the head of a chain. The end of a longer interval touches the second line, too, and a
 * return to the VMM touches the last line.
 */
struct slot {
	u64 owner;		/* id while the thread lives, then OWNER_ENDED; 0 if the slot is free */
	u64 guest;		/* guest time and state: see set_state() */
	u64 since_ns;		/* time of the last exit or entry, CLOCK_MONOTONIC */
	u64 exit;		/* the exit in progress: see set_state() */
	u32 user_cell;		/* cell of its first exit to the VMM; 0: none yet; the exit's own if it has no other */
	u32 vcpu_id_plus_1;	/* the kernel's vcpu_id + 1; 0: not known (yet) */
	u32 number;		/* number of this slot */
	u32 pad0;
	u64 id;			/* tgid << 32 | tid; this and all members below stay after the thread has ended */
	u64 born_ns;
	char comm[16];		/* the thread's comm at its first event */
	u64 check;		/* see identity_check() */
	u64 pcount;		/* the scheduler's figures at the last look; see time_away() */
	u64 run_delay;
	u64 exec_base;
	u64 arrival_base;
	u32 nvcsw;
	u32 cpu;
	u32 heads[NR_HEADS];	/* chains of cells, by hash of the code */
	u64 out_ns;		/* when the exit in progress first returned to the VMM */
	u64 out_wait_ns;	/* the time away before that return */
	u64 out_sleep_ns;
	u64 pad[5];
};

/* Events that are in no cell. They are rare and belong to no vCPU, so adds are atomic. */
struct counters {
	u64 dropped_no_slot;
	u64 dropped_no_cell;
	u64 dropped_chain_full;
	u64 dropped_userspace_no_slot;
	u64 dropped_userspace_no_cell;
	u64 dropped_userspace_chain_full;
	u64 unmatched_exit;		/* the vCPU was out of its guest already */
	u64 unmatched_entry;		/* no exit followed the entry */
	u64 unmatched_userspace_exit;	/* no exit was in flight */
};

/*
 * What one process, or all of them together, have of the two pools. The program adds what
 * it takes. User space subtracts nothing: after it has returned entries, it stores the
 * numbers that the arrays show. What the program takes in this moment may be missing then,
 * until user space stores the numbers again.
 */
struct usage {
	u64 slots;
	u64 cells;
};

#define NR_DROPPERS	64	/* processes whose drops have their own numbers */

/* Exits of one process that were dropped, for any cause that struct counters has. */
struct process_drops {
	u64 exits;
	u64 userspace_exits;
};

BPF_F_TABLE("array", u32, struct slot, slots, NR_SLOTS + 1, BPF_F_MMAPABLE);
BPF_F_TABLE("array", u32, struct cell, cells, NR_CELLS + 1, BPF_F_MMAPABLE);
BPF_F_TABLE("array", u32, struct counters, counters, 1, BPF_F_MMAPABLE);
BPF_F_TABLE("array", u32, struct usage, usage, 1, BPF_F_MMAPABLE);
/* By tgid. User space deletes the process that has no slot any more. */
BPF_TABLE("hash", u32, struct usage, shares, NR_SLOTS);
BPF_TABLE("hash", u32, struct process_drops, process_drops, NR_DROPPERS);
/*
 * The slot of each thread. If the end of a thread was missed, its entry stays until a
 * later thread has the same tid. Such entries must not take the room of living threads.
 */
BPF_TABLE("hash", u32, u32, tid_slot, 2 * NR_SLOTS);
BPF_TABLE("percpu_array", u32, u32, cpu_slot, 1);
/*
 * The numbers of free slots and cells. User space fills these stacks at the start,
 * with the lowest number on top. Later it returns the numbers of ended threads. The
 * number that was returned last is used next, so the arrays fill from the lowest
 * number upwards. User space maps and reads only the part that was ever in use.
 */
BPF_STACK(free_slots, u32, NR_SLOTS);
BPF_STACK(free_cells, u32, NR_CELLS);
