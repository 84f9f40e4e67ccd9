"""x86: names and classes of VMX and SVM reasons, the fields, and contexts for a replay."""

from __future__ import annotations

import struct

import pytest

from exporter.kernel.isa import x86
from exporter.kernel.tracepoint import RecordField, TracepointFormat
from exporter.model.reason import Reason, Space
from exporter.naming.reasons import ReasonNames
from tests.support.formats import KERNELS, read_format, reason_names

FIELDS = read_format("x86_64-6.18", "kvm_exit").fields


def fields(**places: tuple[int, int]) -> dict[str, RecordField]:
    """Fields by name: offset and size."""
    return {name: RecordField(name, *place, False) for name, place in places.items()}


@pytest.mark.parametrize("kernel", [None, *KERNELS])
def test_the_same_on_every_kernel(kernel: str | None) -> None:
    reasons = reason_names(kernel)
    for space, code, expected in [
        (Space.VMX, 0, Reason("EXCEPTION_NMI", "exception")),
        (Space.VMX, 12, Reason("HLT", "idle")),
        (Space.VMX, 30, Reason("IO_INSTRUCTION", "pio")),
        (Space.VMX, 48, Reason("EPT_VIOLATION", "fault")),
        (Space.VMX, 49, Reason("EPT_MISCONFIG", "mmio")),
        (Space.VMX, 17, Reason("UNKNOWN_0x11", "other")),
        (Space.VMX, 0x80000021, Reason("INVALID_STATE FAILED_VMENTRY", "other")),
        (Space.VMX, 0x04000030, Reason("EPT_VIOLATION 0x4000000", "fault")),
        (Space.VMX, 0x84000021, Reason("INVALID_STATE FAILED_VMENTRY 0x4000000", "other")),
        (Space.VMX, 0x80000011, Reason("UNKNOWN_0x11 FAILED_VMENTRY", "other")),
        (Space.VMX, 0x20011, Reason("UNKNOWN_0x20011", "other")),
        (Space.VMX, 0x80020011, Reason("UNKNOWN_0x80020011", "other")),
        (Space.VMX, 0x7FFFFFFF, Reason("UNKNOWN_0x7fffffff", "other")),
        (Space.VMX, 0x14, Reason("VMLAUNCH", "other")),
        (Space.VMX, 0x100000001, Reason("EXTERNAL_INTERRUPT 0x100000000", "interrupt")),
        (Space.SVM, 0x14, Reason("write_cr4", "sysreg")),
        (Space.SVM, 0x30, Reason("write_dr0", "sysreg")),
        (Space.SVM, 0x60, Reason("interrupt", "interrupt")),
        (Space.SVM, 0x7B, Reason("io", "pio")),
        (Space.SVM, 0x400, Reason("npf", "fault")),
        (Space.SVM, 0x4E, Reason("PF excp", "exception")),
        (Space.SVM, 0xA6, Reason("idle-halt", "idle")),
        (Space.SVM, 0xFFFFFFFF, Reason("invalid_guest_state", "other")),
        (Space.SVM, 0xFFFFFFFFFFFFFFFF, Reason("UNKNOWN_0xffffffffffffffff", "other")),
        (Space.SVM, 0xDEAD, Reason("UNKNOWN_0xdead", "other")),
    ]:
        assert reasons.lookup(space, code) == expected


def test_a_kernel_whose_two_tables_have_one_expression() -> None:
    """Before Linux 5.8, both tables hang on REC->exit_reason. The first one is VMX's."""
    older = TracepointFormat("x", {}, {"REC->exit_reason": {1: "A", 2: "B"}, "REC->exit_reason #2": {1: "C", 3: "D"}})
    reasons = ReasonNames(older)
    assert [reasons.lookup(Space.VMX, code).name for code in (1, 2)] == ["A", "B"]
    assert [reasons.lookup(Space.SVM, code).name for code in (1, 3)] == ["C", "D"]
    newer = TracepointFormat("x", {}, {"REC->exit_reason": {1: "C"}})
    assert ReasonNames(newer).lookup(Space.VMX, 1) == Reason("EXTERNAL_INTERRUPT", "interrupt")
    assert ReasonNames(newer).lookup(Space.SVM, 1) == Reason("C", "other")


def test_fields() -> None:
    recognise = x86.ISA.recognise
    assert recognise(FIELDS) == {"EXIT_REASON_OFFSET": 8, "ISA_OFFSET": 24, "VCPU_ID_OFFSET": 56}
    assert recognise(fields(exit_reason=(8, 8), isa=(24, 4))) == {"EXIT_REASON_OFFSET": 8, "ISA_OFFSET": 24}
    assert recognise(fields(exit_reason=(8, 2), isa=(24, 4))) is None
    assert recognise(fields(exit_reason=(8, 4), isa=(24, 8))) is None
    assert recognise(fields(exit_reason=(8, 4))) is None
    assert recognise(fields(isa=(24, 4))) is None


def test_contexts_are_the_record() -> None:
    encode = x86.ISA.exit_encoder(FIELDS, 88)
    expected = bytearray(88)
    for offset, value in ((8, 0x80000021), (24, Space.VMX), (56, 5)):
        struct.pack_into("=I", expected, offset, value)
    assert encode(Space.VMX, 0x80000021, 5) == expected
    older = x86.ISA.exit_encoder(fields(exit_reason=(8, 4), isa=(24, 4)), 88)
    struct.pack_into("=I", expected, 56, 0)
    assert older(Space.VMX, 0x80000021, 5) == expected
    with pytest.raises(ValueError, match=r"^an x86 exit of space 2, code 4294967296$"):
        encode(Space.SVM, 1 << 32, 5)


def test_a_record_that_is_too_long() -> None:
    x86.ISA.exit_encoder(fields(exit_reason=(8, 4), isa=(84, 4)), 88)
    for too_far in (fields(exit_reason=(8, 4), isa=(85, 4)), fields(exit_reason=(8, 4), isa=(0, 4), vcpu_id=(86, 4))):
        with pytest.raises(ValueError, match=r"^a record of kvm:kvm_exit that is too long to be replayed$"):
            x86.ISA.exit_encoder(too_far, 88)
