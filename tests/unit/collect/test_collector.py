"""Records of slots that change while the collector reads them, of slots that have ended, and of failed collections."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest

from exporter.collect import collector as subject
from exporter.collect.collector import Collector
from exporter.collect.maps import CellMap, SlotMap, SlotState
from exporter.collect.schedstat import Schedstat
from exporter.kernel import syscall
from exporter.model.reason import Space
from exporter.model.records import Cell, EndedVcpu, ExitInProgress, Handover, ThreadKey, TimeParts, VcpuRecord
from tests.support.exits import record
from tests.support.leaves import GUEST, HOST, PID, Leaves
from tests.support.machine import exits

NOW = 9_001
LINGER = 1_000_003
HLT, CPUID = 12, 10


class Run:
    """Arrays, and the collector that reads them. The kernel takes back each entry."""

    def __init__(self, made: Leaves) -> None:
        self.made = made
        self.now = NOW
        self.collector = Collector(made.loaded, lambda: self.now, LINGER)

    def records(self) -> dict[int, VcpuRecord]:
        """Collect; return the records by tid."""
        return {each.key.tid: each for each in self.collector.collect().vcpus}


@pytest.fixture
def run(leaves: Callable[..., Leaves], monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Run]]:
    monkeypatch.setattr(syscall, "stack_push", lambda *_: None)
    with ExitStack() as stack:

        def make(**entries: int) -> Run:
            made = Run(leaves(**entries))
            stack.callback(made.collector.close)
            return made

        yield make


def _while_slots_are_read(monkeypatch: pytest.MonkeyPatch, happens: Callable[[], None]) -> None:
    """Let something happen after the changed cells of the next collection were read, and before its first slot is."""
    real = SlotMap.read

    def read(slots: SlotMap, number: int, now: int) -> SlotState:
        monkeypatch.setattr(SlotMap, "read", real)
        happens()
        return real(slots, number, now)

    monkeypatch.setattr(SlotMap, "read", read)


def test_a_record_has_the_cells_of_its_collection(run: Callable[..., Run]) -> None:
    under_test = run()
    made = under_test.made
    made.put_slot(2, 71, born_ns=13, comm=b"CPU 0/KVM", vcpu_id_plus_1=6)
    made.put_state(2, GUEST, 1_013, 5_003)
    made.put_cell(3, 2, Space.VMX, HLT, 7)
    first = under_test.records()[71]
    assert first.key == ThreadKey(PID, 71, 13)
    assert (first.comm, first.vcpu_id, first.totals.guest_ns, first.alive) == (b"CPU 0/KVM", 5, NOW - 1_013, True)
    assert exits(first) == {(Space.VMX, HLT): 7}
    made.put("cells", 3, exits=11)
    made.put_cell(4, 2, Space.USERSPACE, HLT, 5)
    second = under_test.records()[71]
    assert exits(second) == {(Space.VMX, HLT): 11, (Space.USERSPACE, HLT): 5}
    assert exits(first) == {(Space.VMX, HLT): 7}
    under_test.records()
    third, fourth = under_test.records()[71], under_test.records()[71]
    assert third.cells is fourth.cells  # the series of a vCPU without changes are not made again


def test_a_slot_without_its_identity_has_no_record_yet(run: Callable[..., Run]) -> None:
    under_test = run()
    made = under_test.made
    made.put_cell(3, 2, Space.VMX, HLT, 7)
    made.put_slot(2, 71)
    made.put("slots", 2, check=0)
    assert [under_test.records() for _ in range(3)] == [{}] * 3
    made.put_slot(2, 71)
    assert exits(under_test.records()[71]) == {(Space.VMX, HLT): 7}


def test_a_cell_that_is_not_complete_yet_is_read_again(run: Callable[..., Run]) -> None:
    """The counts of a cell are visible long before its code. They do not change any more."""
    under_test = run()
    made = under_test.made
    made.put_slot(2, 71)
    made.put("cells", 3, exits=7, slot_space=2 << 32 | Space.VMX)
    for _ in range(3):
        assert exits(under_test.records()[71]) == {}
    made.put("cells", 3, code=HLT, not_code=HLT ^ 2**64 - 1)
    assert exits(under_test.records()[71]) == {(Space.VMX, HLT): 7}


def test_cells_that_a_failed_collection_did_not_read_are_read_by_the_next(
    run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is no memory in two collections. The counts do not change any more."""
    under_test = run()
    under_test.made.put_slot(2, 71)
    codes = {1: 3, 2: 5, 4: 7}
    for number, code in codes.items():
        under_test.made.put_cell(number, 2, Space.VMX, code, 100 + code)

    def no_memory(cells: CellMap, number: int) -> tuple[Cell, int, int]:
        raise MemoryError

    with monkeypatch.context() as patched:
        patched.setattr(CellMap, "read", no_memory)
        for _ in range(2):
            with pytest.raises(MemoryError):
                under_test.collector.collect()
    assert exits(under_test.records()[71]) == {(Space.VMX, code): 100 + code for code in codes.values()}


def test_the_last_record_has_the_exits_of_this_moment(run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch) -> None:
    """A vCPU exits and ends while it is read: its known cell changes, and it takes a second one of the same chain."""
    under_test = run()
    made = under_test.made
    made.put_slot(2, 71, heads={12: 3})
    made.put_cell(3, 2, Space.VMX, HLT, 7)
    assert exits(under_test.records()[71]) == {(Space.VMX, HLT): 7}

    def last_events() -> None:
        made.put_cell(3, 2, Space.VMX, HLT, 11, buckets={5: 11})
        made.put_cell(4, 2, Space.VMX, CPUID, 13, buckets={7: 13}, following=3)
        made.put("slots", 2, heads={12: 4})
        made.end_slot(2)

    _while_slots_are_read(monkeypatch, last_events)
    ended = under_test.records()[71]
    assert exits(ended) == {(Space.VMX, HLT): 11, (Space.VMX, CPUID): 13}
    assert [sum(cell.counts()) for cell in ended.cells] == [11, 13]
    assert (made.leaf("cells", 3), made.leaf("cells", 4)) == (bytes(made.layouts["cells"].size),) * 2


def test_a_chain_ends_where_the_cell_of_another_slot_begins(run: Callable[..., Run]) -> None:
    """An earlier process had cleared a cell of the chain. Now another vCPU has it."""
    under_test = run()
    made = under_test.made
    made.put_slot(1, 71, heads={12: 3})
    made.put_cell(3, 1, Space.VMX, HLT, 7, following=4)
    made.end_slot(1)
    made.put_slot(2, 72)
    made.put_cell(4, 2, Space.VMX, CPUID, 13)
    records = under_test.records()
    assert exits(records[71]) == {(Space.VMX, HLT): 7}
    assert exits(records[72]) == {(Space.VMX, CPUID): 13}
    made.put("cells", 4, exits=17)
    assert exits(under_test.records()[72]) == {(Space.VMX, CPUID): 17}


def test_an_ended_thread_has_no_exit_in_progress(run: Callable[..., Run]) -> None:
    """A vCPU thread ends out of its guest, in its last exit."""
    under_test = run()
    made = under_test.made
    made.put_slot(2, 71, heads={12: 3})
    made.put_cell(3, 2, Space.VMX, HLT, 7)
    made.put_state(2, HOST, 211, 5_003, 3)
    assert under_test.records()[71].in_progress == ExitInProgress(Space.VMX, HLT, NOW - 5_003)
    made.end_slot(2)
    ended = under_test.records()[71]
    assert (ended.alive, ended.in_progress, ended.totals.guest_ns) == (False, None, 211)


def test_an_exit_whose_cell_was_taken_at_this_moment_is_in_progress(
    run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    under_test = run()
    made = under_test.made
    made.put_slot(2, 71)

    def first_exit() -> None:
        made.put_cell(3, 2, Space.VMX, HLT, 1)
        made.put_state(2, HOST, 211, 5_003, 3)

    _while_slots_are_read(monkeypatch, first_exit)
    found = under_test.records()[71]
    assert found.in_progress == ExitInProgress(Space.VMX, HLT, NOW - 5_003)
    assert exits(found) == {(Space.VMX, HLT): 1}


def test_the_exit_in_progress_is_of_this_slot(run: Callable[..., Run]) -> None:
    under_test = run()
    made = under_test.made
    for number, tid in ((1, 71), (2, 72)):
        made.put_slot(number, tid)
    made.put_cell(3, 2, Space.VMX, HLT, 7)
    made.put_state(1, HOST, 211, 5_003, 3)
    records = under_test.records()
    assert (records[71].in_progress, exits(records[71])) == (None, {})
    assert exits(records[72]) == {(Space.VMX, HLT): 7}


def test_an_exit_after_the_collection_has_no_age(run: Callable[..., Run]) -> None:
    """The clock is read before the slots."""
    under_test = run()
    under_test.made.put_slot(2, 71)
    under_test.made.put_cell(3, 2, Space.VMX, HLT, 7)
    under_test.made.put_state(2, HOST, 211, NOW + 5, 3)
    assert under_test.records()[71].in_progress == ExitInProgress(Space.VMX, HLT, 0)


def test_the_guest_time_never_falls(run: Callable[..., Run]) -> None:
    """The time of an exit may be earlier than the clock of a collection that ran at the same moment."""
    under_test = run()
    under_test.made.put_slot(2, 71)
    under_test.made.put_state(2, GUEST, 1_013, 5_003)
    assert under_test.records()[71].totals.guest_ns == NOW - 1_013
    under_test.made.put_state(2, HOST, 7_985, 8_998)
    assert under_test.records()[71].totals.guest_ns == NOW - 1_013
    under_test.made.put_state(2, HOST, 7_993, 9_013)
    assert under_test.records()[71].totals.guest_ns == 7_993


def _end_vcpus(under_test: Run, number: int, *, cells: bool) -> None:
    for tid in range(number):
        under_test.made.put_slot(1, tid, heads={12: 1} if cells else {})
        if cells:
            under_test.made.put_cell(1, 1, Space.VMX, HLT, 7)
        under_test.made.end_slot(1)
        under_test.collector.collect()


def test_parts_that_the_sum_lacks_are_shown_with_the_sum(run: Callable[..., Run]) -> None:
    """The parts of an exit may become visible before its duration. No part falls, and none is above the sum."""
    under_test = run()
    made, exits_so_far = under_test.made, count(1)
    made.put_slot(1, 1013)

    def parts(sum_ns: int, wait_ns: int, sleep_ns: int, vmm_ns: int) -> TimeParts:
        made.put_cell(1, 1, Space.VMX, HLT, next(exits_so_far))
        made.put("cells", 1, sum_ns=sum_ns, wait_ns=wait_ns, sleep_ns=sleep_ns, vmm_ns=vmm_ns)
        (each,) = under_test.records().values()
        assert each.totals.wait_ns == each.cells[0].parts.wait
        return each.cells[0].parts

    assert parts(101, 103, 59, 107) == TimeParts(101, 101, 101)  # a first reading has no earlier one
    assert parts(1009, 103, 59, 107) == TimeParts(103, 162, 107)
    assert parts(1009, 503, 509, 107) == TimeParts(103, 162, 107)
    assert parts(1009, 503, 59, 1013) == TimeParts(103, 162, 107)
    assert parts(1013, 503, 509, 1013) == TimeParts(503, 1012, 1013)


def test_what_waiting_comes_from_elsewhere(
    leaves: Callable[..., Leaves], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The program does not split: then the waiting is that of /proc, and it stays after the thread's end."""
    made = leaves()
    made.loaded = replace(made.loaded, unsplit_reason="no BTF")
    monkeypatch.setattr(syscall, "stack_push", lambda *_: None)
    file = tmp_path / str(PID) / "task/1013/schedstat"
    file.parent.mkdir(parents=True)
    collector = Collector(made.loaded, lambda: NOW, LINGER, schedstat=Schedstat(tmp_path))
    made.put_slot(1, 1013)

    def waited() -> int | None:
        (each,) = collector.collect().vcpus
        return each.totals.wait_ns

    assert waited() is None
    file.write_text("17 0 23\n")
    assert waited() == 0
    file.write_text("17 1009 23\n")
    assert waited() == 1009
    file.write_text("x")
    assert waited() == 1009
    file.write_text("17 2003 23\n")
    made.end_slot(1)
    assert waited() == 1009
    collector.close()


def test_without_the_split_nobody_knows_the_waiting(leaves: Callable[..., Leaves]) -> None:
    made = leaves()
    made.loaded = replace(made.loaded, unsplit_reason="no BTF")
    made.put_slot(1, 1013)
    made.put_cell(1, 1, Space.VMX, HLT, 1)
    collector = Collector(made.loaded, lambda: NOW, LINGER)
    (each,) = collector.collect().vcpus
    assert each.totals.wait_ns is None
    collector.close()


def test_ended_cells_up_to_the_limit_are_kept(run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subject, "MAX_ENDED_CELLS", 11)
    under_test = run()
    _end_vcpus(under_test, 11, cells=True)
    assert (len(under_test.collector.ended), under_test.collector.collect().expired_early) == (11, 0)
    _end_vcpus(under_test, 2, cells=True)
    assert (len(under_test.collector.ended), under_test.collector.collect().expired_early) == (11, 2)


def test_ended_vcpus_without_cells_take_room(run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subject, "MAX_ENDED_CELLS", 11)
    under_test = run()
    _end_vcpus(under_test, 13, cells=False)
    assert (len(under_test.collector.ended), under_test.collector.collect().expired_early) == (11, 2)


def test_the_linger_time_begins_again_in_the_next_process(leaves: Callable[..., Leaves]) -> None:
    """Nobody could scrape between the two processes. A time that ends later is kept."""
    ended = [EndedVcpu(record(PID, 71, alive=False), 5), EndedVcpu(record(PID, 72, alive=False), NOW + LINGER + 7)]
    collector = Collector(leaves().loaded, lambda: NOW, LINGER, Handover(ended))
    assert [each.expires_ns for each in collector.ended] == [NOW + LINGER, NOW + LINGER + 7]
    collector.close()
