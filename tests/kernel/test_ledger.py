"""A collector is killed at any moment. The next collector has every vCPU once, and all slots and cells become free."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial

import pytest

from exporter.collect import maps
from exporter.collect.collector import Collector, Journal
from exporter.kernel import syscall
from exporter.kernel.program import Loaded
from exporter.metrics.carried import NOTHING_CARRIED, CarriedOver
from exporter.model.buckets import BUCKETS, COUNTS
from exporter.model.records import (
    Cell,
    EndedVcpu,
    FreeEntry,
    Handover,
    Snapshot,
    ThreadKey,
    TimeParts,
    VcpuRecord,
    VcpuTotals,
)
from exporter.model.vm import Vcpu as Identity
from exporter.model.vm import Vm
from exporter.service.ledger import EMPTY_STATE, Ledger, LedgerEntry, LedgerError, LedgerState
from tests.support.machine import TRAP, Machine, Vcpu, exits, trap

SLOTS, REASONS = 5, 2
DIED = 9


def write(ledger: Ledger, retired: Sequence[EndedVcpu], freed: Sequence[FreeEntry]) -> None:
    ended = [LedgerEntry(each.record, each.expires_ns, None, (0, 0)) for each in retired]
    ledger.write(ended, freed, NOTHING_CARRIED, always=True)


def collect(loaded: Loaded, ledger: Ledger) -> Snapshot:
    """Collect like the daemon: continue from the ledger, write each ended vCPU to it, then clear its slot."""
    journal = Journal(partial(write, ledger), ledger.step)
    collector = Collector(loaded, lambda: 10**6, 10**12, ledger.read().handover, journal)
    found = collector.collect()
    collector.close()
    return found


def die_at(number: int) -> None:
    """After `number` writes to the ledger or the maps, end this process instead of the next write."""
    left = number

    def counted(real: Callable[..., object]) -> Callable[..., object]:
        def step(*arguments: object) -> object:
            nonlocal left
            if not left:
                os._exit(DIED)
            left -= 1
            return real(*arguments)

        return step

    for where, name in ((os, "pwrite"), (os, "ftruncate"), (syscall, "stack_push"), (maps.ArrayMap, "clear")):
        setattr(where, name, counted(getattr(where, name)))


def dies(loaded: Loaded, ledger: Ledger, number: int) -> bool:
    """Collect in a child process that ends after `number` steps. Return False if the collection finished earlier."""
    child = os.fork()
    if child == 0:
        try:
            die_at(number)
            collect(loaded, ledger)
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status) == DIED


def live(machine: Machine) -> dict[int, dict[tuple[int, int], int]]:
    """Run as many vCPUs as there are slots, one after the other. Return their exits by the time of their birth."""
    wanted = {}
    for prime in (3, 5, 7, 11, 13)[:SLOTS]:
        machine.now += 1000
        live_once(machine.vcpu(), machine.now, prime)
        wanted[machine.now] = {trap(reason): prime + reason for reason in range(1, REASONS + 1)}
    return wanted


def live_once(vcpu: Vcpu, now: int, prime: int) -> None:
    def rounds() -> None:
        for reason in range(1, REASONS + 1):
            for _ in range(prime + reason):
                vcpu.arm_exit(now, TRAP, reason)
                vcpu.entry(now + 1)
        vcpu.dies(now + 900)

    vcpu.call(rounds)


def found(records: Sequence[VcpuRecord]) -> dict[int, dict[tuple[int, int], int]]:
    assert len({record.key for record in records}) == len(records), "a vCPU was collected twice"
    return {record.key.born_ns: exits(record) for record in records}


def test_a_kill_at_any_step_loses_no_exit(machine: Callable[..., Machine]) -> None:
    """The test kills the collecting process at each step, and then also kills its successor at another step."""
    under_test = machine(slots=SLOTS, cells=SLOTS * REASONS)
    number, came_through = 0, False
    while not came_through:
        wanted = live(under_test)
        ledger = Ledger.create()
        came_through = not dies(under_test.loaded, ledger, number)
        dies(under_test.loaded, ledger, number * 7 % 71)
        last = collect(under_test.loaded, ledger)
        assert found(last.vcpus) == wanted, number
        assert last.recycling_pending == 0
        assert set(last.counters.values()) == {0}, number
        ledger.close()
        number += 1
    # The ledger takes two truncations and two writes. Then each freed slot or cell takes four steps: clear it, announce
    # it in the ledger, push it to the stack, confirm it.
    assert number == 1 + 4 + 4 * SLOTS * (1 + REASONS)


def test_a_failed_write_of_the_ledger_returns_no_entry_twice(
    machine: Callable[..., Machine], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The vCPUs go on counting.

    An older write of the ledger lists entries that were already returned to the kernel. The next process must not
    return them a second time.
    """
    under_test = machine(slots=SLOTS, cells=SLOTS * REASONS)
    ledger = Ledger.create()
    pushes = 0

    def refuse_after_four(stack: int, value: int) -> None:
        nonlocal pushes
        pushes += 1
        if pushes > 4:
            raise OSError(errno.EBUSY, "busy")
        push(stack, value)

    push = syscall.stack_push
    live(under_test)
    journal = Journal(partial(_write, ledger), ledger.step)
    collector = Collector(under_test.loaded, lambda: 10**6, 10**12, journal=journal)
    with monkeypatch.context() as patched:
        patched.setattr(syscall, "stack_push", refuse_after_four)
        assert collector.collect().recycling_pending == SLOTS * (1 + REASONS) - 4
    under_test.now += 1000
    live_once(under_test.vcpu(), under_test.now, 17)  # uses the returned slot and one of the returned cells
    with monkeypatch.context() as patched:
        patched.setattr(os, "ftruncate", _no_room)
        last = collector.collect()
    assert (len(last.vcpus), last.recycling_pending) == (SLOTS + 1, 0)
    collector.close()

    left = Ledger(ledger.files).read().handover
    assert (left.free_entries, left.unsure) == ([], None)
    wanted = live(under_test)
    last = collect(under_test.loaded, ledger)
    assert {born: counted for born, counted in found(last.vcpus).items() if born in wanted} == wanted
    assert last.counters["dropped_no_slot"] == 0
    ledger.close()


def _write(ledger: Ledger, retired: Sequence[EndedVcpu], freed: Sequence[FreeEntry]) -> None:
    with suppress(OSError):
        ledger.write(
            [LedgerEntry(each.record, each.expires_ns, None, (0, 0)) for each in retired],
            freed,
            NOTHING_CARRIED,
            always=True,
        )


def test_a_failed_write_leaves_no_entry_to_return() -> None:
    """The write fails before the first entry is returned to the kernel. The ledger then lists no entry to return."""
    ledger = Ledger.create()
    ledger.write([], [("free_cells", 3), ("free_cells", 5)], NOTHING_CARRIED, always=True)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(os, "ftruncate", _no_room)
        with pytest.raises(OSError, match="space"):
            ledger.write([], [("free_cells", 3), ("free_cells", 5), ("free_cells", 7)], NOTHING_CARRIED, always=True)
    for done in (False, True) * 3:
        ledger.step(done)
        assert Ledger(ledger.files).read().handover == Handover([], [], None)
    ledger.write([], [("free_cells", 11)], NOTHING_CARRIED, always=False)
    assert Ledger(ledger.files).read().handover == Handover([], [("free_cells", 11)], None)
    ledger.step(False)
    assert Ledger(ledger.files).read().handover == Handover([], [], ("free_cells", 11))
    ledger.step(True)
    assert Ledger(ledger.files).read().handover == Handover([], [], None)
    ledger.close()


def _no_room(*_: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("damage", [b"", b"\0" * 100, b"KVMEXIT\1" + b"\xff" * 40])
def test_a_damaged_ledger_is_refused_or_read_as_empty(damage: bytes) -> None:
    ledger = Ledger.create()
    for fd in ledger.files:
        os.pwrite(fd, damage, 0)
    if damage.startswith(b"KVMEXIT"):
        with pytest.raises(LedgerError):
            ledger.read()
    else:
        assert ledger.read() == EMPTY_STATE
    ledger.close()


def test_the_newer_file_is_read_unless_it_is_half_written() -> None:
    ledger = Ledger.create()
    for prime in (101, 103, 107):
        record = VcpuRecord(
            ThreadKey(1, 2, prime),
            b"\xff",
            3,
            VcpuTotals(5),
            (Cell(1, 2, prime, 7, bytes(COUNTS.size), TimeParts(2, 3, 5)),),
            None,
            False,
        )
        vcpu = Identity(Vm(1, "n\udcff", "u", "qemu"), "3")
        counts = (1, -2, *[0] * (BUCKETS - 2))
        bases = CarriedOver(
            [("vm", True, ("1", "web", "x"), -3, 5, counts, TimeParts(7, 11, -13))], {"guest_ns": [(("1", "web"), 2)]}
        )
        ledger.write([LedgerEntry(record, 11, vcpu, (prime, 0))], [("free_cells", prime)], bases, always=False)
        again = Ledger(ledger.files).read()
        assert again == LedgerState(
            Handover([EndedVcpu(record, 11)], [("free_cells", prime)], None),
            [(record.key, vcpu)],
            {record.key: (prime, 0)},
            bases,
        )
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Ledger, "_put", _no_room)
        with pytest.raises(OSError, match="space"):
            ledger.write([], [], NOTHING_CARRIED, always=True)
    assert Ledger(ledger.files).read() == again
    ledger.close()
