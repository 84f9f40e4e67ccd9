"""arm64: names and classes of exits, the fields of kvm_exit, and contexts for a replay."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from exporter.kernel.btf import KernelBtf
from exporter.kernel.isa import arm64, registry
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
    assert registry.BY_MACHINE["aarch64"] is isa
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


def test_kvm_exit_is_recognised_by_its_first_fields() -> None:
    assert arm64.ISA.recognise(FIELDS)
    assert arm64.ISA.recognise(read_format("aarch64-6.1", "kvm_exit").fields)
    common = {name: field for name, field in FIELDS.items() if name.startswith("common_")}
    assert not arm64.ISA.recognise(common)


@pytest.mark.parametrize(
    ("places", "recognised"),
    [
        ({"ret": (8, 4), "esr_ec": (12, 4)}, True),
        ({"ret": (12, 4), "esr_ec": (16, 4), "vcpu_pc": (24, 8)}, True),  # behind one common field more
        ({"esr_ec": (12, 4), "ret": (8, 4)}, True),  # the offsets are the order
        ({"ret": (8, 4)}, False),
        ({"esr_ec": (8, 4)}, False),
        ({"ret": (12, 4), "esr_ec": (8, 4)}, False),
        ({"vcpu_id": (8, 4), "ret": (12, 4), "esr_ec": (16, 4)}, False),
        ({"ret": (8, 4), "vcpu_pc": (16, 8), "esr_ec": (24, 4)}, False),
        ({"ret": (8, 8), "esr_ec": (16, 4)}, False),
        ({"ret": (8, 4), "esr_ec": (12, 8)}, False),
        ({"ret": (8, 4), "esr_ec": (16, 4)}, False),  # a gap: there may be an argument that the record lacks
        ({"ret": (8, 4), "esr_ec": (8, 4)}, False),
    ],
)
def test_fields_need_the_order_and_the_size_of_the_arguments(
    places: dict[str, tuple[int, int]], recognised: bool
) -> None:
    fields = {name: RecordField(name, *place, False) for name, place in places.items()}
    assert arm64.ISA.recognise(fields) == recognised


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
