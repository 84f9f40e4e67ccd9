"""Changes of count.bpf.c: the handlers that count and measure."""

from __future__ import annotations

from tests.mutants.change import Change

_COUNT = "exporter/kernel/bpf/count.bpf.c"
_COUNTS = "tests/kernel/test_counts.py::"
_LIFETIME = "tests/kernel/test_lifetime.py::"
_USERSPACE = "tests/kernel/test_userspace.py::"
_OPENEULER = "tests/kernel/test_openeuler.py::"
_UNMATCHED = (_USERSPACE + "test_unmatched_events_are_counted_and_give_no_interval",)
_FAILED_ENTRY = (_USERSPACE + "test_an_entry_that_fails_ends_with_the_return_to_the_vmm",)
_RETURNS = (_USERSPACE + "test_every_return_is_counted_and_the_first_one_gets_the_interval",)
_CLOCK = (_USERSPACE + "test_exit_age_and_guest_time_grow_with_the_clock",)
_NO_CLASS = (_OPENEULER + "test_an_exit_without_a_class_is_counted_at_the_next_event",)
_FULL = (_LIFETIME + "test_exits_beyond_a_full_chain_are_counted_as_dropped",)
_NO_CELL = (_LIFETIME + "test_exits_without_a_cell_are_counted_as_dropped",)
_NO_SLOT = (_LIFETIME + "test_exits_without_a_slot_are_counted_as_dropped",)

CHANGES = (
    Change("an interval is in no bucket", _COUNT, "		c->buckets[i]++;\n", "", _RETURNS),
    Change("an interval is in no sum", _COUNT, "		c->sum_ns += ns;\n", "", _RETURNS),
    Change(
        "a completed exit is not counted",
        _COUNT,
        "		c->completed++;\n",
        "",
        (_COUNTS + "test_an_interval_is_read_long_after_its_exit",),
    ),
    Change(
        "the last bucket is never used",
        _COUNT,
        "	if (i < NR_BUCKETS) {",
        "	if (i < NR_BUCKETS - 1) {",
        (_COUNTS + "test_intervals_of_the_first_and_last_bucket_are_counted",),
    ),
    Change(
        "the state is not stored",
        _COUNT,
        "s->guest = ns << STATE_BITS | state;",
        "s->guest = ns << STATE_BITS | STATE_FRESH;",
        _CLOCK,
    ),
    Change(
        "the guest word has one ns too much",
        _COUNT,
        "s->guest = ns << STATE_BITS | state;",
        "s->guest = (ns + 1) << STATE_BITS | state;",
        _CLOCK,
    ),
    Change(
        "the exit word has no check", _COUNT, "s->exit = (s->since_ns + ns) << 32 | cell;", "s->exit = cell;", _CLOCK
    ),
    Change(
        "the check of the exit word lacks the guest time",
        _COUNT,
        "s->exit = (s->since_ns + ns) << 32 | cell;",
        "s->exit = s->since_ns << 32 | cell;",
        _CLOCK,
    ),
    Change(
        "the check of the exit word lacks the time of the event",
        _COUNT,
        "s->exit = (s->since_ns + ns) << 32 | cell;",
        "s->exit = ns << 32 | cell;",
        _CLOCK,
    ),
    Change(
        "the exit word has no cell",
        _COUNT,
        "s->exit = (s->since_ns + ns) << 32 | cell;",
        "s->exit = (s->since_ns + ns) << 32;",
        _CLOCK,
    ),
    Change(
        "an exit before its entry takes guest time away",
        _COUNT,
        "(until > s->since_ns ? until : s->since_ns)",
        "until",
        (_COUNTS + "test_an_exit_with_an_earlier_time_than_its_entry_takes_no_guest_time_away",),
    ),
    Change(
        "the guest time stands still at an exit",
        _COUNT,
        "		guest_ns = guest_ns_until(s, now);\n",
        "		guest_ns = guest_ns_until(s, s->since_ns);\n",
        _CLOCK,
    ),
    Change("an unmatched exit is not counted", _COUNT, "		COUNT(unmatched_exit);\n", "		;\n", _UNMATCHED),
    Change(
        "the first exit of a thread is unmatched",
        _COUNT,
        "	} else if (state_of(s) == STATE_HOST) {\n		COUNT(unmatched_exit);",
        "	} else {\n		COUNT(unmatched_exit);",
        _UNMATCHED,
    ),
    Change(
        "an exit has no time", _COUNT, "	s->since_ns = now;\n	s->user_cell = 0;", "	s->user_cell = 0;", _CLOCK
    ),
    Change("an exit keeps the return of the exit before", _COUNT, "	s->user_cell = 0;\n", "", _RETURNS),
    Change(
        "an exit is not counted",
        _COUNT,
        "	if (c)\n		c->exits++;\n	else if (full)\n		DROP(dropped_chain_full);",
        "	if (c)\n		;\n	else if (full)\n		DROP(dropped_chain_full);",
        _RETURNS,
    ),
    Change(
        "an exit beyond a full chain is not counted", _COUNT, "		DROP(dropped_chain_full);", "		;", _FULL
    ),
    Change("an exit without a cell is not counted", _COUNT, "		DROP(dropped_no_cell);", "		;", _NO_CELL),
    Change(
        "an exit without a slot is not counted",
        _COUNT,
        "	if (!s) {\n		DROP(dropped_no_slot);\n		return 0;\n	}\n	end_wait_for_reason(s);\n	/* A",
        "	if (!s)\n		return 0;\n	end_wait_for_reason(s);\n	/* A",
        _NO_SLOT,
    ),
    Change(
        "an exit without a slot and without a reason is not counted",
        _COUNT,
        "	if (!s) {\n		DROP(dropped_no_slot);\n		return 0;\n	}\n	end_wait_for_reason(s);\n	s->vcpu_id",
        "	if (!s)\n		return 0;\n	end_wait_for_reason(s);\n	s->vcpu_id",
        (_OPENEULER + "test_exits_that_have_no_room_are_dropped_once",),
    ),
    Change(
        "a reason that follows gives the exit no cell",
        _COUNT,
        "set_state(s, STATE_HOST, s->guest >> STATE_BITS, n);",
        "set_state(s, STATE_HOST, s->guest >> STATE_BITS, 0);",
        (_OPENEULER + "test_the_exit_in_progress_has_a_reason_as_soon_as_the_class_is_there",),
    ),
    Change(
        "a reason that follows is not counted",
        _COUNT,
        "n);\n	count_exit(c, full);\n}\n\n/* An event that is not",
        "n);\n}\n\n/* An event that is not",
        (_OPENEULER + "test_the_exit_in_progress_has_a_reason_as_soon_as_the_class_is_there",),
    ),
    Change(
        "the wait for a reason never ends",
        _COUNT,
        "	if (state_of(s) == STATE_NO_REASON)\n		give_reason(s, NO_REASON_SPACE, NO_REASON_CODE);",
        "	;",
        _NO_CLASS,
    ),
    Change(
        "each event is an exit without a reason",
        _COUNT,
        "	if (state_of(s) == STATE_NO_REASON)\n		give_reason(s, NO_REASON_SPACE, NO_REASON_CODE);",
        "	give_reason(s, NO_REASON_SPACE, NO_REASON_CODE);",
        _NO_CLASS,
    ),
    Change(
        "a second reason of an exit counts too",
        _COUNT,
        "	if (s && state_of(s) == STATE_NO_REASON)\n		give_reason(s, space",
        "	if (s)\n		give_reason(s, space",
        _NO_CLASS,
    ),
    Change(
        "the second exit without a reason replaces the first",
        _COUNT,
        "	end_wait_for_reason(s);\n	s->vcpu_id_plus_1 = vcpu_id + 1;\n	leave_guest",
        "	s->vcpu_id_plus_1 = vcpu_id + 1;\n	leave_guest",
        _NO_CLASS,
    ),
    Change(
        "an exit without a reason has no vcpu_id",
        _COUNT,
        "	end_wait_for_reason(s);\n	s->vcpu_id_plus_1 = vcpu_id + 1;\n	leave_guest",
        "	end_wait_for_reason(s);\n	leave_guest",
        (_OPENEULER + "test_threads_that_take_turns_on_one_cpu_between_exit_and_class",),
    ),
    Change(
        "an exit does not end the wait for a reason",
        _COUNT,
        "	end_wait_for_reason(s);\n	/* A thread runs",
        "	/* A thread runs",
        _NO_CLASS,
    ),
    Change(
        "the vcpu_id is read at each exit",
        _COUNT,
        "if (vcpu && !s->vcpu_id_plus_1)",
        "if (vcpu)",
        ("tests/kernel/test_kvm_exit.py::test_the_id_of_a_vcpu_is_read_once",),
    ),
    Change(
        "an entry does not end the wait for a reason",
        _COUNT,
        "	end_wait_for_reason(s);\n	guest_ns = s->guest",
        "	guest_ns = s->guest",
        (_OPENEULER + "test_threads_that_take_turns_on_one_cpu_between_exit_and_class",),
    ),
    Change(
        "a return to the VMM does not end the wait for a reason",
        _COUNT,
        "	end_wait_for_reason(s);\n	c = cell_of(s, space, code, &n, &full);\n	if (c)",
        "	c = cell_of(s, space, code, &n, &full);\n	if (c)",
        _NO_CLASS,
    ),
    Change(
        "an unknown vcpu_id replaces a known one",
        _COUNT,
        "	if (vcpu_id != NO_VCPU_ID)\n",
        "",
        ("tests/kernel/test_kvm_exit.py::test_a_vcpu_id_stays_if_a_later_exit_has_none",),
    ),
    Change(
        "the vcpu_id of a vCPU is the one before",
        _COUNT,
        "	if (vcpu_id != NO_VCPU_ID)\n		s->vcpu_id_plus_1 = vcpu_id + 1;",
        "	if (vcpu_id != NO_VCPU_ID)\n		s->vcpu_id_plus_1 = vcpu_id;",
        ("tests/kernel/test_kvm_exit.py::test_a_replay_passes_everything",),
    ),
    Change(
        "an exit leaves the vCPU in its guest",
        _COUNT,
        "	leave_guest(s, n, STATE_HOST, now);\n	count_exit",
        "	leave_guest(s, n, STATE_GUEST, now);\n	count_exit",
        _CLOCK,
    ),
    Change(
        "an entry before its exit has an endless interval",
        _COUNT,
        "ns = now > s->since_ns ? now - s->since_ns : 0;",
        "ns = now - s->since_ns;",
        (_COUNTS + "test_an_entry_with_an_earlier_time_than_its_exit_has_an_empty_interval",),
    ),
    Change("an entry gives the exit no interval", _COUNT, "u32 n = s->exit,", "u32 n = 0,", _RETURNS),
    Change(
        "an entry gives the return no interval",
        _COUNT,
        "user_cell = s->user_cell;",
        "user_cell = 0;",
        _RETURNS,
    ),
    Change("a failed entry has its interval twice", _COUNT, "if (user && user_cell != n)", "if (user)", _FAILED_ENTRY),
    Change(
        "an unmatched entry is not counted",
        _COUNT,
        "s->since_ns);\n		COUNT(unmatched_entry);",
        "s->since_ns);",
        _UNMATCHED,
    ),
    Change(
        "the time of a missed exit is guest time",
        _COUNT,
        "guest_ns = guest_ns_until(s, s->since_ns);",
        "guest_ns = guest_ns_until(s, now);",
        _UNMATCHED,
    ),
    Change(
        "an entry has no time",
        _COUNT,
        "	s->since_ns = now;\n	set_state(s, STATE_GUEST",
        "	set_state(s, STATE_GUEST",
        (_COUNTS + "test_an_exit_with_an_earlier_time_than_its_entry_takes_no_guest_time_away",),
    ),
    Change("an entry forgets the guest time", _COUNT, "now - guest_ns, 0)", "now, 0)", _CLOCK),
    Change(
        "an entry leaves the exit in progress",
        _COUNT,
        "set_state(s, STATE_GUEST, now - guest_ns, 0);",
        "set_state(s, STATE_HOST, guest_ns, s->exit);",
        _CLOCK,
    ),
    Change(
        "a return is not counted",
        _COUNT,
        "	if (c)\n		c->exits++;\n	else if (full)\n		DROP_USERSPACE(dropped_userspace_chain_full);",
        "	if (c)\n		;\n	else if (full)\n		DROP_USERSPACE(dropped_userspace_chain_full);",
        _RETURNS,
    ),
    Change(
        "a return beyond a full chain is not counted",
        _COUNT,
        "		DROP_USERSPACE(dropped_userspace_chain_full);",
        "		;",
        (_LIFETIME + "test_returns_beyond_a_full_chain_are_counted_as_dropped",),
    ),
    Change(
        "a return without a cell is not counted",
        _COUNT,
        "		DROP_USERSPACE(dropped_userspace_no_cell);",
        "		;",
        _NO_CELL,
    ),
    Change(
        "a return without a slot is not counted",
        _COUNT,
        "		DROP_USERSPACE(dropped_userspace_no_slot);\n",
        "",
        _NO_SLOT,
    ),
    Change(
        "a failed entry stays in its guest",
        _COUNT,
        "		leave_guest(s, n, STATE_HOST, now);\n	} else",
        "		leave_guest(s, n, STATE_GUEST, now);\n	} else",
        _FAILED_ENTRY,
    ),
    Change(
        "a failed entry has no reason",
        _COUNT,
        "		leave_guest(s, n, STATE_HOST, now);\n	} else",
        "		leave_guest(s, 0, STATE_HOST, now);\n	} else",
        _FAILED_ENTRY,
    ),
    Change(
        "the second return after a failed entry gets the interval",
        _COUNT,
        "		leave_guest(s, n, STATE_HOST, now);\n	} else",
        "		leave_guest(s, n, STATE_HOST, now);\n		return 0;\n	} else",
        _FAILED_ENTRY,
    ),
    Change(
        "a failed entry is not counted",
        _COUNT,
        "		COUNT(unmatched_entry);\n		forget_away(s);\n		leave_guest",
        "		forget_away(s);\n		leave_guest",
        _FAILED_ENTRY,
    ),
    Change(
        "a return before the first exit is one of an exit",
        _COUNT,
        "	} else if (state_of(s) == STATE_FRESH) {\n		COUNT(unmatched_userspace_exit);\n",
        "	} else if (false) {\n",
        _UNMATCHED,
    ),
    Change(
        "an unmatched return is not counted",
        _COUNT,
        "		COUNT(unmatched_userspace_exit);",
        "		;",
        _UNMATCHED,
    ),
    Change(
        "a return after a dropped one gets the interval",
        _COUNT,
        "s->user_cell = n ? n : DROPPED_CELL;	/*",
        "s->user_cell = n;	/*",
        (_USERSPACE + "test_a_return_that_was_dropped_leaves_its_interval_to_no_other",),
    ),
    Change("the last return gets the interval", _COUNT, "	if (!s->user_cell) {", "	if (1) {", _RETURNS),
)
