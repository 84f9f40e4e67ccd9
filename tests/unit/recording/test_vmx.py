"""The recordings of Intel's VMX are read with all their events, and each exit has the kernel's own name."""

from __future__ import annotations

from pathlib import Path

import pytest

from exporter.model.vm import Vcpu, Vm
from exporter.recording import recording
from exporter.recording.events import COUNTED
from tests.support import vmx

EXACT_VM = Vm(513, "513", "", "kvmguest")
LINUX_VM = Vm(561, "web-2", "6f1c2a70-8d55-4a3a-9a33-0b1f6b0c0052", "qemu")


@pytest.mark.parametrize("path", vmx.COUNTS, ids=lambda path: path.stem)
def test_each_reason_has_its_count(path: Path) -> None:
    counts, _ = vmx.truth(recording.read(path))
    assert counts == vmx.COUNTS[path]


@pytest.mark.parametrize(
    ("path", "events", "vcpus", "duration_ns"),
    [
        (vmx.EXACT, (15368, 15368, 9221, 0), (Vcpu(EXACT_VM, "0"), Vcpu(EXACT_VM, "1")), 3_075_374_995),
        (vmx.LINUX, (13836, 13836, 3394, 1), (Vcpu(LINUX_VM, "0"),), 8_479_284_647),
    ],
    ids=["exact", "linux"],
)
def test_nothing_is_lost(path: Path, events: tuple[int, ...], vcpus: tuple[Vcpu, ...], duration_ns: int) -> None:
    read = recording.read(path)
    assert (read.kernel, read.machine) == ("6.12.118+deb13-amd64", "x86_64")
    assert {kind: read.events[kind] for kind in COUNTED} == dict(zip(COUNTED, events))
    assert (read.vcpus, read.last_ns - read.first_ns, not read.lost) == (vcpus, duration_ns, True)
