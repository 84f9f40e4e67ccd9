"""The check of the raw kvm_exit: its two programs compare what each of them reads at the same exits."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from exporter.config.options import Config
from exporter.kernel import exit_check, host, program
from exporter.kernel.exit_check import Compared, Verdict
from exporter.kernel.launcher import Launcher
from exporter.kernel.syscall import TestRun
from exporter.kernel.tracepoint import parse_format
from exporter.model.reason import Space
from tests.kernel.test_kvm_exit import EXIT_CODE, VCPU_ID, VMCB, fake_sysfs, on_x86
from tests.support.kernel_memory import MEMORY, MEMORY_PROGRAMS, Memory

pytestmark = [pytest.mark.kvm, on_x86]

NPF, CPUID = 0x400, 0x72
RAW_RECORD = "int raw_record(struct bpf_raw_tracepoint_args *ctx) { compare_record(ctx); return 1; }"
"""kvm_exit_record as a program for a raw tracepoint: BPF_PROG_TEST_RUN runs no other program."""


class Exits:
    """Exits of one vCPU. Its structures are in the memory of a loaded program; its record has this kernel's format."""

    def __init__(self, loaded: program.Loaded) -> None:
        self.loaded = loaded
        self._memory = Memory(loaded)
        self._raw, self._record = (TestRun(loaded.programs[name]) for name in (exit_check.RAW, "raw_record"))
        self._fields = parse_format(loaded.formats["kvm_exit"]).fields
        self._memory.put(VMCB, self._memory.address + 4096)

    def raw(self, code: int, *, isa: int = Space.SVM, vcpu_id: int = 3) -> None:
        self._memory.put(VCPU_ID - 4, vcpu_id << 32)
        self._memory.put(4096 + EXIT_CODE, code)
        self._raw(struct.pack("=QQ", self._memory.address, isa))

    def record(self, code: int, *, isa: int = Space.SVM, vcpu_id: int = 3) -> None:
        record = bytearray(96)
        for name, value in (("exit_reason", code), ("isa", isa), ("vcpu_id", vcpu_id)):
            struct.pack_into("=I", record, self._fields[name].offset, value)
        self._record(bytes(record))

    def compared(self) -> Compared:
        return self.loaded.check.read()


@pytest.fixture
def exits(tmp_path: Path) -> Iterator[Exits]:
    """The check stays open, because no VM runs on the test's machine. The tests run copies of its programs."""
    request = replace(
        host.host_request(Config(), fake_sysfs(tmp_path, reason=False)),
        extra_source=MEMORY + RAW_RECORD,
        extra_programs=(*MEMORY_PROGRAMS, exit_check.RAW, "raw_record"),
    )
    with closing(Launcher(request)) as loader:
        while not (loaded := loader.receive(60)):
            pass
    assert loaded.classic_reason == ""
    assert list(loaded.check.descriptors) == list(exit_check.DESCRIPTORS)
    with closing(loaded):
        yield Exits(loaded)


def test_equal_readings_agree_in_every_order(exits: Exits) -> None:
    for number in range(53):
        for each in (exits.raw, exits.record) if number % 3 else (exits.record, exits.raw):
            each(NPF if number % 2 else CPUID)
    assert exits.compared() == Compared(53, 0, 0, 0)
    assert exits.compared().verdict is Verdict.AGREES


@pytest.mark.parametrize(
    "wrong",
    [{"code": CPUID}, {"isa": Space.VMX}, {"vcpu_id": 4}, {"code": 2**32 - 1}],
    ids=lambda each: next(iter(each)),
)
def test_each_part_of_a_reading_can_differ(exits: Exits, wrong: dict[str, int]) -> None:
    for _ in range(19):
        exits.raw(NPF)
        exits.record(**{"code": NPF, **wrong})
    assert exits.compared() == Compared(0, 19, NPF, wrong.get("code", NPF))
    assert exits.compared().verdict is Verdict.DIFFERS
    assert exits.compared().difference == f"an exit was read as 0x400, and its record has {wrong.get('code', NPF):#x}"


def test_memory_that_cannot_be_read_differs(exits: Exits) -> None:
    for _ in range(11):
        exits.raw(NPF, isa=Space.VMX)
        exits.record(NPF, isa=Space.VMX)
    assert exits.compared() == Compared(0, 11, 2**64 - 1, NPF)


def test_a_missed_reading_is_not_compared(exits: Exits) -> None:
    """The kernel may skip one of the programs. The next exit is compared as if nothing had happened."""
    reads: list[Callable[[int], None]] = [exits.raw, exits.record]
    for missed in reads:
        other = reads[1 - reads.index(missed)]
        other(CPUID)
        for each in (other, missed):
            each(NPF)
    assert exits.compared() == Compared(2, 0, 0, 0)


def test_loading_for_a_short_run_ends_the_check(tmp_path: Path, loaded_now: Callable[..., program.Loaded]) -> None:
    """`top`, `record` and `check` do not compare exits after the loader's end."""
    loaded = loaded_now(host.host_request(Config(), fake_sysfs(tmp_path, reason=False)))
    assert not loaded.check
