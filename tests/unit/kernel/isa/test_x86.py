"""x86: names and classes of VMX and SVM exits, the fields of kvm_exit, and contexts for a replay."""

from __future__ import annotations

import pytest

from exporter.kernel.isa import x86
from exporter.model.reason import Reason, Space
from tests.support.formats import KERNELS, reason_names


def test_the_entry() -> None:
    isa = x86.ISA
    assert (isa.name, isa.machines, isa.bpf_syscall, isa.perf_event_open_syscall) == ("x86", ("x86_64",), 321, 298)
    assert isa.uses_btf
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
        (Space.VMX, 0x100000001, Reason("EXTERNAL_INTERRUPT 0x100000000", "interrupt")),
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
