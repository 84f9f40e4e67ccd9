"""x86: how the front reads kvm:kvm_exit.

A BPF program on a classic tracepoint is a filter of perf for everybody: each event for which it returns 0 is lost to
every perf event of the host (perf_trace_run_bpf_submit(), kernel/events/core.c). So the raw tracepoint is read wherever
possible. Its arguments (arch/x86/kvm/trace.h) differ:

    (u32 exit_reason, struct kvm_vcpu *vcpu, u32 isa)   up to Linux 5.15
    (struct kvm_vcpu *vcpu, u32 isa)                    since Linux 5.16, commit 0a62a0319abb

Since Linux 5.16 the program reads the reason where KVM keeps it.

BTF tells which of them a kernel has, and where the reason is. get_exit_info() of KVM, which fills the classic record,
reads the same places (arch/x86/kvm/vmx/vmx.c, arch/x86/kvm/svm/svm.c).
"""

from __future__ import annotations

import struct
from collections.abc import Mapping

from exporter.kernel.btf import Btf, BtfError, KernelBtf
from exporter.kernel.isa.entry import Fields, HostFront, Version

_WITH_REASON = ("unsigned int", "struct kvm_vcpu *", "unsigned int")
_WITHOUT_REASON = ("struct kvm_vcpu *", "unsigned int")

_REASON_REMOVED = (5, 16, 0)
"""Commit 0a62a0319abb ("KVM: x86: Get exit_reason as part of kvm_x86_ops.get_exit_info")."""
_REASON_DEFINES = {"REASON_ARG": 0, "VCPU_ARG": 1, "ISA_ARG": 2}

REPLAY_DEFINES: Mapping[str, int] = {"REASON_ARG": 0, "ISA_ARG": 2, "VCPU_ID_ARG": 3}

_EXIT_CODE_OFFSET = 0x70
"""exit_code in the VMCB: AMD64 Architecture Programmer's Manual, volume 2, table B-1."""


def encode_exit(space: int, code: int, vcpu_id: int) -> bytes:
    """Encode the arguments that REPLAY_DEFINES names."""
    return struct.pack("=QQQQ", code, 0, space, vcpu_id)


def recognise(fields: Fields) -> bool:
    """Return True for the fields of x86. Of an exit_reason of 8 bytes, the lower half is the code."""
    if not {"exit_reason", "isa"} <= fields.keys():
        return False
    return fields["exit_reason"].size in (4, 8) and fields["isa"].size == 4


def host_front(fields: Fields, btf: KernelBtf, version: Version | None) -> HostFront:
    """Choose the raw tracepoint with the arguments that this kernel has, or else the classic tracepoint.

    The macros of the classic tracepoint are always part of the result: the kernel may refuse the raw one.
    """
    # vcpu_id is there since Linux 5.11.
    names = {"exit_reason": "EXIT_REASON_OFFSET", "isa": "ISA_OFFSET", "vcpu_id": "VCPU_ID_OFFSET"}
    classic = {macro: fields[name].offset for name, macro in names.items() if name in fields}
    try:
        raw = _raw_defines(btf, version)
    except BtfError as error:
        return HostFront(classic, "vcpu_id" in fields, str(error))
    return HostFront({**classic, **raw}, "KVM_VCPU_ID" in raw)


def _raw_defines(btf: KernelBtf, version: Version | None) -> dict[str, int]:
    """Return the macros for the raw tracepoint. Raises BtfError where it cannot be read."""
    try:
        kvm = btf.of("kvm")
        arguments = kvm.tracepoint_arguments("kvm_exit")
    except BtfError:
        # A kernel with two arguments refuses a program that reads a third (bpf_probe_register()).
        if version is None or version >= _REASON_REMOVED:
            raise
        return _REASON_DEFINES
    if arguments == _WITH_REASON:
        return {**_REASON_DEFINES, "KVM_VCPU_ID": _sized(kvm, "kvm_vcpu", "vcpu_id", 4)}
    if arguments != _WITHOUT_REASON:
        raise BtfError(f"the raw tracepoint kvm_exit has unknown arguments ({', '.join(arguments)})")
    vendors = {"kvm_intel": _vmx_defines, "kvm_amd": _svm_defines}
    found: dict[str, int] = {}
    for module, defines in vendors.items():
        if btf.loaded(module):
            found |= defines(btf.of(module))
    if not found:
        raise BtfError(f"neither {' nor '.join(vendors)} is loaded")
    return {"VCPU_ARG": 0, "ISA_ARG": 1, "KVM_VCPU_ID": _sized(kvm, "kvm_vcpu", "vcpu_id", 4), **found}


def _vmx_defines(btf: Btf) -> dict[str, int]:
    # Since Linux 6.16 in a struct vcpu_vt, which vcpu_vmx and vcpu_tdx have at the same offset (to_vt(),
    # arch/x86/kvm/vmx/vmx.h).
    try:
        return {"VMX_EXIT_REASON": _from_vcpu(btf, "vcpu_vmx", "vt.exit_reason", 4)}
    except BtfError:
        return {"VMX_EXIT_REASON": _from_vcpu(btf, "vcpu_vmx", "exit_reason", 4)}


def _svm_defines(btf: Btf) -> dict[str, int]:
    exit_code = btf.member("vmcb", "control.exit_code")
    if exit_code.offset != _EXIT_CODE_OFFSET or exit_code.size not in (4, 8):
        raise BtfError(f"struct vmcb has control.exit_code at offset {exit_code.offset}")
    return {"SVM_VMCB": _from_vcpu(btf, "vcpu_svm", "vmcb", 8), "SVM_EXIT_CODE": exit_code.offset}


def _from_vcpu(btf: Btf, structure: str, path: str, size: int) -> int:
    """Return the offset of a member, counted from the struct kvm_vcpu that is in the same structure."""
    return _sized(btf, structure, path, size) - btf.member(structure, "vcpu").offset


def _sized(btf: Btf, structure: str, path: str, size: int) -> int:
    member = btf.member(structure, path)
    if member.size != size:
        raise BtfError(f"struct {structure} has {path} with {member.size} bytes")
    return member.offset
