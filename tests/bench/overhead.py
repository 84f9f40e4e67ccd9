"""What an exit costs: run time of the two hot programs against empty ones and against two clock reads.

The kernel measures (kernel.bpf_stats_enabled), so every figure holds the cost of that measuring itself: the empty
programs show how much it is. All programs are called in turn in one thread, by the same harness, in rounds; the
table gives the median of the rounds. Run as root: python3 -m tests.bench.overhead
"""

from __future__ import annotations

import os
import statistics
import struct
import sys

from exporter import program
from exporter.bpf import syscall

ROUNDS, CALLS = 31, 20_000

_FLOOR = """
BPF_F_TABLE("array", u32, u64, floor_time, 1, BPF_F_MMAPABLE);

int empty_exit(struct bpf_raw_tracepoint_args *ctx) { return 0; }
int empty_entry(struct bpf_raw_tracepoint_args *ctx) { return 0; }

int floor_exit(struct bpf_raw_tracepoint_args *ctx)
{
	u32 zero = 0;
	u64 *since = floor_time.lookup(&zero);

	if (since)
		*since = bpf_ktime_get_ns();
	return 0;
}

int floor_entry(struct bpf_raw_tracepoint_args *ctx)
{
	u32 zero = 0;
	u64 *since = floor_time.lookup(&zero);

	if (since)
		*since = bpf_ktime_get_ns() - *since;
	return 0;
}
"""
_EXTRA = ("empty_exit", "empty_entry", "floor_exit", "floor_entry")
_X86 = {"EXIT_REASON_OFFSET": 8, "ISA_OFFSET": 24, "VCPU_ID_OFFSET": 56}


def _context(front: str, number: int) -> bytes:
    """One of five reasons, as a guest would mix them."""
    if front == "arm64":
        return struct.pack("=QQ", 2, (0x24, 0x01, 0x18, 0x16, 0x20)[number % 5])
    record = bytearray(72)
    struct.pack_into("=I", record, 8, (30, 12, 32, 48, 1)[number % 5])
    struct.pack_into("=I", record, 24, 1)
    return bytes(record)


def _round(loaded: program.Loaded, pair: tuple[str, str], contexts: list[bytes]) -> float:
    """Nanoseconds of one exit and one entry."""
    programs = [loaded.programs[name] for name in pair]
    leave, enter = (syscall.TestRun(program) for program in programs)
    before = [syscall.program_stats(program) for program in programs]
    for number in range(CALLS):
        leave(contexts[number % 5])
        enter(b"")
    after = [syscall.program_stats(program) for program in programs]
    for b, a in zip(before, after):
        assert a.runs - b.runs == CALLS, "another process runs these programs"
    return sum((a.seconds - b.seconds) / (a.runs - b.runs) for b, a in zip(before, after)) * 1e9


def main() -> int:
    """Measure and print the table."""
    if os.geteuid() != 0:
        print("overhead: root is needed to load the programs", file=sys.stderr)
        return 1
    print(f"{ROUNDS} rounds of {CALLS} exits and entries, 5 reasons, Linux {os.uname().release}\n")
    print(f"{'front':<7} {'programs':<28} {'ns per exit+entry':>18} {'over empty':>11} {'of the floor':>13}")
    for front, defines in (("arm64", {}), ("x86", _X86)):
        loaded = program.load(
            program.Request(
                front=front,
                defines=defines,
                slots=64,
                cells=1024,
                attach=False,
                bpf_stats=True,
                extra_source=_FLOOR,
                extra_programs=_EXTRA,
            )
        )
        pairs = {
            "empty": ("empty_exit", "empty_entry"),
            "floor: two clock reads": ("floor_exit", "floor_entry"),
            "kvm_exit + kvm_entry": ("kvm_exit", "kvm_entry"),
        }
        contexts = [_context(front, number) for number in range(5)]
        rounds: dict[str, list[float]] = {name: [] for name in pairs}
        for _ in range(ROUNDS):
            for name, pair in pairs.items():
                rounds[name].append(_round(loaded, pair, contexts))
        ns = {name: statistics.median(times) for name, times in rounds.items()}
        floor = ns["floor: two clock reads"]
        for name, median in ns.items():
            print(f"{front:<7} {name:<28} {median:>18.0f} {median - ns['empty']:>11.0f} {median / floor:>12.2f}x")
        loaded.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
