"""openEuler's arm64 kernels of the 5.10 line: the fields, names and classes, and contexts for a replay."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from exporter.kernel.btf import KernelBtf
from exporter.kernel.isa import arm64, arm64_openeuler
from exporter.kernel.isa.entry import HostFront
from exporter.kernel.tracepoint import RecordField
from exporter.model.reason import Reason, Space
from tests.support.formats import read_format, reason_names

FIELDS = read_format("aarch64-openeuler-5.10", "kvm_exit").fields
encode = arm64_openeuler.ISA.encode_exit


def test_only_openeulers_kvm_exit_is_recognised() -> None:
    assert arm64_openeuler.ISA.recognise(FIELDS)
    assert not arm64.ISA.recognise(FIELDS)
    for kernel in ("aarch64-6.1", "aarch64-6.12", "x86_64-6.18"):
        assert not arm64_openeuler.ISA.recognise(read_format(kernel, "kvm_exit").fields)


def test_the_front_reads_the_vcpu_id_without_btf(tmp_path: Path) -> None:
    assert arm64_openeuler.ISA.host_front(FIELDS, KernelBtf(tmp_path), None) == HostFront({}, vcpu_ids=True)
    assert arm64_openeuler.ISA.replay_defines == {}


@pytest.mark.parametrize(
    "places",
    [
        {"ret": (8, 4), "vcpu_id": (12, 4), "vcpu_pc": (16, 8)},
        {"vcpu_id": (8, 8), "ret": (16, 4), "vcpu_pc": (24, 8)},
        {"vcpu_id": (8, 4), "vcpu_pc": (16, 8), "ret": (24, 4)},
        {"vcpu_id": (8, 4), "ret": (12, 4)},
        {"vcpu_id": (8, 4), "ret": (12, 4), "vcpu_pc": (16, 8), "esr_ec": (24, 4)},
    ],
)
def test_the_right_names_in_another_layout_are_not_recognised(places: dict[str, tuple[int, int]]) -> None:
    fields = {name: RecordField(name, *place, False) for name, place in places.items()}
    assert not arm64_openeuler.ISA.recognise(fields)


def test_names_and_classes_are_those_of_arm64() -> None:
    reasons = reason_names("aarch64-openeuler-5.10")
    for space, code, expected in [
        (Space.ARM64_TRAP, 0x01, Reason("EC_WFx", "idle")),
        (Space.ARM64_TRAP, 0x24, Reason("EC_DABT_LOW", "mmio")),
        (Space.ARM64_TRAP, 0x00, Reason("UNKNOWN_EC", "other")),
        (Space.ARM64_RET, 0, Reason("IRQ", "interrupt")),
        (Space.ARM64_RET, 2, Reason("TRAP", "other")),  # a trap without kvm_trap_enter
        (Space.ARM64_RET, 0xBADCA11, Reason("HYP_GONE", "other")),
    ]:
        assert reasons.lookup(space, code) == expected


def test_a_context_has_the_arguments_and_the_recorded_reason() -> None:
    assert encode(Space.ARM64_TRAP, 0x24, 5) == struct.pack("=5Q", 5, 2, 0, 3, 0x24)
    assert encode(Space.ARM64_RET, 0, 5) == struct.pack("=5Q", 5, 0, 0, 4, 0)
    assert encode(Space.ARM64_RET, 2, 5) == struct.pack("=5Q", 5, 2, 0, 4, 2)


@pytest.mark.parametrize(("space", "code"), [(Space.ARM64_RET, 1 << 31), (Space.ARM64_TRAP, 1 << 40), (Space.SVM, 22)])
def test_codes_that_no_arm64_kernel_sends_are_refused(space: int, code: int) -> None:
    with pytest.raises(ValueError, match=f"^an arm64 exit of space {space}, code {code}$"):
        encode(space, code, 0)
