"""x86: names and classes of VMX and SVM exits, the fields of kvm_exit, and contexts for a replay."""

from __future__ import annotations

import pytest

from exporter.kernel.isa import registry, x86
from exporter.kernel.tracepoint import TracepointFormat
from exporter.model.reason import Reason, Space
from exporter.naming.reasons import ReasonNames
from tests.support.formats import KERNELS, reason_names


def test_the_entry() -> None:
    isa = x86.ISA
    assert (isa.name, isa.machines, isa.bpf_syscall, isa.perf_event_open_syscall) == ("x86", ("x86_64",), 321, 298)
    assert isa.uses_btf
    assert registry.BY_MACHINE["x86_64"] is isa
    assert {space.space: len(space.names()) for space in x86.ISA.spaces} == {Space.VMX: 66, Space.SVM: 116}


@pytest.mark.parametrize("kernel", [None, *KERNELS])
def test_names_and_classes_are_the_same_on_every_kernel(kernel: str | None) -> None:
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
