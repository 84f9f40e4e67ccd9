"""riscv64: the kinds of traps, read behind the pointer in the kernel's memory and from a recording."""

from __future__ import annotations

import struct
from collections.abc import Callable
from functools import partial

import pytest

from exporter.kernel import program
from exporter.kernel.isa import riscv64
from exporter.model.reason import Reason, Space
from tests.support.formats import read_format, reason_names
from tests.support.kernel_memory import MEMORY, MEMORY_PROGRAMS, Memory
from tests.support.machine import Machine, Vcpu, durations, exits, histogram

Load = Callable[..., Machine]
KERNELS = ["riscv64-6.12", "riscv64-7.2"]

INTERRUPT = 1 << 63
WFI, WRS_NTO, CSR = ((Space.RISCV64_EXCEPTION, 22 | kind << 8) for kind in (1, 2, 3))
OTHER = (Space.RISCV64_EXCEPTION, 22)
UNREAD = (Space.RISCV64_EXCEPTION, 2**64 - 1)
TIMER, SBI = (Space.RISCV64_INTERRUPT, 5), (Space.RISCV64_EXCEPTION, 10)
LOAD, STORE = (Space.RISCV64_EXCEPTION, 21), (Space.RISCV64_EXCEPTION, 23)

#: scause, stval, the reason, and the number of exits.
TRAPS = [
    (INTERRUPT | 5, 0, TIMER, 101),
    (INTERRUPT | 9, 0x10500073, (Space.RISCV64_INTERRUPT, 9), 103),
    (INTERRUPT | 22, 0x10500073, (Space.RISCV64_INTERRUPT, 22), 2),  # an interrupt has no instruction
    (5, 0x10500073, (Space.RISCV64_EXCEPTION, 5), 3),  # the stval of another exception is an address
    (0, 0, (Space.RISCV64_EXCEPTION, 0), 5),
    (10, 0, SBI, 107),
    (20, 0x80000000, (Space.RISCV64_EXCEPTION, 20), 7),
    (21, 0x80001000, LOAD, 109),
    (23, 0x10000000, STORE, 113),
    (22, 0x10500073, WFI, 127),
    (22, 0x00D00073, WRS_NTO, 131),
    (63, 0, (Space.RISCV64_EXCEPTION, 63), 11),
    (1 << 40 | 22, 0x10500073, (Space.RISCV64_EXCEPTION, 1 << 40 | 22), 13),  # the upper half belongs to the code
    (22, 0xC0101073, CSR, 17),  # funct3 1, then 2, 3, 5, 6 and 7
    (22, 0xC0102073, CSR, 19),
    (22, 0xC0103073, CSR, 23),
    (22, 0xC0105073, CSR, 29),
    (22, 0xC0106073, CSR, 31),
    (22, 0xFFFFFFF3, CSR, 37),
    (22, 0, OTHER, 137),  # the CPU does not report the instruction: never idle
    (22, 0x10200073, OTHER, 139),  # SRET: funct3 0
    (22, 0x6C0040F3, OTHER, 149),  # HLV.D: funct3 4
    (22, 0x00100033, OTHER, 151),  # not a SYSTEM instruction
    (22, 0x00002003, OTHER, 157),
    (22, 0x1_10500073, OTHER, 163),  # more than 32 bits
]
SENT = {reason: sum(times for _, _, each, times in TRAPS if each == reason) for _, _, reason, _ in TRAPS}


def _assert_sent(under_test: Machine, vcpu: Vcpu) -> None:
    """Each trap was sent once for each of its exits, 31 ns after an entry and 1009 ns before the next."""
    record = under_test.record(vcpu)
    assert exits(record) == SENT
    assert durations(record) == {reason: (histogram([1009] * times), 1009 * times) for reason, times in SENT.items()}
    assert record.totals.guest_ns == 31 * sum(SENT.values())
    assert record.vcpu_id is None
    assert set(under_test.collect().counters.values()) == {0}


def _send(vcpu: Vcpu, leave: Callable[[int, int, int], None]) -> None:
    now = 1_000_000
    vcpu.entry(now)
    for scause, stval, _, times in TRAPS:
        for _ in range(times):
            leave(now + 31, scause, stval)
            now += 31 + 1009
            vcpu.entry(now)


@pytest.mark.parametrize("kernel", KERNELS)
def test_every_trap_is_counted_under_its_kind(machine: Load, kernel: str) -> None:
    under_test = machine(program.isa_of(read_format(kernel, "kvm_exit")).name)
    vcpu = under_test.vcpu()
    vcpu.call(lambda: _send(vcpu, vcpu.riscv_exit))
    _assert_sent(under_test, vcpu)


def test_the_attached_program_reads_the_trap_behind_the_pointer(machine: Load) -> None:
    under_test = machine("riscv64", defines={}, extra_source=MEMORY, extra_programs=MEMORY_PROGRAMS)
    memory = Memory(under_test.loaded)
    vcpu = under_test.vcpu()

    def leave(now: int, scause: int, stval: int) -> None:
        for offset, value in enumerate((0x80000030, scause, stval, 0x10500073, 0x10500073)):
            memory.put(8 * offset, value)
        vcpu.run("kvm_exit", now, memory.address, 10, 0x10500073)

    vcpu.call(lambda: _send(vcpu, leave))
    _assert_sent(under_test, vcpu)


def test_a_pointer_that_cannot_be_read_is_counted_under_no_known_reason(machine: Load) -> None:
    under_test = machine("riscv64", defines={})
    vcpu = under_test.vcpu()

    def play() -> None:
        for pointer in (0, 8):
            for _ in range(53):
                vcpu.run("kvm_exit", 5, pointer, 22, 0x10500073)
                vcpu.entry(6)

    vcpu.call(play)
    assert exits(under_test.record(vcpu)) == {UNREAD: 106}
    assert reason_names("riscv64-6.12").lookup(*UNREAD) == Reason("UNKNOWN_0xffffffffffffffff", "other")


def test_a_recorded_exit_is_counted_under_its_code(machine: Load) -> None:
    under_test = machine("riscv64")
    vcpu = under_test.vcpu()
    recorded = {reason: 3 + 2 * number for number, reason in enumerate([*SENT, UNREAD])}

    def play() -> None:
        for (space, code), times in recorded.items():
            for _ in range(times):
                vcpu.run("kvm_exit", 5, *struct.unpack("=5Q", riscv64.ISA.encode_exit(space, code, 7)))
                vcpu.entry(6)

    vcpu.call(play)
    assert exits(under_test.record(vcpu)) == recorded


def test_idle_is_only_the_instruction_that_waits(machine: Load) -> None:
    under_test = machine("riscv64")
    vcpu = under_test.vcpu()
    names = reason_names("riscv64-7.2")
    for stval, expected in (
        (0x10500073, Reason("WFI", "idle")),
        (0x00D00073, Reason("WRS_NTO", "pause")),
        (0xC0102073, Reason("CSR", "sysreg")),
        (0, Reason("EXC_VIRTUAL_INST_FAULT", "other")),
    ):
        vcpu.call(partial(vcpu.entry, 1000))
        vcpu.call(partial(vcpu.riscv_exit, 3000, 22, stval))
        under_test.now = 4000
        in_progress = under_test.record(vcpu).in_progress
        assert in_progress
        assert (names.lookup(*in_progress[:2]), in_progress[2]) == (expected, 1000)
