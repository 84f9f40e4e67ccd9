"""The number spaces that exit codes live in.

The BPF program stores every exit as a pair (space, code); this enumeration is the only place where the
spaces are numbered, and the loader hands the numbers to the C compiler.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum
from typing import NamedTuple


class Space(IntEnum):
    """What a code is a number of. The code itself is an unsigned 64-bit number, in practice 32-bit."""

    #: exit_reason of Intel VMX, all 32 bits: the basic reason in bits 15:0 and flags above them (bit 31 is
    #: "failed VM entry"). The value is the kernel's own KVM_ISA_VMX, arch/x86/kvm/trace.h.
    VMX = 1
    #: exit_code of AMD SVM as a u32, so that SVM_EXIT_ERR (-1) is 0xffffffff. KVM_ISA_SVM.
    SVM = 2
    #: arm64, exits with ret == ARM_EXCEPTION_TRAP: the exception class, ESR_EL2.EC.
    ARM64_TRAP = 3
    #: arm64, all other exits: ARM_EXCEPTION_CODE(ret), that is ret without bit 31 (pending SError).
    ARM64_RET = 4
    #: kvm_userspace_exit with errno >= 0: a KVM_EXIT_* number.
    USERSPACE = 5
    #: kvm_userspace_exit with errno < 0: -errno.
    USERSPACE_ERRNO = 6


USERSPACE_SPACES = (Space.USERSPACE, Space.USERSPACE_ERRNO)
"""The spaces of returns to the VMM."""


class Reason(NamedTuple):
    """Name and class of an exit: the labels `reason` and `class`."""

    name: str
    klass: str


NameReason = Callable[[int, int], Reason]
"""Gives the name and class of (space, code)."""
