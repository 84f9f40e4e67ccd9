"""arm64: names and classes of exits, the fields of kvm_exit, and contexts for a replay."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from exporter.kernel.btf import KernelBtf
from exporter.kernel.isa import arm64
from exporter.kernel.isa.entry import HostFront
from exporter.kernel.tracepoint import RecordField
from exporter.model.reason import Reason, Space
from tests.support.formats import KERNELS, read_format, reason_names

FIELDS = read_format("aarch64-6.12", "kvm_exit").fields
encode = arm64.ISA.encode_exit


def test_the_entry() -> None:
    isa = arm64.ISA
    assert (isa.name, isa.machines, isa.bpf_syscall, isa.perf_event_open_syscall) == ("arm64", ("aarch64",), 280, 241)
    assert not isa.uses_btf
    assert {space.space: len(space.names()) for space in arm64.ISA.spaces} == {Space.ARM64_TRAP: 45, Space.ARM64_RET: 5}


@pytest.mark.parametrize("kernel", [None, *KERNELS])
def test_names_and_classes_are_the_same_on_every_kernel(kernel: str | None) -> None:
    reasons = reason_names(kernel)
    for space, code, expected in [
        (Space.ARM64_TRAP, 0x01, Reason("EC_WFx", "idle")),
        (Space.ARM64_TRAP, 0x24, Reason("EC_DABT_LOW", "mmio")),
        (Space.ARM64_TRAP, 0x20, Reason("EC_IABT_LOW", "fault")),
        (Space.ARM64_TRAP, 0x18, Reason("EC_SYS64", "sysreg")),
        (Space.ARM64_TRAP, 0x16, Reason("EC_HVC64", "hypercall")),
        (Space.ARM64_TRAP, 0x2F, Reason("EC_SERROR", "exception")),
        (Space.ARM64_TRAP, 0x1A, Reason("EC_ERET", "other")),
        (Space.ARM64_TRAP, 0x00, Reason("UNKNOWN_EC", "other")),
        (Space.ARM64_TRAP, 0x3F, Reason("UNKNOWN_0x3f", "other")),
        (Space.ARM64_RET, 0, Reason("IRQ", "interrupt")),
        (Space.ARM64_RET, 1, Reason("SERROR", "exception")),
        (Space.ARM64_RET, 3, Reason("IL", "exception")),
        (Space.ARM64_RET, 0xBADCA11, Reason("HYP_GONE", "other")),
        (Space.ARM64_RET, 0x3F, Reason("UNKNOWN_RET_0x3f", "other")),
    ]:
        assert reasons.lookup(space, code) == expected


def test_kvm_exit_is_recognised_by_the_fields_ret_and_esr_ec() -> None:
    assert arm64.ISA.recognise(FIELDS)
    field = RecordField("ret", 8, 4, True)
    assert not arm64.ISA.recognise({"ret": field})
    assert not arm64.ISA.recognise({"esr_ec": field})
    assert arm64.ISA.recognise({"ret": field, "esr_ec": field})


def test_the_front_needs_no_btf(tmp_path: Path) -> None:
    assert arm64.ISA.host_front(FIELDS, KernelBtf(tmp_path), None) == HostFront({}, vcpu_ids=False)
    assert arm64.ISA.replay_defines == {}


def test_a_context_has_ret_and_esr_ec() -> None:
    assert encode(Space.ARM64_TRAP, 0x24, 5) == struct.pack("=QQ", 2, 0x24)
    assert encode(Space.ARM64_TRAP, 0, 5) == struct.pack("=QQ", 2, 0)
    assert encode(Space.ARM64_RET, 0, 5) == struct.pack("=QQ", 0, 0)
    assert encode(Space.ARM64_RET, 0x7FFFFFFF, 5) == struct.pack("=QQ", 0x7FFFFFFF, 0)


@pytest.mark.parametrize(
    ("space", "code"),
    [
        (Space.ARM64_RET, 2),  # traps have their numbers in a separate space
        (Space.ARM64_RET, 1 << 31),  # the pending SError is not part of a code
        (Space.ARM64_TRAP, 1 << 40),
        (Space.SVM, 22),
        (9, 0),
    ],
)
def test_codes_that_no_arm64_kernel_sends_are_refused(space: int, code: int) -> None:
    with pytest.raises(ValueError, match=f"^an arm64 exit of space {space}, code {code}$"):
        encode(space, code, 0)
