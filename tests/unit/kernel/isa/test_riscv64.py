"""riscv64: names and classes of interrupts and exceptions, the fields, and contexts for a replay."""

from __future__ import annotations

import struct
from dataclasses import replace
from pathlib import Path

import pytest

from exporter.kernel.btf import KernelBtf
from exporter.kernel.isa import registry, riscv64
from exporter.kernel.isa.entry import HostFront
from exporter.kernel.tracepoint import RecordField
from exporter.model.reason import Reason, Space
from tests.support.formats import KERNELS, read_format, reason_names

FIELDS = read_format("riscv64-6.12", "kvm_exit").fields
encode = riscv64.ISA.encode_exit
WFI, WRS_NTO, CSR = (22 | number << 8 for number in (1, 2, 3))


def test_the_entry() -> None:
    isa = riscv64.ISA
    assert (isa.name, isa.machines, isa.bpf_syscall, isa.perf_event_open_syscall) == ("riscv64", ("riscv64",), 280, 241)
    assert not isa.uses_btf
    assert registry.BY_MACHINE["riscv64"] is isa
    assert {space.space: len(space.names()) for space in isa.spaces} == {
        Space.RISCV64_INTERRUPT: 11,
        Space.RISCV64_EXCEPTION: 22,
    }


def scause_and_stval(space: int, code: int) -> tuple[int, int]:
    sepc, scause, stval, htval, htinst = struct.unpack("=5Q", encode(space, code, 5))
    assert (sepc, htval, htinst) == (0, 0, 0)
    return scause, stval


@pytest.mark.parametrize("kernel", [None, *KERNELS])
def test_names_and_classes_are_the_same_on_every_kernel(kernel: str | None) -> None:
    reasons = reason_names(kernel)
    for space, code, expected in [
        (Space.RISCV64_INTERRUPT, 1, Reason("IRQ_S_SOFT", "interrupt")),
        (Space.RISCV64_INTERRUPT, 5, Reason("IRQ_S_TIMER", "interrupt")),
        (Space.RISCV64_INTERRUPT, 9, Reason("IRQ_S_EXT", "interrupt")),
        (Space.RISCV64_INTERRUPT, 12, Reason("IRQ_S_GEXT", "interrupt")),
        (Space.RISCV64_INTERRUPT, 13, Reason("IRQ_PMU_OVF", "interrupt")),
        (Space.RISCV64_INTERRUPT, 4, Reason("UNKNOWN_IRQ_0x4", "other")),
        (Space.RISCV64_INTERRUPT, (1 << 63) - 1, Reason("UNKNOWN_IRQ_0x7fffffffffffffff", "other")),
        (Space.RISCV64_EXCEPTION, 0, Reason("EXC_INST_MISALIGNED", "exception")),
        (Space.RISCV64_EXCEPTION, 2, Reason("EXC_INST_ILLEGAL", "exception")),
        (Space.RISCV64_EXCEPTION, 3, Reason("EXC_BREAKPOINT", "debug")),
        (Space.RISCV64_EXCEPTION, 4, Reason("EXC_LOAD_MISALIGNED", "exception")),
        (Space.RISCV64_EXCEPTION, 8, Reason("EXC_SYSCALL", "other")),
        (Space.RISCV64_EXCEPTION, 10, Reason("EXC_SUPERVISOR_SYSCALL", "hypercall")),
        (Space.RISCV64_EXCEPTION, 15, Reason("EXC_STORE_PAGE_FAULT", "exception")),
        (Space.RISCV64_EXCEPTION, 18, Reason("EXC_SOFTWARE_CHECK", "exception")),
        (Space.RISCV64_EXCEPTION, 20, Reason("EXC_INST_GUEST_PAGE_FAULT", "fault")),
        (Space.RISCV64_EXCEPTION, 21, Reason("EXC_LOAD_GUEST_PAGE_FAULT", "mmio")),
        (Space.RISCV64_EXCEPTION, 22, Reason("EXC_VIRTUAL_INST_FAULT", "other")),
        (Space.RISCV64_EXCEPTION, WFI, Reason("WFI", "idle")),
        (Space.RISCV64_EXCEPTION, WRS_NTO, Reason("WRS_NTO", "pause")),
        (Space.RISCV64_EXCEPTION, CSR, Reason("CSR", "sysreg")),
        (Space.RISCV64_EXCEPTION, 23, Reason("EXC_STORE_GUEST_PAGE_FAULT", "mmio")),
        (Space.RISCV64_EXCEPTION, 22 | 4 << 8, Reason("UNKNOWN_0x416", "other")),
        (Space.RISCV64_EXCEPTION, 11, Reason("UNKNOWN_0xb", "other")),
        (Space.RISCV64_EXCEPTION, (1 << 64) - 1, Reason("UNKNOWN_0xffffffffffffffff", "other")),
    ]:
        assert reasons.lookup(space, code) == expected


@pytest.mark.parametrize("kernel", ["riscv64-6.12", "riscv64-7.2"])
def test_kvm_exit_of_both_kernels_is_recognised(kernel: str) -> None:
    fields = read_format(kernel, "kvm_exit").fields
    assert [isa.name for isa in registry.ISAS if isa.recognise(fields)] == ["riscv64"]


@pytest.mark.parametrize(
    ("sizes", "recognised"),
    [
        ([("sepc", 8), ("scause", 8), ("stval", 8), ("htval", 8), ("htinst", 8)], True),
        ([("sepc", 8), ("scause", 8), ("stval", 8), ("htval", 8), ("htinst", 8), ("vcpu_id", 4)], True),
        ([("sepc", 8), ("scause", 8), ("stval", 8), ("htval", 8)], False),
        ([("scause", 8), ("sepc", 8), ("stval", 8), ("htval", 8), ("htinst", 8)], False),
        ([("sepc", 8), ("scause", 8), ("htval", 8), ("stval", 8), ("htinst", 8)], False),
        ([("vcpu_id", 8), ("sepc", 8), ("scause", 8), ("stval", 8), ("htval", 8), ("htinst", 8)], False),
        ([("sepc", 4), ("scause", 4), ("stval", 4), ("htval", 4), ("htinst", 4)], False),  # a 32-bit kernel
    ],
)
def test_the_fields_must_be_the_members_of_the_trap(sizes: list[tuple[str, int]], recognised: bool) -> None:
    fields, offset = {}, 8
    for name, size in sizes:
        fields[name] = RecordField(name, offset, size, False)
        offset += size
    assert riscv64.ISA.recognise(fields) == recognised
    gap = {name: replace(field, offset=field.offset + 8 * (name != "sepc")) for name, field in fields.items()}
    assert not riscv64.ISA.recognise(gap)


def test_the_front_needs_no_btf(tmp_path: Path) -> None:
    assert riscv64.ISA.host_front(FIELDS, KernelBtf(tmp_path), None) == HostFront({}, vcpu_ids=False)
    assert riscv64.ISA.replay_defines == {"SCAUSE_ARG": 1, "STVAL_ARG": 2}


def test_a_context_is_the_trap() -> None:
    assert scause_and_stval(Space.RISCV64_INTERRUPT, 5) == (1 << 63 | 5, 0)
    assert scause_and_stval(Space.RISCV64_INTERRUPT, (1 << 63) - 2) == ((1 << 64) - 2, 0)
    assert scause_and_stval(Space.RISCV64_INTERRUPT, WFI) == (1 << 63 | WFI, 0)
    assert scause_and_stval(Space.RISCV64_EXCEPTION, 21) == (21, 0)
    assert scause_and_stval(Space.RISCV64_EXCEPTION, 22) == (22, 0)
    assert scause_and_stval(Space.RISCV64_EXCEPTION, WFI) == (22, 0x10500073)
    assert scause_and_stval(Space.RISCV64_EXCEPTION, WRS_NTO) == (22, 0x00D00073)
    assert scause_and_stval(Space.RISCV64_EXCEPTION, CSR) == (22, 0xC0102073)
    assert scause_and_stval(Space.RISCV64_EXCEPTION, 22 | 4 << 8) == (22 | 4 << 8, 0)
    assert scause_and_stval(Space.RISCV64_EXCEPTION, (1 << 64) - 1) == ((1 << 64) - 1, 0)


@pytest.mark.parametrize(
    ("space", "code"),
    [
        (Space.RISCV64_INTERRUPT, 1 << 63),  # the bit of an interrupt is not part of a code
        (Space.RISCV64_INTERRUPT, (1 << 63) - 1),  # with that bit: memory that could not be read
        (Space.RISCV64_EXCEPTION, 1 << 63),
        (Space.ARM64_TRAP, 1),
        (9, 0),
    ],
)
def test_codes_that_no_riscv64_kernel_sends_are_refused(space: int, code: int) -> None:
    with pytest.raises(ValueError, match=f"^a riscv64 exit of space {space}, code {code}$"):
        encode(space, code, 0)
