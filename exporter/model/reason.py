"""Exit reasons: the spaces of exit codes, and the name and class of a code.

The BPF program stores every exit as a pair (space, code). The spaces are numbered only here, and the loader passes the
numbers to the C compiler. Recordings and ledgers store the numbers too, so a number never changes its meaning.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum
from typing import NamedTuple


class Space(IntEnum):
    """The kind of number that an exit code is. The code itself is an unsigned 64-bit number, in practice 32-bit."""

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
    #: riscv64, scause with bit 63: an interrupt, scause without that bit.
    RISCV64_INTERRUPT = 7
    #: riscv64, all other exits: scause. Bits 15:8 tell the instruction of a virtual instruction fault (22) apart:
    #: 1 WFI, 2 WRS.NTO, 3 one that accesses a CSR, 0 another or unknown.
    RISCV64_EXCEPTION = 8


USERSPACE_SPACES = (Space.USERSPACE, Space.USERSPACE_ERRNO)
"""The spaces of returns to the VMM."""

CLASSES = (
    "idle",  # the guest has nothing to do and waits
    "interrupt",  # an asynchronous event arrived, or the guest can accept one now
    "mmio",  # the guest accessed a device register (the interrupt controller is a device too)
    "pio",  # the guest accessed a device through an I/O port
    # A control, debug, model-specific or system register, or an instruction that reads CPU state (CPUID, RDTSC,
    # RDPMC). The exit does not come from the memory system or from a device.
    "sysreg",
    "hypercall",  # the guest called its hypervisor or its firmware
    "fault",  # a page of guest memory was missing, read-only or tracked
    "exception",  # the guest (or the CPU under it) took an exception that the hypervisor intercepts
    "pause",  # a spin loop of the guest gave up the CPU
    "debug",  # breakpoints, watchpoints, single-stepping
    # All other reasons: for example the instructions that a nested hypervisor uses for its own guests, and the
    # maintenance of caches and TLBs.
    "other",
)
"""Classes of exit reasons: the same on every instruction set, so that one dashboard fits a mixed fleet."""


class Reason(NamedTuple):
    """Name and class of an exit: the labels `reason` and `class`."""

    name: str
    klass: str


NameReason = Callable[[int, int], Reason]
"""A function that returns the name and class of (space, code)."""
