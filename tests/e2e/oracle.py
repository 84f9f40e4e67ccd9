"""ftrace counts the events of the same tracepoints, by thread and reason. The counts of the exporter must be equal."""

from __future__ import annotations

import platform
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from errno import EINTR, errorcode
from pathlib import Path

from ring import Ring

KVM = Path("/sys/kernel/tracing/events/kvm")
ARM64 = platform.machine() == "aarch64"
RISCV64 = platform.machine() == "riscv64"
INTEL = Path("/sys/module/kvm_intel").exists()
FIELDS = {"aarch64": ["ret", "esr_ec"], "riscv64": ["scause", "stval"]}.get(platform.machine(), ["isa", "exit_reason"])
VMX, SVM = 1, 2  # isa of kvm_exit
FAILED_VMENTRY = 0x80000000  # set in exit_reason of VMX
# arch/riscv/include/asm/csr.h. The tracepoint of riscv64 has no names.
INTERRUPT = 1 << 63
IRQ = {1: "S_SOFT", 5: "S_TIMER", 9: "S_EXT", 12: "S_GEXT", 13: "PMU_OVF"}
EXC = {
    2: "INST_ILLEGAL", 10: "SUPERVISOR_SYSCALL", 20: "INST_GUEST_PAGE_FAULT", 21: "LOAD_GUEST_PAGE_FAULT",
    22: "VIRTUAL_INST_FAULT", 23: "STORE_GUEST_PAGE_FAULT",
}  # fmt: skip
VIRTUAL_INST_FAULT, WFI = 22, 0x10500073  # of other instructions, the guests use only accesses to CSRs
RISCV_SBI = 35  # the tracepoint has no names for KVM_EXIT_* above 30
SIZE = 16384

Counts = dict[int, dict[str, int]]  # {tid: {reason: count}}


class Oracle:
    """Counts exits from its creation on. No event can be lost without an error."""

    def __init__(self) -> None:
        self._exits = _counter("kvm_exit", FIELDS)
        self._userspace_exits = _counter("kvm_userspace_exit", ["reason", "errno"])
        self._userspace_names = {RISCV_SBI: "KVM_EXIT_RISCV_SBI", **_symbols("kvm_userspace_exit", "REC->reason")}
        self._names = {} if RISCV64 else _symbols("kvm_exit", "REC->esr_ec" if ARM64 else "REC->exit_reason,")
        self._vmx_names = {} if ARM64 or RISCV64 else _symbols("kvm_exit", "REC->exit_reason & 0xffff,")
        self._returns = _symbols("kvm_exit", "REC->ret") if ARM64 else {}

    def exits(self) -> Counts:
        """Return the counts of kvm_exit by thread, with the exporter's names of reasons."""
        if RISCV64:
            return _named(self._exits, _riscv64_name)
        return _named(self._exits, self._arm64_name if ARM64 else self._x86_name)

    def userspace_exits(self) -> Counts:
        """Return the counts of kvm_userspace_exit by thread."""
        return _named(self._userspace_exits, self._userspace_name)

    def _arm64_name(self, ret: int, exception_class: int) -> str:
        if ret == 2:  # ARM_EXCEPTION_TRAP: esr_ec is valid only for this code
            return f"EC_{self._names[exception_class]}" if exception_class else "UNKNOWN_EC"
        return self._returns[ret]

    def _x86_name(self, isa: int, exit_reason: int) -> str:
        if isa != (VMX if INTEL else SVM):
            raise ValueError(f"isa {isa} on {'an Intel' if INTEL else 'an AMD'} host")
        if not INTEL:
            return self._names[exit_reason]
        failed = " FAILED_VMENTRY" if exit_reason & FAILED_VMENTRY else ""
        return self._vmx_names[exit_reason & ~FAILED_VMENTRY] + failed

    def _userspace_name(self, reason: int, errno: int) -> str:
        if errno >= 0:
            return self._userspace_names[reason]
        return "restart" if errno == -EINTR else f"error_{errorcode[-errno]}"


def _riscv64_name(scause: int, stval: int) -> str:
    if scause & INTERRUPT:
        return f"IRQ_{IRQ[scause & ~INTERRUPT]}"
    if scause == VIRTUAL_INST_FAULT and stval:  # stval has the instruction
        return "WFI" if stval == WFI else "CSR"
    return f"EXC_{EXC[scause]}"


class Histogram:
    """A hist trigger: the kernel counts one event by thread and fields. A full table shows lost events as Dropped."""

    def __init__(self, event: str, fields: Sequence[str]) -> None:
        self._event = event
        (KVM / event / "trigger").write_text(f"hist:keys=common_pid,{','.join(fields)}:size={SIZE}")

    def counts(self) -> Counter[tuple[int, ...]]:
        """Return the number of events for each (tid, *fields). Raises RuntimeError if events were lost."""
        text = (KVM / self._event / "hist").read_text()
        if not re.search(r"^    Dropped: 0$", text, re.MULTILINE):
            raise RuntimeError(f"the hist trigger of {self._event} has dropped events:\n{text}")
        result: Counter[tuple[int, ...]] = Counter()
        for line in re.findall(r"^\{.*", text, re.MULTILINE):
            *key, hits = (int(number) for number in re.findall(r": +(\d+)", line))
            # A negative number is printed as one of 64 bits.
            result[tuple(value - (1 << 64) if value >> 63 else value for value in key)] += hits
        return result


def _counter(event: str, fields: Sequence[str]) -> Histogram | Ring:
    return Histogram(event, fields) if (KVM / event / "hist").exists() else Ring(event, fields)


def _named(counter: Histogram | Ring, name: Callable[[int, int], str]) -> Counts:
    result: Counts = defaultdict(lambda: defaultdict(int))
    for (tid, first, second), hits in counter.counts().items():
        result[tid][name(first, second)] += hits
    return {tid: dict(counts) for tid, counts in result.items()}


def _symbols(event: str, field: str) -> dict[int, str]:
    """Return {code: name} from the __print_symbolic table of a field in the event's print format."""
    text = (KVM / event / "format").read_text()
    table = text[text.index(f"__print_symbolic({field}") :]
    table = table[: table.index("})")]
    # A code is a number or a sum, "(((0x20UL)))" or "0x040 + 6". A name is one or more string literals.
    pairs = re.findall(r'\{([^,{}]*),\s*((?:"[^"]*"\s*)+)', table)
    return {_number(code): re.sub(r'"\s*"|"|\s*$', "", name) for code, name in pairs}


def _number(expression: str) -> int:
    return sum(int(term, 0) for term in re.findall(r"-?\b(?:0x[0-9a-f]+|\d+)", expression, re.IGNORECASE))
