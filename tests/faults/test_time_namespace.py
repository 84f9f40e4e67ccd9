"""The exporter runs in a time namespace: its CLOCK_MONOTONIC has an offset, and the clock of BPF programs has none."""

from __future__ import annotations

import json
import os
import signal
import struct
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from exporter.kernel.syscall import TestRun
from exporter.recording import blocks
from exporter.recording.blocks import Type
from tests.faults import driver
from tests.faults.service import AS_ARM64, Service
from tests.support.machine import TRAP

Start = Callable[..., Service]

WFX = 1
OFFSETS = [86_400, -300]
"""Offsets of CLOCK_MONOTONIC in seconds. The host must run for more than five minutes."""


def _in_time_namespace(offset: int) -> str:
    """Return shell commands: the service then starts in a time namespace, as a child of unshare."""
    return f'{AS_ARM64}\nset -- unshare -T --monotonic {offset} --fork --kill-child "$@"'


@contextmanager
def _exporter(service: Service) -> Iterator[int]:
    """Give the pid of the exporter, the only child of unshare. At the end, stop it: unshare ignores SIGTERM."""
    (pid,) = map(int, Path(f"/proc/{service.pid}/task/{service.pid}/children").read_text().split())
    try:
        yield pid
    finally:
        os.kill(pid, signal.SIGTERM)
        status = service.process.wait(60)
    assert status == 0


def _ours(document: Mapping[str, Any]) -> dict[str, Any]:
    tid = Path("/proc/thread-self").readlink().name
    (found,) = (vcpu for vcpu in document["vcpus"] if vcpu["tid"] == int(tid))
    return dict(found)


@pytest.mark.kvm
@pytest.mark.parametrize("offset", OFFSETS)
def test_ages_and_guest_time_do_not_hold_the_offset(start: Start, offset: int) -> None:
    started = time.monotonic_ns()
    service = start(before=_in_time_namespace(offset))
    service.up()
    with _exporter(service) as pid:
        programs = driver.programs_of(pid)
        enter, leave = TestRun(programs["kvm_entry"]), TestRun(programs["kvm_exit"])

        entering = time.monotonic_ns()
        enter(bytes(96))
        entered = time.monotonic_ns()
        first = json.loads(service.get(path="/-/vcpus"))
        leaving = time.monotonic_ns()
        leave(struct.pack("=12Q", TRAP, WFX, *[0] * 10))
        left = time.monotonic_ns()
        second = json.loads(service.get(path="/-/vcpus"))
        driver.close(list(programs.values()))

    assert started <= first["since_ns"] <= entering
    assert entered <= first["taken_ns"] <= leaving <= left <= second["taken_ns"] <= time.monotonic_ns()
    assert first["taken_ns"] - entered <= _ours(first)["guest_ns"] <= first["taken_ns"] - entering
    assert leaving - entered <= _ours(second)["guest_ns"] <= left - entering
    in_progress = _ours(second)["in_progress"]
    assert in_progress["reason"] == "EC_WFx"
    assert second["taken_ns"] - left <= in_progress["age_ns"] <= second["taken_ns"] - leaving


@pytest.mark.kvm
@pytest.mark.parametrize("offset", OFFSETS)
def test_a_recording_begins_on_the_clock_of_its_events(start: Start, tmp_path: Path, offset: int) -> None:
    started = time.monotonic_ns()
    file = tmp_path / "empty.kvmrec"
    service = start(before=_in_time_namespace(offset), command="record", arguments=[str(file), "0.3"])
    assert service.process.wait(60) == 0
    (header,) = (json.loads(block.content) for block in blocks.read(file) if block.type is Type.HEADER)
    assert started <= header["clock_ns"] <= time.monotonic_ns()
