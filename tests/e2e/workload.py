"""The exits of the guests: prime numbers, different for each vCPU."""

from __future__ import annotations

from oracle import ARM64, INTEL, RISCV64

# One vCPU sleeps and another is kicked, because a kick would end a sleep early.
if ARM64:
    EARLY = [{"mmio": 101, "hvc": 103}]
    SLEEPER = {"mmio": 1009, "hvc": 503, "sys": 251, "touch": 23, "wfi": 101}
    KICKED = {"mmio": 499, "hvc": 1013, "sys": 127, "touch": 7, "kick": 37}
    THREE = [
        {"mmio": 2003, "hvc": 17, "sys": 1999},
        {"mmio": 13, "hvc": 2011, "sys": 19, "touch": 43, "wfi": 31},
        {"mmio": 211, "sys": 3001, "kick": 53},
    ]
    WORKER = [SLEEPER, KICKED]
    TOP = [{"mmio": 1021, "hvc": 509, "sys": 257}, {"mmio": 491, "hvc": 1031}]
    SIMPLEST = "hvc"
elif RISCV64:
    EARLY = [{"mmio": 101, "sbi": 103}]
    SLEEPER = {
        "mmio": 1009, "load": 307, "sbi": 503, "forward": 59, "csr": 251, "illegal": 113, "touch": 23, "wfi": 101,
    }  # fmt: skip
    KICKED = {"mmio": 499, "load": 61, "sbi": 1013, "csr": 127, "illegal": 29, "touch": 7, "kick": 37}
    THREE = [
        {"mmio": 2003, "sbi": 17, "csr": 1999, "illegal": 211},
        {"load": 1511, "sbi": 2011, "csr": 19, "touch": 43, "wfi": 31},
        {"mmio": 211, "forward": 907, "csr": 3001, "kick": 53},
    ]
    TOP = [{"mmio": 1021, "sbi": 509, "csr": 257}, {"mmio": 491, "sbi": 1031}]
    SIMPLEST = "sbi"
else:
    EARLY = [{"io": 101, "cpuid": 103}]
    SLEEPER = {"io": 1009, "cpuid": 503, "msr": 251, "mmio": 307, "touch": 23, "hlt": 101}
    KICKED = {"io": 499, "cpuid": 1013, "msr": 127, "mmio": 61, "touch": 7, "kick": 37}
    THREE = [
        {"io": 2003, "cpuid": 17, "msr": 1999, "mmio": 5},
        {"io": 13, "cpuid": 2011, "msr": 19, "mmio": 401, "touch": 43, "hlt": 31},
        {"io": 211, "msr": 3001, "kick": 53},
    ]
    # In nested emulation of SVM, a vCPU that sleeps or is kicked in round after round may never be woken.
    WORKER = [{"io": 1009, "cpuid": 503, "msr": 251, "mmio": 307}, {"io": 499, "cpuid": 1013, "msr": 127, "mmio": 61}]
    TOP = [{"io": 1021, "cpuid": 509, "msr": 257}, {"io": 491, "cpuid": 1031}]
    SIMPLEST = "cpuid"
FAILED_ENTRIES = 7 if INTEL else 0  # without an exit
if INTEL:
    for _vcpu, _calls in zip((SLEEPER, KICKED, *THREE), (71, 1499, 89, 601, 37)):
        _vcpu["vmcall"] = _calls
    # VM entries that the CPU refuses with an exit, VM entries that fail without one, and triple faults.
    UNHEALTHY = [{"io": 19, "refused": 5, "crash": 3, "vmcall": 11}, {"cpuid": 29, "crash": 2}]
    FAILING = [{"io": 41, "vmcall": 13, "failed": FAILED_ENTRIES}]
SHORT_LIVED = [3, 5, 7, 11, 13]
CROWD = [101, 103, 107, 109]

# In nested emulation of SVM, the two vCPUs of a Linux guest stall each other. One guest in four with one vCPU stalls
# too. The test then stops the VM and compares it as it is: the comparison does not depend on the VM's progress.
LINUX_MUST_WORK = ARM64 or RISCV64 or INTEL
LINUX = {"web-1": 2, "db,1": 1} if LINUX_MUST_WORK else {"db,1": 1}
LINUX_SECONDS = 100 if LINUX_MUST_WORK else 20
LINUX_ROUNDS, LINUX_MORE_ROUNDS = 23, 41
