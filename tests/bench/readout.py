"""Read the kernel's counters of 1,000 vCPUs with 10 reasons each: compare mapped arrays with bcc's items() on a hash.

The vCPUs are threads of this process. They run the real program with BPF_PROG_TEST_RUN.
"""

from __future__ import annotations

import statistics
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable

from exporter.collect.collector import Collector
from exporter.kernel import launcher, program
from exporter.kernel.syscall import TestRun

VCPUS, REASONS, ROUNDS = 1000, 10, 11

# This code runs in another process, because this process must not import bcc. Its hash has as many leaves, of the same
# size.
_BCC = """
import statistics, sys, time
sys.path.insert(0, ".")
import os
os.environ["BCC_KERNEL_SOURCE"] = os.path.abspath("exporter/kernel/bpf/headers")
from bcc import BPF
bpf = BPF(text='''
struct key { u32 tid; u32 reason; };
struct leaf { u64 exits, completed, sum_ns, code; u32 space, next, slot, pad0; u64 buckets[142]; u64 pad[4]; };
BPF_TABLE("hash", struct key, struct leaf, cells, 16384);
''')
cells = bpf["cells"]
for tid in range(1000):
    for reason in range(10):
        leaf = cells.Leaf()
        leaf.exits = 1
        cells[cells.Key(tid, reason)] = leaf
times = []
for _ in range(5):
    start = time.process_time()
    found = cells.items()
    times.append(time.process_time() - start)
    assert len(found) == 10000
print(statistics.median(times))
"""


class Vcpus:
    """Threads that wait for work and then all work at the same time."""

    def __init__(self, loaded: program.Loaded) -> None:
        self._loaded = loaded
        self._begin = threading.Barrier(VCPUS + 1)
        self._end = threading.Barrier(VCPUS + 1)
        self._work: Callable[[int], bool] = lambda _: True
        threading.stack_size(256 * 1024)
        for number in range(VCPUS):
            threading.Thread(target=self._run, args=(number,), daemon=True).start()
        threading.stack_size(0)

    def _run(self, number: int) -> None:
        leave = TestRun(self._loaded.programs["kvm_exit"])
        enter = TestRun(self._loaded.programs["kvm_entry"])
        while True:
            self._begin.wait()
            if self._work(number):
                for reason in range(REASONS):
                    leave(struct.pack("=QQ", 2, reason))
                    enter(b"")
            self._end.wait()

    def exit_if(self, work: Callable[[int], bool]) -> None:
        """Let every vCPU for which work() holds exit once for each reason."""
        self._work = work
        self._begin.wait()
        self._end.wait()


def main() -> None:
    """Measure and print the table."""
    loaded = launcher.load(program.LoadRequest(front="arm64", defines={}, slots=4096, cells=16384, attach=False))
    collector = Collector(loaded, time.monotonic_ns, 0)
    vcpus = Vcpus(loaded)
    rows: dict[str, float] = {}
    cases: tuple[tuple[str, Callable[[int], bool]], ...] = (
        ("all changed", lambda _: True),
        ("5 % changed", lambda number: number % 20 == 0),
        ("none changed", lambda _: False),
    )
    for name, work in cases:
        times = []
        for _ in range(ROUNDS):
            vcpus.exit_if(work)
            start = time.process_time()
            snapshot = collector.collect()
            times.append(time.process_time() - start)
            assert sum(len(record.cells) for record in snapshot.vcpus) == VCPUS * REASONS
        rows[name] = statistics.median(times)
    collector.close()
    loaded.close()
    said = subprocess.run([sys.executable, "-c", _BCC], capture_output=True, text=True, check=True)
    items = float(said.stdout)
    print(f"{VCPUS:,} vCPUs with {REASONS} reasons: {VCPUS * REASONS:,} cells of 1,216 bytes. CPU time, median.\n")
    print("| reading | ms | against bcc's items() |")
    print("|---|---:|---:|")
    print(f"| bcc: table.items() on a hash of the same leaves | {items * 1e3:.1f} | 1 |")
    for name, seconds in rows.items():
        print(f"| this exporter, {name} | {seconds * 1e3:.1f} | 1/{items / seconds:.0f} |")


if __name__ == "__main__":
    main()
