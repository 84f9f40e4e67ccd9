"""The maps are read while the program writes to them. The maps have the expected layout."""

from __future__ import annotations

import struct
import subprocess
import sys
from collections.abc import Callable

from exporter.collect.collector import Collector
from exporter.kernel import program

_HAMMER = """
import struct, sys
from exporter.kernel.syscall import TestRun
leave, enter = TestRun(int(sys.argv[1])), TestRun(int(sys.argv[2]))
context = struct.pack("=QQ", 2, 0x16)
for _ in range(300007):
    leave(context)
    enter(context)
"""


def test_readings_during_exits_are_consistent(loaded_now: Callable[..., program.Loaded]) -> None:
    """Each interval has its exit. At most one exit has no interval yet. No number falls."""
    loaded = loaded_now(program.LoadRequest(front="arm64", defines={}, slots=2, cells=4, attach=False))
    collector = Collector(loaded, lambda: 0, 10**18)
    programs = [loaded.programs["kvm_exit"], loaded.programs["kvm_entry"]]
    hammer = subprocess.Popen([sys.executable, "-c", _HAMMER, *map(str, programs)], pass_fds=programs)
    readings = []
    while hammer.poll() is None:
        for record in collector.collect().vcpus:
            for cell in record.cells:  # the record has no cells if the first exit came after the cells were read
                readings.append((cell.exits, sum(cell.counts()), cell.sum_ns))
    assert hammer.returncode == 0
    assert len(readings) > 1000, "too few readings while the program ran"
    assert {seen - completed for seen, completed, _ in readings} <= {0, 1}
    assert all(earlier <= later for a, b in zip(readings, readings[1:]) for earlier, later in zip(a, b))
    (record,) = collector.collect().vcpus
    assert (record.cells[0].exits, sum(record.cells[0].counts())) == (300007, 300007)
    collector.close()


def test_slots_and_cells_fill_whole_cache_lines(loaded_now: Callable[..., program.Loaded]) -> None:
    """No two vCPUs share a cache line. The code also relies on the other numbers."""
    layouts = loaded_now(program.LoadRequest(front="arm64", defines={}, slots=3, cells=5, attach=False)).layouts
    assert layouts["slots"].size % 64 == 0
    assert layouts["cells"].size % 64 == 0
    assert (layouts["slots"].entries, layouts["cells"].entries) == (4, 6)
    assert layouts["cells"].fields["buckets"].items == 142
    assert struct.calcsize("=Q") == layouts["cells"].fields["buckets"].size
    assert layouts["slots"].fields["exit"].offset < 64
    assert layouts["slots"].fields["user_cell"].offset < 64
