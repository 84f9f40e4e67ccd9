"""After these changes, the next start counts from 0."""

from __future__ import annotations

import pytest

from exporter.config.options import Config, Limits
from exporter.kernel.program import DEFINES, MAPS, read_sources
from exporter.service import handover


def test_each_part_of_the_program_changes_the_version(monkeypatch: pytest.MonkeyPatch) -> None:
    before = handover.version(Config())
    assert handover.version(Config()) == before
    for name, changed in (
        ("DEFINES", {**DEFINES, "NR_BUCKETS": "143"}),
        ("MAPS", {**MAPS, "counting": MAPS["counting"][1:]}),
        ("read_sources", lambda kind: (*read_sources(kind), " ")),
    ):
        with monkeypatch.context() as patched:
            patched.setattr(handover, name, changed)
            after = handover.version(Config())
        assert {key for key in before if before[key] != after[key]} == {"BPF program"}


def test_limits_and_bpf_stats_change_the_version() -> None:
    before, after = handover.version(Config()), handover.version(Config(limits=Limits(7, 9), bpf_stats=True))
    assert {key for key in before if before[key] != after[key]} == {"limits.vcpus", "limits.cells", "bpf_stats"}
