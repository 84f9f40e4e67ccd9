"""Thousands of vCPU threads and VMs start and end: every exit is counted once, or counted as dropped."""

from __future__ import annotations

import os
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from exporter.collect.collector import Collector
from exporter.kernel import launcher, program
from exporter.model.reason import Space
from exporter.model.records import Snapshot, ThreadKey
from tests.faults import driver
from tests.faults.driver import Sent
from tests.faults.figures import often, say
from tests.support.raw_tracepoint import attach_raw

LINGER_NS = 10**8
"""The time is short, so the number of lingering vCPUs stays below the collector's limit.

Each record is in at least one snapshot.
"""


class Counted:
    """Sums over all threads in the collector's snapshots. Each thread adds its last values."""

    def __init__(self, loaded: program.Loaded) -> None:
        self.collector = Collector(loaded, time.monotonic_ns, LINGER_NS)
        self._ended: set[ThreadKey] = set()
        self.last: dict[ThreadKey, tuple[int, int, int]] = {}
        self.collections = 0
        self.backwards = 0

    def collect(self) -> Snapshot:
        snapshot = self.collector.collect()
        self.collections += 1
        for record in snapshot.vcpus:
            if record.key in self._ended:
                continue
            if not record.alive:
                self._ended.add(record.key)
            exits = completed = userspace = 0
            for cell in record.cells:
                if cell.space == Space.USERSPACE:
                    userspace += cell.exits
                else:
                    exits += cell.exits
                    completed += sum(cell.counts())
            before = self.last.get(record.key, (0, 0, 0))
            self.last[record.key] = (exits, completed, userspace)
            self.backwards += any(new < old for new, old in zip(self.last[record.key], before))
        return snapshot

    def until(self, driven: subprocess.Popen[str]) -> Sent:
        while driven.poll() is None:
            self.collect()
        return driver.finish(driven)

    def totals(self) -> tuple[int, int, int]:
        exits, completed, userspace = (sum(column) for column in zip(*self.last.values()))
        return exits, completed, userspace


@pytest.fixture
def load() -> Iterator[Callable[..., tuple[program.Loaded, Counted]]]:
    """Load the programs, attach the two scheduler programs, and return them with a collector."""
    with ExitStack() as stack:

        def begin(slots: int, cells: int) -> tuple[program.Loaded, Counted]:
            request = program.LoadRequest(front="arm64", defines={}, slots=slots, cells=cells, attach=False)
            loaded = launcher.load(request)
            stack.callback(loaded.close)
            for name in ("sched_process_exit", "sched_process_exec"):
                stack.callback(os.close, attach_raw(loaded.programs[name], name))
            counted = Counted(loaded)
            stack.callback(counted.collector.close)
            return loaded, counted

        yield begin


def check(counted: Counted, sent: Sent, slots: int) -> Counter[str]:
    """Assert that each exit is counted once or dropped, and that all slots and cells are free. Return the drops."""
    last = counted.collect()
    exits, completed, userspace = counted.totals()
    dropped = Counter({name: value for name, value in last.counters.items() if name.startswith("dropped_")})
    lost = sum(value for name, value in dropped.items() if "userspace" not in name)
    assert exits + lost == sent.exits
    assert userspace + sum(dropped.values()) - lost == sent.userspace
    assert completed == exits
    assert counted.backwards == 0
    assert sum(stats.misses for stats in last.runs.values()) == 0
    assert (last.slots_in_use, last.cells_in_use, last.recycling_pending) == (0, 0, 0)
    assert last.slots == slots
    return +dropped


def test_every_exit_of_short_lived_threads_is_counted_or_dropped(
    load: Callable[..., tuple[program.Loaded, Counted]],
) -> None:
    """One process has 50,021 threads. A small machine has 32,768 thread IDs, so many IDs are reused."""
    loaded, counted = load(slots=16381, cells=65537)
    threads = often(50_021, 5_003)
    sent = counted.until(driver.begin(loaded.programs, threads=threads, parallel=17, rounds=101, reasons=2))
    assert (sent.threads, sent.exits, sent.entries, sent.userspace) == (
        threads,
        101 * threads,
        101 * threads,
        14 * threads,
    )
    dropped = check(counted, sent, slots=16381)
    say(
        "threads of one process",
        threads=sent.threads,
        thread_ids_reused=sent.reused,
        exits_sent=sent.exits,
        counted=counted.totals()[0],
        dropped=dict(dropped),
        collections=counted.collections,
        seconds=sent.seconds,
    )


def test_every_exit_of_short_lived_vms_is_counted_or_dropped(
    load: Callable[..., tuple[program.Loaded, Counted]],
) -> None:
    """Processes of four threads. SIGKILL ends every second process."""
    loaded, counted = load(slots=8191, cells=32749)
    threads = often(20_012, 2_012)
    sent = counted.until(driver.begin(loaded.programs, threads=threads, parallel=7, rounds=29, reasons=3, vcpus=4))
    assert (sent.threads, sent.exits, sent.entries, sent.userspace) == (
        threads,
        29 * threads,
        29 * threads,
        4 * threads,
    )
    assert sent.killed == threads // 8
    dropped = check(counted, sent, 8191)
    say(
        "VM processes",
        VMs=threads // 4,
        ended_by_SIGKILL=sent.killed,
        exits_sent=sent.exits,
        counted=counted.totals()[0],
        dropped=dict(dropped),
        seconds=sent.seconds,
    )


def test_pools_run_out_and_recover(load: Callable[..., tuple[program.Loaded, Counted]]) -> None:
    """The first load has more threads than slots, more reasons than cells, and few collections.

    The second load fits into the pools.
    """
    loaded, counted = load(slots=31, cells=103)
    threads = often(10_007, 1_009)
    driven = driver.begin(loaded.programs, threads=threads, parallel=61, rounds=37, reasons=5)
    while driven.poll() is None:
        counted.collect()
        try:
            driven.wait(0.05)
        except subprocess.TimeoutExpired:
            continue
    sent = driver.finish(driven)
    dropped = check(counted, sent, 31)
    assert dropped.keys() >= {"dropped_no_slot", "dropped_no_cell"}
    first = counted.totals()[0]

    again = Counter({"exits": 0})
    for _ in range(101):  # each round uses 60 of the 62 cells that one process may have (share.bpf.h)
        again["exits"] += driver.drive(loaded.programs, threads=10, parallel=10, rounds=5, reasons=6).exits
        counted.collect()
    assert counted.totals()[0] - first == again["exits"] == 101 * 10 * 5
    assert check(counted, sent._replace(exits=sent.exits + again["exits"]), 31) == dropped
    say(
        "pools exhausted",
        threads=sent.threads,
        exits_sent=sent.exits,
        counted=first,
        dropped=dict(dropped),
        sent_after_recovery=again["exits"],
        counted_then=counted.totals()[0] - first,
    )
