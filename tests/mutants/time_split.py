"""Changes of time_split.bpf.h, which tells where the time of an interval went, and of its readers."""

from __future__ import annotations

from tests.mutants.change import Change

_SPLIT = "exporter/kernel/bpf/time_split.bpf.h"
_COUNT = "exporter/kernel/bpf/count.bpf.c"
_COLLECTOR = "exporter/collect/collector.py"
_TEST = "tests/kernel/test_split.py::"
_WAIT = (_TEST + "test_the_wait_beside_a_rival_is_what_the_scheduler_counts",)
_SLEEP = (_TEST + "test_the_sleep_is_what_the_thread_slept",)
_MOVED = (_TEST + "test_a_sleep_on_one_cpu_that_ends_on_another_is_measured",)
_BETWEEN = (_TEST + "test_what_lies_between_two_exits_is_in_no_exit",)
_VMM = (_TEST + "test_the_vmm_has_what_comes_after_its_first_return",)
_BOTH = (_TEST + "test_sleeps_before_and_after_the_return_to_the_vmm",)
_SHORT = (_TEST + "test_an_exit_that_is_too_short_to_leave_the_cpu_is_not_looked_at",)
_LIMIT = (_TEST + "test_no_part_is_longer_than_its_interval",)
_HALF = (_TEST + "test_a_sleep_of_half_the_exit_is_measured",)
_READ = ("tests/unit/collect/test_collector.py::test_parts_that_the_sum_lacks_are_shown_with_the_sum",)
_ELSEWHERE = ("tests/unit/collect/test_collector.py::test_what_waiting_comes_from_elsewhere",)

CHANGES = (
    Change("waiting is not counted", _SPLIT, "info.run_delay - s->run_delay;", "0;", _WAIT),
    Change("the last look at the waiting is forgotten", _SPLIT, "	s->run_delay = info.run_delay;\n", "", _WAIT),
    Change("a sleep counts as waiting", _SPLIT, "		if (nvcsw == s->nvcsw)\n", "		if (1)\n", _SLEEP),
    Change(
        "the clock of one CPU is used for two",
        _SPLIT,
        "		else if (cpu == s->cpu)\n",
        "		else if (1)\n",
        _MOVED,
    ),
    Change("the last look at a switch is forgotten", _SPLIT, "	s->exec_base = exec_base;\n", "", _HALF),
    Change("time between exits counts", _SPLIT, "	time_away(s, 0);\n", "", _BETWEEN),
    Change(
        "an exit after a missed entry has the time before it",
        _COUNT,
        "		COUNT(unmatched_exit);\n		forget_away(s);",
        "		COUNT(unmatched_exit);",
        _BETWEEN,
    ),
    Change(
        "the time off the CPU is longer than the interval",
        _SPLIT,
        "			off_ns = ns;\n",
        "			ns = off_ns;\n",
        _LIMIT,
    ),
    Change("short exits are looked at", _SPLIT, "		if (ns < SHORT_NS)\n			return;\n", "", _SHORT),
    Change(
        "the kernel's part has no time away",
        _SPLIT,
        "	s->out_sleep_ns = away.sleep_ns;\n",
        "	s->out_sleep_ns = 0;\n",
        _BOTH,
    ),
    Change(
        "the return to the VMM has no time", _SPLIT, "	s->out_ns = now;\n", "	s->out_ns = s->since_ns;\n", _VMM
    ),
    Change("the VMM has no time", _SPLIT, "		user->vmm_ns += now - s->out_ns;\n", "", _VMM),
    Change("the VMM does not sleep", _SPLIT, "		user->sleep_ns += away.sleep_ns;\n", "", _BOTH),
    Change("the exit lacks the kernel's part", _SPLIT, "		away.sleep_ns += s->out_sleep_ns;\n", "", _BOTH),
    Change("the exit does not sleep", _SPLIT, "		exit->sleep_ns += away.sleep_ns;\n", "", _SLEEP),
    Change("the exit does not wait", _SPLIT, "		exit->wait_ns += away.wait_ns;\n", "", _WAIT),
    Change("a return to the VMM ends no part", _COUNT, "		end_kernel_part(s, now);\n", "", _VMM),
    Change(
        "a part may fall",
        _COLLECTOR,
        "before.parts if before else cell.parts.within(cell.sum_ns)",
        "cell.parts.within(cell.sum_ns)",
        _READ,
    ),
    Change("a part may exceed the sum", _COLLECTOR, "else cell.parts.within(cell.sum_ns)", "else cell.parts", _READ),
    Change(
        "waiting of 0 is unknown", _COLLECTOR, "tracked.wait_ns if wait is None else wait", "wait or None", _ELSEWHERE
    ),
    Change(
        "the tid of an ended thread is read", _COLLECTOR, "self._schedstat and alive", "self._schedstat", _ELSEWHERE
    ),
)
