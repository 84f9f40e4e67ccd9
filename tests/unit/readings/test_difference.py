"""Differences between two readings, and percentiles."""

from __future__ import annotations

from exporter.model.buckets import bound_ns
from exporter.model.records import TimeParts
from exporter.readings.difference import ReadingSpan, between
from exporter.readings.grouping import grouped
from exporter.readings.reading import USERSPACE, InProgress
from tests.support.readings import SECOND, counted, reading, thread
from tests.unit.readings.rows import NOTHING, shown


def test_a_percentile_is_the_bound_of_its_bucket() -> None:
    """Bucket 3 has 1 interval, bucket 10 has 97, and buckets 20 and 30 have 1 each.

    So the 99th of 100 intervals is in bucket 20.
    """
    buckets = {3: 1, 10: 97, 20: 1, 30: 1}
    (row,) = between(NOTHING, reading(1, thread(1, 2, counted("IRQ", "interrupt", 101, buckets, 100_003)))).rows()
    assert (row.completed, row.avg_ns) == (100, 1000)
    assert [row.percentile_ns(percent) for percent in (1, 2, 50, 98, 99, 100)] == [
        bound_ns(number) for number in (3, 10, 10, 10, 20, 30)
    ]
    assert (row.p50_ns, row.p99_ns, row.max_ns) == (bound_ns(10), bound_ns(20), bound_ns(30))


def test_a_percentile_is_none_without_intervals_and_the_sum_in_the_last_bucket() -> None:
    none, endless = counted("A", "other", 1), counted("B", "other", 1, {141: 1}, 5000 * SECOND)
    first, second = between(NOTHING, reading(1, thread(1, 2, none, endless))).rows()
    assert (first.avg_ns, first.p50_ns, first.p99_ns, first.max_ns) == (None, None, None, None)
    assert (second.avg_ns, second.max_ns) == (5000 * SECOND, 5000 * SECOND)


def test_the_difference_has_the_exits_between_two_readings() -> None:
    then = reading(10, thread(1, 2, counted("IRQ", "interrupt", 5, {40: 3}, 30), guest_ns=7))
    now = reading(
        12.5,
        thread(1, 2, counted("IRQ", "interrupt", 18, {40: 14, 41: 2}, 133), counted("HLT", "idle", 1), guest_ns=20),
        thread(1, 3, counted("IRQ", "interrupt", 3, {40: 3}, 9)),
    )
    span = between(then, now)
    assert span.elapsed_ns == 2.5 * SECOND
    assert [vcpu.guest_ns for vcpu in span.vcpus] == [13, 0]
    irq, halt, other = span.rows()
    assert (irq.exits, irq.sum_ns, irq.buckets, irq.avg_ns, irq.rate) == (13, 103, {40: 11, 41: 2}, 7, 5.2)
    assert (halt.exits, halt.completed, halt.avg_ns) == (1, 0, None)
    assert (other.tid, other.exits, other.rate) == (3, 3, 1.2)


def test_only_time_between_the_readings_counts() -> None:
    """The run takes 2 s.

    An exit of 100 s ends after 1.5 s of the run. The next exit begins at that time and does not end in the run.
    """
    then = reading(
        100,
        thread(1, 2, counted("HLT", "idle", 1), in_progress=InProgress("HLT", "idle", round(98.5 * SECOND))),
    )
    now = reading(
        102,
        thread(
            1,
            2,
            counted("HLT", "idle", 1, {120: 1}, 100 * SECOND),
            counted("MMIO", "mmio", 1),
            in_progress=InProgress("MMIO", "mmio", SECOND // 2),
        ),
    )
    halt, mmio = between(then, now).rows()
    assert (halt.exits, halt.completed, halt.time_ns, halt.share) == (0, 1, round(1.5 * SECOND), 0.75)
    assert (mmio.exits, mmio.completed, mmio.time_ns, mmio.share) == (1, 0, SECOND // 2, 0.25)
    stuck = reading(103, *[each._replace(in_progress=InProgress("MMIO", "mmio", 1500000000)) for each in now.vcpus])
    (row,) = between(now, stuck).rows()
    assert (row.reason, row.exits, row.share) == ("MMIO", 0, 1.0)


def test_returns_to_the_vmm_have_separate_rows() -> None:
    both = thread(1, 2, counted("IRQ", "interrupt", 3), counted("KVM_EXIT_IO", "pio", 2, {1: 1}, 5, kind=USERSPACE))
    span = between(NOTHING, reading(1, both))
    assert shown(span.rows()) == [(2, "IRQ", 3)]
    assert shown(span.rows(USERSPACE)) == [(2, "KVM_EXIT_IO", 2)]
    assert shown(grouped(span, USERSPACE, "reason")) == [(0, "KVM_EXIT_IO", 2)]


def test_a_vcpu_that_is_missing_keeps_its_last_values() -> None:
    run = ReadingSpan(NOTHING)
    run.add(reading(1, thread(1, 2, counted("IRQ", "interrupt", 3)), thread(1, 3, counted("IRQ", "interrupt", 5))))
    last = run.add(reading(2, thread(1, 3, counted("IRQ", "interrupt", 7))))
    assert sorted(shown(between(run.first, run.last).rows())) == [(2, "IRQ", 3), (3, "IRQ", 7)]
    assert [thread.alive for thread in last.vcpus] == [True, False]
    later = run.add(reading(3, thread(1, 3, counted("IRQ", "interrupt", 7))))
    assert between(last, later).rows() == []
    assert [vcpu.thread.key.tid for vcpu in between(last, later).vcpus] == [3]
    assert sorted(shown(between(run.first, run.last).rows())) == [(2, "IRQ", 3), (3, "IRQ", 7)]


def test_a_vcpu_that_ended_before_the_run_is_left_out() -> None:
    ended = thread(1, 2, counted("IRQ", "interrupt", 3), alive=False)
    assert between(reading(1, ended), reading(2, ended._replace())).vcpus == []


def test_counts_from_before_a_restart_of_the_exporter_are_kept() -> None:
    """There are 3 exits before the restart and 7 exits after it. The difference has 10 exits."""
    run = ReadingSpan(
        reading(5, thread(1, 2, counted("IRQ", "interrupt", 100), born_ns=1), counters={"dropped_no_slot": 9})
    )
    run.add(reading(6, thread(1, 2, counted("IRQ", "interrupt", 103), born_ns=1), counters={"dropped_no_slot": 9}))
    run.add(
        reading(
            1,
            thread(1, 2, counted("IRQ", "interrupt", 7), born_ns=SECOND * 6),
            since_ns=6 * SECOND,
            counters={"dropped_no_slot": 2},
        )
    )
    assert shown(grouped(between(run.first, run.last))) == [(2, "IRQ", 10)]
    assert between(run.first, run.last).counters == {"dropped_no_slot": 2}


def test_the_parts_of_the_time_are_differences_too() -> None:
    """Of 97 ns the thread waited 17 ns and slept 23 ns, and 67 ns lay after the return to the VMM."""
    first = counted("K", "mmio", 5, {1: 5}, 101, kind=USERSPACE, parts=TimeParts(11, 18, 31))
    second = counted("K", "mmio", 8, {1: 8}, 198, kind=USERSPACE, parts=TimeParts(28, 58, 98))
    then, now = thread(1, 2, first, wait_ns=13), thread(1, 2, second, wait_ns=42)
    span = between(reading(1, then), reading(2, now))
    (row,) = span.rows(USERSPACE)
    assert (row.sum_ns, row.parts) == (97, TimeParts(17, 40, 67))
    assert row.parts is not None
    assert row.parts.sleep == 23
    assert [vcpu.wait_ns for vcpu in span.vcpus] == [29]


def test_parts_never_fall_and_never_exceed_their_interval() -> None:
    """A cell may have been read while its exit ended: the parts had that exit already, and the sum did not."""
    then = thread(1, 2, counted("A", "mmio", 5, {1: 5}, 101, parts=TimeParts(19, 23, 29)), wait_ns=19)
    now = thread(1, 2, counted("A", "mmio", 6, {1: 6}, 108, parts=TimeParts(17, 41, 43)), wait_ns=17)
    span = between(reading(1, then), reading(2, now))
    (row,) = span.rows()
    assert (row.sum_ns, row.parts) == (7, TimeParts(0, 7, 7))
    assert [vcpu.wait_ns for vcpu in span.vcpus] == [0]


def test_unknown_parts_stay_unknown() -> None:
    """Here the exporter was replaced between the readings, and only one of its versions tells the parts."""
    for before, after in ((None, None), (None, 3), (3, None)):
        parts = [None if wait is None else TimeParts(wait, wait, 0) for wait in (before, after)]
        then = thread(1, 2, counted("A", "mmio", 5, {1: 5}, 101, parts=parts[0]), wait_ns=before)
        now = thread(1, 2, counted("A", "mmio", 6, {1: 6}, 108, parts=parts[1]), wait_ns=after)
        span = between(reading(1, then), reading(2, now))
        assert [row.parts for row in span.rows()] == [None]
        assert [vcpu.wait_ns for vcpu in span.vcpus] == [None]


def test_a_new_vcpu_waited_only_as_long_as_the_program_says() -> None:
    """/proc also has what a thread waited before its first exit. That may be years."""
    split = thread(1, 2, counted("A", "mmio", 5, {1: 5}, 101, parts=TimeParts(7, 7, 0)), wait_ns=7)
    proc = thread(1, 3, counted("A", "mmio", 5, {1: 5}, 101), wait_ns=10**17)
    assert [vcpu.wait_ns for vcpu in between(NOTHING, reading(1, split, proc)).vcpus] == [7, None]


def test_parts_of_an_interval_that_began_earlier_are_cut() -> None:
    """Of a sleep of 100 s, 1.5 s lie in a run of 2 s. Three quarters of the run were sleep, and none was waiting."""
    asleep = InProgress("HLT", "idle", round(98.5 * SECOND))
    then = reading(100, thread(1, 2, counted("HLT", "idle", 1, parts=TimeParts()), in_progress=asleep))
    slept = TimeParts(0, 100 * SECOND, 0)
    now = reading(102, thread(1, 2, counted("HLT", "idle", 1, {120: 1}, 100 * SECOND, parts=slept)))
    (row,) = between(then, now).rows()
    assert (row.share, row.part_share("sleep"), row.part_share("wait")) == (0.75, 0.75, 0.0)
