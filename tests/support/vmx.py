"""The recordings of Intel's VMX: the known counts, and the durations computed without the program."""

from __future__ import annotations

from collections import Counter, defaultdict
from pathlib import Path

from exporter.model.reason import USERSPACE_SPACES
from exporter.naming.reasons import ReasonNames
from exporter.recording.events import Kind
from exporter.recording.recording import Recording

_FOLDER = Path(__file__).resolve().parents[1] / "recordings/intel-vmx-bochs"
EXACT, LINUX = _FOLDER / "vmx-6.12-exact.kvmrec", _FOLDER / "vmx-6.12-linux.kvmrec"

# {recording: {(kind, tid, reason): exits}}
COUNTS = {
    EXACT: {
        ("exit", 515, "IO_INSTRUCTION"): 3074,
        ("exit", 515, "CPUID"): 3074,
        ("exit", 515, "HLT"): 3074,
        ("exit", 516, "MSR_READ"): 3073,
        ("exit", 516, "HLT"): 3073,
        ("userspace", 515, "KVM_EXIT_IO"): 3074,
        ("userspace", 515, "restart"): 3074,
        ("userspace", 516, "restart"): 3073,
    },
    LINUX: {
        ("exit", 565, "EXTERNAL_INTERRUPT"): 3054,
        ("exit", 565, "INTERRUPT_WINDOW"): 289,
        ("exit", 565, "CPUID"): 2264,
        ("exit", 565, "HLT"): 38,
        ("exit", 565, "CR_ACCESS"): 11,
        ("exit", 565, "DR_ACCESS"): 1,
        ("exit", 565, "IO_INSTRUCTION"): 3356,
        ("exit", 565, "MSR_READ"): 202,
        ("exit", 565, "MSR_WRITE"): 1787,
        ("exit", 565, "PAUSE_INSTRUCTION"): 46,
        ("exit", 565, "EPT_VIOLATION"): 78,
        ("exit", 565, "EPT_MISCONFIG"): 1180,
        ("exit", 565, "PREEMPTION_TIMER"): 1528,
        ("exit", 565, "XSETBV"): 2,
        ("userspace", 565, "KVM_EXIT_IO"): 3217,
        ("userspace", 565, "KVM_EXIT_MMIO"): 176,
        ("userspace", 565, "restart"): 1,
    },
}

Key = tuple[str, int, str]  # kind, tid, reason


def truth(recorded: Recording) -> tuple[Counter[Key], dict[Key, list[int]]]:
    """Return counts and durations, computed only from the events."""
    names = ReasonNames(recorded.kvm_exit, recorded.kvm_userspace_exit)
    counts: Counter[Key] = Counter()
    times: dict[Key, list[int]] = defaultdict(list)
    out: dict[int, list[Key]] = {}
    since: dict[int, int] = {}
    for runs in recorded.runs():
        for run in runs:
            tid = run.thread.tid
            for now, event in zip(run.times, run.events):
                if event.kind == Kind.ENTRY:
                    for key in out.pop(tid, []):
                        times[key].append(now - since[tid])
                if event.kind not in (Kind.EXIT, Kind.USERSPACE_EXIT):
                    continue
                kind = "userspace" if event.space in USERSPACE_SPACES else "exit"
                key = (kind, tid, names.lookup(event.space, event.code).name)
                counts[key] += 1
                if event.kind == Kind.EXIT:
                    out[tid], since[tid] = [key], now
                elif len(out.get(tid, [])) == 1:
                    out[tid].append(key)
    return counts, times
