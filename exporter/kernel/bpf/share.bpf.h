/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * The share of a process in the pools of slots and cells. One process, or a few, cannot
 * take the room of the VMs that start after them.
 *
 * A quarter of each pool is a reserve. A process that has little may take anything that is
 * free. Each other process may take one more while it has less than four times the free
 * part above the reserve. So the process with the most is refused first, and the limit
 * needs no number of VMs: see "dynamic thresholds" of shared-memory switches (Choudhury and
 * Hahne, IEEE/ACM Transactions on Networking 6(2), 1998). No process loses what it has.
 *
 * Only an event that needs a new slot or cell comes here. Two CPUs may both see the last
 * free entry of a share, so a process may get some more, at most one for each CPU.
 */

#define RESERVE(pool)	((pool) / 4)
#define LITTLE(pool)	((pool) / 64 + 16)
#define SHARE_OF_FREE	4

/* True if a process with `own` entries may take one more of a pool, of which `taken` are in use. */
static __always_inline bool may_take(u64 own, u64 taken, u64 pool)
{
	u64 shared = pool - RESERVE(pool);

	return own < LITTLE(pool) || (taken < shared && own < SHARE_OF_FREE * (shared - taken));
}

static __always_inline struct usage *usage_of_all(void)
{
	u32 zero = 0;

	return usage.lookup(&zero);
}

static __always_inline bool may_take_slot(u32 tgid)
{
	struct usage *own = shares.lookup(&tgid), *all = usage_of_all();

	return all && may_take(own ? own->slots : 0, all->slots, NR_SLOTS);
}

static __always_inline bool may_take_cell(u32 tgid)
{
	struct usage *own = shares.lookup(&tgid), *all = usage_of_all();

	return all && may_take(own ? own->cells : 0, all->cells, NR_CELLS);
}

static __always_inline void slot_taken(u32 tgid)
{
	struct usage none = {};
	struct usage *own = shares.lookup_or_try_init(&tgid, &none), *all = usage_of_all();

	if (all)
		__sync_fetch_and_add(&all->slots, 1);
	if (own)
		__sync_fetch_and_add(&own->slots, 1);
}

static __always_inline void cell_taken(u32 tgid)
{
	struct usage *own = shares.lookup(&tgid), *all = usage_of_all();

	if (all)
		__sync_fetch_and_add(&all->cells, 1);
	if (own)
		__sync_fetch_and_add(&own->cells, 1);
}

/* Count an exit, or a return to the VMM, that was dropped: whose it is. */
static __always_inline void name_drop(bool userspace)
{
	u32 tgid = bpf_get_current_pid_tgid() >> 32;
	struct process_drops none = {};
	struct process_drops *d = process_drops.lookup_or_try_init(&tgid, &none);

	if (!d)
		return;		/* NR_DROPPERS others have drops: only the counters have this one */
	if (userspace)
		__sync_fetch_and_add(&d->userspace_exits, 1);
	else
		__sync_fetch_and_add(&d->exits, 1);
}
