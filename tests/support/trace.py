"""Expected counts and durations of the demo's trace, computed only from its text."""

from __future__ import annotations

import gzip
import re
from collections import Counter, defaultdict
from pathlib import Path

from tests.recordings import from_ftrace

TRACE = from_ftrace.DEMO / "trace.txt.gz"
_LINE = re.compile(r" *(CPU ./KVM)-(\d+) .* (\d+)\.(\d{6}): (kvm_exit|kvm_entry|kvm_userspace_exit): (.*)")


def truth(path: Path) -> tuple[Counter[tuple[str, int, str]], dict[tuple[str, int, str], list[int]]]:
    """Return counts and durations, computed only from the text of the trace."""
    counts: Counter[tuple[str, int, str]] = Counter()
    times: dict[tuple[str, int, str], list[int]] = defaultdict(list)
    out: dict[int, list[tuple[str, int, str]]] = {}
    since: dict[int, int] = {}
    for line in gzip.decompress(path.read_bytes()).decode().splitlines():
        match = _LINE.match(line)
        if not match:
            continue
        tid, now = int(match[2]), int(match[3] + match[4]) * 1000
        if match[5] == "kvm_exit":
            printed = re.match(r"(\w+): HSR_EC: 0x\w+ \((\w+)\)", match[6])
            assert printed, line
            key = ("exit", tid, f"EC_{printed[2]}" if printed[1] == "TRAP" else printed[1])
            counts[key] += 1
            out[tid], since[tid] = [key], now
        elif match[5] == "kvm_userspace_exit":
            key = ("userspace", tid, match[6].split()[1])
            counts[key] += 1
            if len(out.get(tid, [])) == 1:
                out[tid].append(key)
        else:
            for key in out.pop(tid, []):
                times[key].append(now - since[tid])
    return counts, times
