"""The exporters that Prometheus scrapes.

One replays the recording once and then stops counting. The other is a demo that can be paused.
"""

from __future__ import annotations

import functools
import os
import re
import signal
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple
from unittest import mock

from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from exporter.config.options import Config
from exporter.recording import recording
from exporter.recording.plan import ReplayPlan
from exporter.recording.player import Player
from exporter.service import daemon, replay
from tests.recordings import from_ftrace
from tests.support.machine import histogram
from tests.support.services import Service
from tests.support.trace import TRACE, truth

ADDRESSES = ("127.0.0.1:0",)


class Key(NamedTuple):
    """An exit reason of a vCPU, from the labels of a series."""

    pid: str
    vcpu: str
    reason: str


def key(labels: Mapping[str, str]) -> Key:
    return Key(labels["pid"], labels["vcpu"], labels["reason"])


class Truth(NamedTuple):
    """Expected values of one kind of exit, computed only from the trace's text. Only ended exits have a duration."""

    counts: dict[Key, int]
    durations: dict[Key, tuple[int, ...]]
    """Sorted, in ns."""
    buckets: dict[Key, tuple[int, ...]]
    """The counts of the kernel's buckets, computed from these durations."""


@functools.cache
def recorded() -> dict[str, dict[tuple[int, str], tuple[int, tuple[int, ...], tuple[int, ...]]]]:
    """Return count, durations and buckets by kind, recorded tid and reason."""
    counts, durations = truth(TRACE)
    found: dict[str, dict[tuple[int, str], tuple[int, tuple[int, ...], tuple[int, ...]]]] = {
        "exit": {},
        "userspace": {},
    }
    for (kind, tid, reason), count in counts.items():
        ended = tuple(sorted(durations.get((kind, tid, reason), ())))
        found[kind][tid, reason] = (count, ended, histogram(ended))
    return found


class Standstill:
    """An exporter that has replayed the recording once. Its counters no longer change."""

    def __init__(self, address: str, pids: list[int], page: list[Sample]) -> None:
        self.address = address
        self.page = page
        self._vcpus = {
            tid: (str(pid), comm[len("CPU ") : -len("/KVM")])
            for vm, pid in zip(from_ftrace.vms(from_ftrace.DEMO), pids)  # in the order of the recording
            for tid, comm in vm.comms.items()
            if comm.startswith("CPU ")
        }
        self.exits, self.userspace_exits = self._labelled("exit"), self._labelled("userspace")

    def _labelled(self, kind: str) -> Truth:
        truth = {Key(*self._vcpus[tid], reason): each for (tid, reason), each in recorded()[kind].items()}
        return Truth(
            {key: count for key, (count, _, _) in truth.items()},
            {key: durations for key, (_, durations, _) in truth.items()},
            {key: buckets for key, (_, _, buckets) in truth.items()},
        )


def samples(text: str) -> list[Sample]:
    """Return all samples of a page in the text format."""
    return [sample for family in text_string_to_metric_families(text) for sample in family.samples]


@contextmanager
def standstill(config: Config) -> Iterator[Standstill]:
    """Run the daemon in this process with one pass of the recording. Yield it when all counts are on its page."""
    players: list[Player] = []

    def once(plan: ReplayPlan, programs: Mapping[str, int], *, speed: float, account: None) -> Player:
        players.append(Player(plan, programs, speed=speed, endless=False, account=account))
        return players[-1]

    service = daemon.Daemon(config)
    try:
        with mock.patch.object(replay, "Player", once):
            service.prepare(replay.ReplaySource(config, recording.DEFAULT, 1000.0, None))
        service.start()
        service.attach()
        (player,) = players
        player.join()
        deadline = time.monotonic() + 30
        page: list[Sample] = []
        while len({sample.labels["tid"] for sample in page if sample.name == "kvm_exits_total"}) < 5:
            assert time.monotonic() < deadline
            with urllib.request.urlopen(f"http://{service.addresses[0]}/metrics", timeout=30) as answer:
                page = samples(answer.read().decode())
        yield Standstill(service.addresses[0], player.pids(), page)
    finally:
        service.close()


class Demo:
    """The demo as a process. pause() stops its stand-ins. Then no counter changes, but pages are still served."""

    def __init__(self, folder: Path, speed: int, options: str = "") -> None:
        config = folder / "demo.yaml"
        config.write_text(f"lock_file: ''\nweb: {{listen_address: ['127.0.0.1:0']}}\n{options}")
        self._service = Service("demo", f"--config.file={config}", "--speed", str(speed))
        self.address = self._service.logged(r"msg=listening address=(\S+)")[1]
        self._service.logged("msg=.replaying")
        pid = self._service.process.pid
        self._vms = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
        assert len(self._vms) == 3

    def pause(self) -> None:
        for pid in self._vms:
            os.kill(pid, signal.SIGSTOP)
        deadline = time.monotonic() + 10
        while any(re.search(r"^State:\s+[^T]", status.read_text(), re.MULTILINE) for status in self._threads()):
            assert time.monotonic() < deadline
            time.sleep(0.01)

    def _threads(self) -> Iterator[Path]:
        for pid in self._vms:
            for task in Path(f"/proc/{pid}/task").iterdir():
                yield task / "status"

    def resume(self) -> None:
        for pid in self._vms:
            os.kill(pid, signal.SIGCONT)

    def page(self) -> list[Sample]:
        return samples(self._service.get("/metrics"))

    def end(self) -> None:
        self.resume()
        assert self._service.end() == 0
        assert not [line for line in self._service.log if "level=error" in line]


def counted(page: list[Sample], name: str) -> dict[Key, float]:
    """Return the values of a metric on a page, by vCPU and reason."""
    return {key(sample.labels): sample.value for sample in page if sample.name == name}
