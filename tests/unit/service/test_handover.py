"""After these changes, the next start counts from 0."""

from __future__ import annotations

from pathlib import Path

import pytest

from exporter.config.options import Config, Level, Limits
from exporter.kernel.program import DEFINES, MAPS, OFFSET_SOURCES, TRACEPOINTS, read_sources
from exporter.service import handover


def test_each_part_of_the_program_changes_the_version(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    before = handover.version(Config(), tmp_path)
    assert handover.version(Config(), tmp_path) == before
    for name, changed in (
        ("DEFINES", {**DEFINES, "NR_BUCKETS": "143"}),
        ("MAPS", {**MAPS, "counting": MAPS["counting"][1:]}),
        ("TRACEPOINTS", {name: each for name, each in TRACEPOINTS.items() if name != "kvm_entry"}),
        ("_VERSION", handover._VERSION + 1),
        ("OFFSET_SOURCES", OFFSET_SOURCES[:1]),
        ("read_sources", lambda kind: (*read_sources(kind), " ")),
    ):
        with monkeypatch.context() as patched:
            patched.setattr(handover, name, changed)
            after = handover.version(Config(), tmp_path)
        assert {key for key in before if before[key] != after[key]} == {"BPF program"}


def test_limits_and_bpf_stats_and_the_time_split_change_the_version(tmp_path: Path) -> None:
    before, after = (
        handover.version(Config(), tmp_path),
        handover.version(Config(limits=Limits(7, 9), bpf_stats=True, level=Level(time="off")), tmp_path),
    )
    assert {key for key in before if before[key] != after[key]} == {
        "limits.vcpus",
        "limits.cells",
        "bpf_stats",
        "level.time",
    }


@pytest.mark.parametrize("module", ["kvm", "kvm_intel", "kvm_amd"])
def test_another_build_of_a_module_counts_anew(tmp_path: Path, module: str) -> None:
    """Its structures may have other offsets, which are in the program."""
    path = tmp_path / "kernel/btf" / module
    path.parent.mkdir(parents=True)
    versions = [handover.version(Config(), tmp_path)]
    for content in (b"one", b"two"):
        path.write_bytes(content)
        versions.append(handover.version(Config(), tmp_path))
    assert len({version["KVM module"] for version in versions}) == 3
    assert all({**version, "KVM module": ""} == {**versions[0], "KVM module": ""} for version in versions)
