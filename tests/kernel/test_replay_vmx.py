"""The recordings of Intel's VMX are replayed through the real program: counts and durations are exact."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from exporter.kernel import program
from exporter.model.reason import USERSPACE_SPACES
from exporter.naming.reasons import ReasonNames
from exporter.recording import recording
from exporter.recording.rerun import rerun
from tests.support import vmx
from tests.support.machine import histogram

# Both vCPUs of the exact guest were interrupted by a signal before their first entry.
UNMATCHED = {vmx.EXACT: {"unmatched_userspace_exit": 2}, vmx.LINUX: {}}


@pytest.mark.parametrize("path", vmx.COUNTS, ids=lambda path: path.stem)
def test_a_rerun_counts_exactly_the_recorded_events(loaded_now: Callable[..., program.Loaded], path: Path) -> None:
    recorded = recording.read(path)
    snapshot, _ = rerun(recorded, loaded_now(program.replay_request(recorded.kvm_exit, slots=4096, cells=16384)))
    names = ReasonNames(recorded.kvm_exit, recorded.kvm_userspace_exit)
    seen = {
        (
            "userspace" if cell.space in USERSPACE_SPACES else "exit",
            record.key.tid,
            names.lookup(cell.space, cell.code).name,
        ): cell
        for record in snapshot.vcpus
        for cell in record.cells
    }
    _, times = vmx.truth(recorded)
    assert {key: cell.exits for key, cell in seen.items()} == vmx.COUNTS[path]
    assert {key: (cell.counts(), cell.sum_ns) for key, cell in seen.items()} == {
        key: (histogram(times[key]), sum(times[key])) for key in seen
    }
    assert {name: count for name, count in snapshot.counters.items() if count} == UNMATCHED[path]
