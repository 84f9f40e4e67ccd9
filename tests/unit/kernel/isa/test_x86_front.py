"""x86: which tracepoint is read, and at which offsets, by the fields, BTF and version of the kernel."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from exporter.kernel.btf import KernelBtf
from exporter.kernel.isa import x86
from exporter.kernel.isa.entry import HostFront, Version
from exporter.kernel.tracepoint import RecordField
from exporter.model.reason import Space
from tests.support import btf as make
from tests.support.btf import BtfFile
from tests.support.formats import KERNELS, read_format

CAPTURED = [kernel for kernel in KERNELS if kernel.startswith("x86")]
FIELDS = read_format("x86_64-6.18", "kvm_exit").fields
CLASSIC = {"EXIT_REASON_OFFSET": 8, "ISA_OFFSET": 24, "VCPU_ID_OFFSET": 56}
WITH_REASON = {"REASON_ARG": 0, "VCPU_ARG": 1, "ISA_ARG": 2}
WITHOUT_REASON = {"VCPU_ARG": 0, "ISA_ARG": 1}


def fields(**places: tuple[int, int]) -> dict[str, RecordField]:
    """Fields by name: offset and size."""
    return {name: RecordField(name, *place, False) for name, place in places.items()}


class Kernel:
    """The BTF of a kernel, built piece by piece: struct kvm_vcpu has vcpu_id at offset 20."""

    def __init__(self, sysfs: Path, *, modules: bool) -> None:
        self.sysfs = sysfs
        self.vmlinux = BtfFile()
        self.u32 = self.vmlinux.integer("unsigned int", 4)
        self.u64 = self.vmlinux.integer("unsigned long", 8)
        self.files = {"vmlinux": self.vmlinux}
        self._modules = modules
        self.kvm = self._file("kvm")
        self.kvm_vcpu = self._vcpu(self.kvm)

    def _file(self, name: str) -> BtfFile:
        if not self._modules:
            return self.vmlinux
        self.files[name] = BtfFile(self.vmlinux)
        return self.files[name]

    def _vcpu(self, file: BtfFile) -> int:
        return file.struct("kvm_vcpu", 64, {"cpu": (self.u32, 0), "vcpu_id": (self.u32, 160)})

    def prototype(self, *, reason: bool) -> None:
        """kvm_exit with or without the reason among its arguments."""
        u32 = self.kvm.typedef("u32", self.u32)
        vcpu = self.kvm.pointer(self.kvm_vcpu)
        self.kvm.tracepoint("kvm_exit", *([self.u32] if reason else []), vcpu, u32)

    def intel(self, *, nested: bool, first: int = 0) -> None:
        """kvm_intel; `nested`: the exit_reason is in struct vcpu_vt. `first`: bytes before the struct kvm_vcpu."""
        file = self._file("kvm_intel")
        vcpu = self._vcpu(file) if self._modules else self.kvm_vcpu
        reason = file.union("vmx_exit_reason", 4, {"full": (self.u32, 0)})
        if nested:
            vt = file.struct("vcpu_vt", 80, {"pad": (self.u64, 0), "exit_reason": (reason, 512)})
            members = {"vcpu": (vcpu, first * 8), "vt": (vt, 1024)}
        else:
            members = {"vcpu": (vcpu, first * 8), "exit_reason": (reason, 1024)}
        file.struct("vcpu_vmx", 256, members)
        make.load_module(self.sysfs, "kvm_intel")

    def amd(self, *, exit_code: int = 0x70, wide: bool = False) -> None:
        """kvm_amd; `exit_code`: its offset in the VMCB."""
        file = self._file("kvm_amd")
        vcpu = self._vcpu(file) if self._modules else self.kvm_vcpu
        control = file.struct("vmcb_control_area", 1024, {"exit_code": (self.u64 if wide else self.u32, exit_code * 8)})
        vmcb = file.struct("vmcb", 4096, {"control": (control, 0)})
        file.struct("vcpu_svm", 256, {"vcpu": (vcpu, 0), "vmcb": (file.pointer(vmcb), 1600)})
        make.load_module(self.sysfs, "kvm_amd")

    def front(self, version: Version | None = (6, 1, 0)) -> HostFront:
        """The front for this kernel, whose format is that of Linux 6.18."""
        make.write(self.sysfs, **self.files)
        return x86.ISA.host_front(FIELDS, KernelBtf(self.sysfs), version)


@pytest.fixture(params=[True, False], ids=["modules", "built-in"])
def kernel(tmp_path: Path, request: pytest.FixtureRequest) -> Kernel:
    return Kernel(tmp_path, modules=request.param)


def test_the_reason_is_an_argument(kernel: Kernel) -> None:
    kernel.prototype(reason=True)
    assert kernel.front() == HostFront({**CLASSIC, **WITH_REASON, "KVM_VCPU_ID": 20}, vcpu_ids=True)


@pytest.mark.parametrize("nested", [False, True])
def test_the_reason_is_in_the_structure_of_vmx(kernel: Kernel, nested: bool) -> None:
    kernel.prototype(reason=False)
    kernel.intel(nested=nested)
    offset = 128 + (64 if nested else 0)
    defines = {**CLASSIC, **WITHOUT_REASON, "KVM_VCPU_ID": 20, "VMX_EXIT_REASON": offset}
    assert kernel.front() == HostFront(defines, vcpu_ids=True)


def test_offsets_begin_at_the_vcpu(kernel: Kernel) -> None:
    kernel.prototype(reason=False)
    kernel.intel(nested=False, first=8)
    assert kernel.front().defines["VMX_EXIT_REASON"] == 120


@pytest.mark.parametrize("wide", [False, True])
def test_the_reason_is_in_the_vmcb_of_svm(kernel: Kernel, wide: bool) -> None:
    kernel.prototype(reason=False)
    kernel.amd(wide=wide)
    defines = {**CLASSIC, **WITHOUT_REASON, "KVM_VCPU_ID": 20, "SVM_VMCB": 200, "SVM_EXIT_CODE": 0x70}
    assert kernel.front() == HostFront(defines, vcpu_ids=True)


def test_both_vendors(kernel: Kernel) -> None:
    kernel.prototype(reason=False)
    kernel.intel(nested=False)
    kernel.amd()
    found = kernel.front()
    assert {"VMX_EXIT_REASON", "SVM_VMCB"} <= found.defines.keys()
    assert found.classic_reason == ""


def test_the_kernels_own_vendor_without_its_structure(kernel: Kernel) -> None:
    """The offsets of the other vendor do not help."""
    kernel.prototype(reason=False)
    kernel.amd()
    make.load_module(kernel.sysfs, "kvm_intel")
    assert kernel.front() == HostFront(CLASSIC, vcpu_ids=True, classic_reason="no struct vcpu_vmx")


def test_an_exit_code_that_is_not_where_the_hardware_writes_it(kernel: Kernel) -> None:
    kernel.prototype(reason=False)
    kernel.amd(exit_code=0x78)
    reason = "struct vmcb has control.exit_code at offset 120"
    assert kernel.front() == HostFront(CLASSIC, vcpu_ids=True, classic_reason=reason)


def test_no_vendor(kernel: Kernel) -> None:
    kernel.prototype(reason=False)
    reason = "neither kvm_intel nor kvm_amd is loaded"
    assert kernel.front() == HostFront(CLASSIC, vcpu_ids=True, classic_reason=reason)


def test_unknown_arguments(kernel: Kernel) -> None:
    kernel.kvm.tracepoint("kvm_exit", kernel.u32, kernel.u64)
    reason = "the raw tracepoint kvm_exit has unknown arguments (unsigned int, unsigned long)"
    assert kernel.front((5, 10, 0)) == HostFront(CLASSIC, vcpu_ids=True, classic_reason=reason)


@pytest.mark.parametrize("captured", CAPTURED)
@pytest.mark.parametrize(
    ("version", "raw"),
    [((5, 5, 0), True), ((5, 15, 999), True), ((5, 16, 0), False), ((6, 1, 0), False), (None, False)],
)
def test_without_btf(tmp_path: Path, captured: str, version: Version | None, raw: bool) -> None:
    """Up to 5.15 the kernel has the reason among its arguments, but nothing says where the vcpu_id is."""
    record = read_format(captured, "kvm_exit").fields
    found = x86.ISA.host_front(record, KernelBtf(tmp_path), version)
    reason = f"{tmp_path}/kernel/btf/vmlinux: No such file or directory"
    classic = {**CLASSIC, "VCPU_ID_OFFSET": record["vcpu_id"].offset}
    if raw:
        assert found == HostFront({**classic, **WITH_REASON}, vcpu_ids=False)
    else:
        assert found == HostFront(classic, vcpu_ids=True, classic_reason=reason)


def test_before_vcpu_id(tmp_path: Path) -> None:
    """Before Linux 5.11 the record has no vcpu_id."""
    older = fields(exit_reason=(8, 8), isa=(24, 4))
    found = x86.ISA.host_front(older, KernelBtf(tmp_path), None)
    assert (found.defines, found.vcpu_ids) == ({"EXIT_REASON_OFFSET": 8, "ISA_OFFSET": 24}, False)


def test_fields() -> None:
    recognise = x86.ISA.recognise
    assert recognise(FIELDS)
    assert recognise(fields(exit_reason=(8, 8), isa=(24, 4)))
    assert not recognise(fields(exit_reason=(8, 2), isa=(24, 4)))
    assert not recognise(fields(exit_reason=(8, 4), isa=(24, 8)))
    assert not recognise(fields(exit_reason=(8, 4)))
    assert not recognise(fields(isa=(24, 4)))


def test_a_replay_passes_the_arguments() -> None:
    assert x86.ISA.replay_defines == {"REASON_ARG": 0, "ISA_ARG": 2, "VCPU_ID_ARG": 3}
    assert x86.ISA.encode_exit(Space.VMX, 0x80000021, 5) == struct.pack("=4Q", 0x80000021, 0, 1, 5)
    assert x86.ISA.encode_exit(Space.SVM, 2**64 - 1, 2**32 - 1) == struct.pack("=4Q", 2**64 - 1, 0, 2, 2**32 - 1)
