"""Changes of the parts of the exits' time on their way to `top`, the JSON document and the page."""

from __future__ import annotations

from tests.mutants.change import Change

_DIFFERENCE = "exporter/readings/difference.py"
_GROUPING = "exporter/readings/grouping.py"
_DOCUMENT = "exporter/readings/document.py"
_READING = "exporter/readings/reading.py"
_VIEW = "exporter/page/view.py"
_DIFFERENCES = "tests/unit/readings/test_difference.py::"
_DOCUMENTS = "tests/unit/readings/test_document.py::"
_SPLIT = "tests/unit/page/test_split.py::"

CHANGES = (
    Change(
        "a part may fall between two readings",
        _DIFFERENCE,
        "map(max, now.minus(then), NO_PARTS)",
        "now.minus(then)",
        (_DIFFERENCES + "test_parts_never_fall_and_never_exceed_their_interval",),
    ),
    Change(
        "the time off the CPU may exceed the interval",
        _DIFFERENCE,
        ".within(sum_ns)",
        "",
        (_DIFFERENCES + "test_parts_never_fall_and_never_exceed_their_interval",),
    ),
    Change(
        "a new vCPU waited as long as /proc says",
        _DIFFERENCE,
        "return now.wait_ns if all(counted.parts for counted in now.reasons) else None",
        "return now.wait_ns",
        (_DIFFERENCES + "test_a_new_vcpu_waited_only_as_long_as_the_program_says",),
    ),
    Change(
        "the waiting of a vCPU may fall",
        _DIFFERENCE,
        "max(0, now.wait_ns - then.wait_ns)",
        "now.wait_ns - then.wait_ns",
        (_DIFFERENCES + "test_parts_never_fall_and_never_exceed_their_interval",),
    ),
    Change(
        "a part has the time before the first reading",
        _DIFFERENCE,
        "part_ns * min(1.0, self.time_ns / self.sum_ns)",
        "part_ns",
        (_DIFFERENCES + "test_parts_of_an_interval_that_began_earlier_are_cut",),
    ),
    Change(
        "a sum leaves out what is unknown",
        _GROUPING,
        "self.parts.plus(row.parts) if self.parts and row.parts else None",
        "self.parts.plus(row.parts) if self.parts and row.parts else self.parts",
        ("tests/unit/readings/test_grouping.py::test_a_sum_with_an_unknown_part_is_unknown",),
    ),
    Change(
        "an exporter that does not split says 0",
        _READING,
        "parts = cell.parts if split else None",
        "parts = cell.parts",
        (_DOCUMENTS + "test_unknown_parts_are_null",),
    ),
    Change(
        "the document has the time off the CPU in place of sleep",
        _DOCUMENT,
        "parts and parts.sleep",
        "parts and parts.off",
        (_DOCUMENTS + "test_a_snapshot_becomes_a_reading_with_names",),
    ),
    Change(
        "sleep in the VMM counts as work of the VMM",
        _VIEW,
        "max(0, parts.vmm - parts.off)",
        "parts.vmm",
        (_SPLIT + "test_the_lost_time_of_a_vm_is_split_without_a_rest",),
    ),
    Change(
        "a VMM that waits for its idle guest works",
        _VIEW,
        "elif not row.idle and not",
        "elif not",
        (_SPLIT + "test_the_lost_time_of_a_vm_is_split_without_a_rest",),
    ),
    Change(
        "the polling after a signal is work of the VMM",
        _VIEW,
        "elif not row.idle and not row.reason.startswith(_NO_WORK):",
        "elif not row.idle:",
        (_SPLIT + "test_the_lost_time_of_a_vm_is_split_without_a_rest",),
    ),
)
