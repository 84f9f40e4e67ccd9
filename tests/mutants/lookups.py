"""Changes of lookup.bpf.h and maps.bpf.h: slots, cells and their chains."""

from __future__ import annotations

from tests.mutants.change import Change

_LOOKUP = "exporter/kernel/bpf/lookup.bpf.h"
_MAPS = "exporter/kernel/bpf/maps.bpf.h"
_COUNTS = "tests/kernel/test_counts.py::"
_LIFETIME = "tests/kernel/test_lifetime.py::"
_MISSED = "tests/kernel/test_missed_ends.py::"
_ORDER = "tests/kernel/test_order.py::test_no_order_of_stores_shows_a_wrong_number"

CHANGES = (
    Change(
        "a cell is found without its space",
        _LOOKUP,
        "if (c->code == code && (u32)c->slot_space == space)",
        "if (c->code == code)",
        (_COUNTS + "test_equal_codes_of_two_spaces_have_separate_cells",),
    ),
    Change(
        "a cell is found without its code",
        _LOOKUP,
        "if (c->code == code && (u32)c->slot_space == space)",
        "if ((u32)c->slot_space == space)",
        (_LIFETIME + "test_exits_beyond_a_full_chain_are_counted_as_dropped",),
    ),
    Change(
        "a chain has seven cells",
        _LOOKUP,
        "#define MAX_CHAIN	8",
        "#define MAX_CHAIN	7",
        (_LIFETIME + "test_exits_beyond_a_full_chain_are_counted_as_dropped",),
    ),
    Change(
        "a chain has nine cells",
        _LOOKUP,
        "#define MAX_CHAIN	8",
        "#define MAX_CHAIN	9",
        (_LIFETIME + "test_exits_beyond_a_full_chain_are_counted_as_dropped",),
    ),
    Change(
        "a full chain is not told from an empty pool",
        _LOOKUP,
        "	*full = true;",
        "	*full = false;",
        (_LIFETIME + "test_exits_beyond_a_full_chain_are_counted_as_dropped",),
    ),
    Change(
        "the hash has no second byte of the code",
        _LOOKUP,
        "(code ^ (code >> 8) ^ (space << 4))",
        "(code ^ (space << 4))",
        (_COUNTS + "test_codes_that_differ_in_the_second_byte_share_no_chain",),
    ),
    Change(
        "half of the chains are used",
        _LOOKUP,
        "(space << 4)) & (NR_HEADS - 1)",
        "(space << 4)) & (NR_HEADS / 2 - 1)",
        (_COUNTS + "test_every_exit_class_of_arm64_has_a_separate_cell",),
    ),
    Change(
        "a new cell does not point to the rest of its chain",
        _LOOKUP,
        "	c->next = first;\n",
        "",
        (_LIFETIME + "test_exits_beyond_a_full_chain_are_counted_as_dropped",),
    ),
    Change(
        "a new cell has no not_code",
        _LOOKUP,
        "	c->not_code = ~code;\n",
        "",
        (_COUNTS + "test_every_exit_class_of_arm64_has_a_separate_cell",),
    ),
    Change(
        "a new cell has no slot number",
        _LOOKUP,
        "(u64)s->number << 32 | space",
        "space",
        (_COUNTS + "test_every_exit_class_of_arm64_has_a_separate_cell",),
    ),
    Change(
        "a new cell has the slot number of the first slot",
        _LOOKUP,
        "(u64)s->number << 32 | space",
        "1ULL << 32 | space",
        (_COUNTS + "test_every_exit_of_many_threads_on_one_cpu_is_counted",),
    ),
    Change(
        "a new cell is not the head of its chain",
        _LOOKUP,
        "	s->heads[h] = n;\n",
        "",
        (_COUNTS + "test_every_exit_class_of_arm64_has_a_separate_cell",),
    ),
    Change(
        "the number of a new cell is not returned",
        _LOOKUP,
        "	s->heads[h] = n;\n	*number = n;\n",
        "	s->heads[h] = n;\n",
        ("tests/kernel/test_userspace.py::test_every_return_is_counted_and_the_first_one_gets_the_interval",),
    ),
    Change(
        "the number of a known cell is not returned",
        _LOOKUP,
        "			*number = n;\n",
        "",
        ("tests/kernel/test_userspace.py::test_every_return_is_counted_and_the_first_one_gets_the_interval",),
    ),
    Change(
        "the number of a slot is lost if the hash is full",
        _LOOKUP,
        "		free_slots.push(&n, 0);\n",
        "",
        (_MISSED + "test_a_thread_without_room_in_the_hash_leaves_its_slot_free",),
    ),
    Change(
        "the hash of threads has room for the slots only",
        _MAPS,
        "tid_slot, 2 * NR_SLOTS",
        "tid_slot, NR_SLOTS",
        (_MISSED + "test_a_thread_without_room_in_the_hash_leaves_its_slot_free",),
    ),
    Change(
        "a slot has no check of its identity",
        _LOOKUP,
        "	s->check = identity_check(s);\n",
        "",
        (_COUNTS + "test_every_exit_class_of_arm64_has_a_separate_cell",),
    ),
    Change(
        "a slot has no time of its first event",
        _LOOKUP,
        "	s->born_ns = now;\n",
        "",
        (_LIFETIME + "test_more_of_the_arrays_is_mapped_as_they_fill",),
    ),
    Change(
        "a slot has no comm",
        _LOOKUP,
        "	bpf_get_current_comm(&s->comm, sizeof(s->comm));\n",
        "",
        (_LIFETIME + "test_last_values_stay_until_linger_is_over",),
    ),
    Change(
        "the slot in a CPU's cache is not used",
        _LOOKUP,
        "	if (s && s->owner == id)\n		return s;\n",
        "",
        ("tests/kernel/test_work.py::test_a_thread_that_stays_on_its_cpu_needs_no_look_up_in_the_hash",),
    ),
    Change(
        "a new slot is not put into the CPU's cache",
        _LOOKUP,
        "	*cached = n;\n	return slots.lookup(&n);",
        "	return slots.lookup(&n);",
        ("tests/kernel/test_work.py::test_the_second_event_of_a_thread_needs_no_look_up_in_the_hash",),
    ),
    Change(
        "a slot that was looked up is not put into the CPU's cache",
        _LOOKUP,
        "			*cached = n;\n			return s;",
        "			return s;",
        ("tests/kernel/test_work.py::test_a_thread_that_comes_back_to_its_cpu_needs_one_look_up_in_the_hash",),
    ),
    Change(
        "the slot in a CPU's cache is compared by tid",
        _LOOKUP,
        "	s = slots.lookup(&n);\n	if (s && s->owner == id)\n",
        "	s = slots.lookup(&n);\n	if (s && (u32)s->owner == tid)\n",
        (_MISSED + "test_a_later_process_with_the_same_tid_is_another_vm",),
    ),
    Change(
        "the slot in a CPU's cache is not compared",
        _LOOKUP,
        "	s = slots.lookup(&n);\n	if (s && s->owner == id)\n",
        "	s = slots.lookup(&n);\n	if (s && n)\n",
        (_COUNTS + "test_every_exit_of_many_threads_on_one_cpu_is_counted",),
    ),
    Change(
        "the slot of a tid is compared by tid",
        _LOOKUP,
        "		if (s && s->owner == id) {",
        "		if (s && (u32)s->owner == tid) {",
        (_MISSED + "test_a_later_process_with_the_same_tid_is_another_vm",),
    ),
    Change(
        "the slot of a tid is not compared",
        _LOOKUP,
        "		if (s && s->owner == id) {",
        "		if (s) {",
        (_MISSED + "test_a_later_process_with_the_same_tid_is_another_vm",),
    ),
    Change(
        "the earlier thread of a tid stays alive",
        _LOOKUP,
        "		if (s)\n			end_slot(s, tid);\n",
        "",
        (_MISSED + "test_a_later_process_with_the_same_tid_is_another_vm",),
    ),
    Change(
        "an ended slot has no mark",
        _LOOKUP,
        "		s->owner = OWNER_ENDED;",
        "		s->owner = s->id;",
        (_LIFETIME + "test_last_values_stay_until_linger_is_over",),
    ),
    Change(
        "the slot of another thread is ended",
        _LOOKUP,
        "	if ((u32)s->id == tid)\n		s->owner = OWNER_ENDED;",
        "	s->owner = OWNER_ENDED;",
        (_MISSED + "test_a_tid_whose_slot_was_freed_reaches_no_other_vcpu",),
    ),
    Change(
        "the wait for a reason of another thread is ended",
        _LOOKUP,
        "	if ((u32)s->id == tid)\n		end_wait_for_reason(s);",
        "	end_wait_for_reason(s);",
        (_MISSED + "test_a_tid_whose_slot_was_freed_ends_no_wait_for_a_reason",),
    ),
    Change(
        "the wait for a reason goes on after the end of the thread",
        _LOOKUP,
        "	if ((u32)s->id == tid)\n		end_wait_for_reason(s);\n",
        "",
        ("tests/kernel/test_openeuler.py::test_an_exit_without_a_class_is_counted_at_the_next_event",),
    ),
    Change(
        "the tid of an ended thread stays in the hash",
        _LOOKUP,
        "	tid_slot.delete(&tid);\n",
        "",
        (_LIFETIME + "test_a_reused_cell_with_equal_counts_is_read_again",),
    ),
    Change(
        "no lock before the mark of an ended slot",
        _LOOKUP,
        "	free_slots.peek(&n);\n",
        "",
        (),
        "x86 shows a CPU's stores to other CPUs in their order (Intel SDM, volume 3, 9.2.2), so a reader that sees "
        "OWNER_ENDED sees all earlier stores without the lock too; and BPF_PROG_TEST_RUN ends the thread before the "
        "test reads. On arm64 the lock is needed.",
    ),
)
