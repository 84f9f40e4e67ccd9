"""Changes after which the next start counts from 0, and stores that are not taken over."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from exporter.config.options import Config, Limits
from exporter.kernel.program import DEFINES, MAPS, OFFSET_SOURCES, TRACEPOINTS, read_sources
from exporter.model.records import CountingSince
from exporter.service import handover
from exporter.service.handover import HandoverError, StoredDescriptors
from exporter.service.systemd import Systemd
from tests.support.paths import FORMATS


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


def test_limits_and_bpf_stats_change_the_version(tmp_path: Path) -> None:
    before, after = (
        handover.version(Config(), tmp_path),
        handover.version(Config(limits=Limits(7, 9), bpf_stats=True), tmp_path),
    )
    assert {key for key in before if before[key] != after[key]} == {"limits.vcpus", "limits.cells", "bpf_stats"}


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


class _Stored:
    """Stored descriptors of a program without a BPF map: ends of pipes, whose other ends show whether they are open."""

    def __init__(self, *more: str, **changed: object) -> None:
        self.readers: list[int] = []
        memory = os.memfd_create("state")
        os.write(memory, json.dumps({**STATE, **changed}).encode())
        self.passed = [("state", memory), *((name, self._pipe()) for name in (*NAMES, *more))]

    def _pipe(self) -> int:
        reader, writer = os.pipe()
        os.set_blocking(reader, False)
        self.readers.append(reader)
        return writer

    def open_ends(self) -> int:
        """Return how many descriptors are open, without the state's."""
        found = 0
        for reader in self.readers:
            try:
                os.read(reader, 1)
            except BlockingIOError:
                found += 1
        return found

    def refusal(self) -> str:
        """Return why the program is not taken over. Everything is then closed here."""
        stored = StoredDescriptors.of(self.passed)
        with pytest.raises(HandoverError) as caught:
            stored.take_over({"limits": 3})
        assert self.open_ends() == len(self.readers)
        stored.discard(Systemd({}, os.getpid()))
        assert self.open_ends() == 0
        return str(caught.value)


STATE = {
    "version": {"limits": 3},
    "since": [1.5, 7],
    "maps": ["slots"],
    "programs": ["kvm_exit"],
    "attachments": ["kvm_exit"],
    "layouts": {"slots": [8, 3, {"owner": [0, 8, 1]}]},
    "formats": {
        name: (FORMATS / f"aarch64-6.12/{name}.format").read_text() for name in ("kvm_exit", "kvm_userspace_exit")
    },
    "vcpu_ids": True,
    "classic_reason": "",
}
NAMES = ("map.slots", "program.kvm_exit", "attachment.kvm_exit", "ledger.0", "ledger.1")


def test_a_complete_store_is_taken_over() -> None:
    made = _Stored()
    stored = StoredDescriptors.of(made.passed)
    earlier = stored.take_over({"limits": 3})
    assert (earlier.since, earlier.formats.kvm_exit.name) == (CountingSince(1.5, 7), "kvm_exit")
    stored.close()
    assert made.open_ends() == 5
    earlier.loaded.close()
    earlier.ledger.close()
    assert made.open_ends() == 0


@pytest.mark.parametrize(
    "changed",
    [
        {"version": [1]},
        {"since": ["now", 7]},
        {"since": [1, 7.5]},
        {"maps": ["slots", "gone"]},
        {"maps": 3},
        {"layouts": {"slots": [8]}},
        {"formats": {"kvm_exit": "", "kvm_userspace_exit": ""}},
        {"formats": {}},
        {"formats": [[]] * 70000},
    ],
)
def test_a_forged_state_is_discarded(changed: dict[str, object]) -> None:
    assert _Stored(**changed).refusal().startswith("the descriptor store cannot be read (")


def test_a_forged_state_of_a_terabyte_is_discarded_unread() -> None:
    made = _Stored()
    os.ftruncate(made.passed[0][1], 1 << 40)
    assert made.refusal() == ("the descriptor store cannot be read (ValueError('a state of more than 1048576 bytes'))")


def test_a_name_that_is_stored_twice_leaks_no_descriptor() -> None:
    assert _Stored("map.slots", "map.slots").refusal() == "the descriptor store has a name twice"


def test_the_rest_of_a_removed_check_is_not_taken_over() -> None:
    """A process was killed after it had removed the first of the three descriptors."""
    made = _Stored("check.kvm_exit_check", "check.kvm_exit_record")
    stored = StoredDescriptors.of(made.passed)
    earlier = stored.take_over({"limits": 3})
    assert not earlier.loaded.check
    assert stored.has_rest_of_check
    stored.close()
    assert made.open_ends() == 5
    earlier.loaded.close()
    earlier.ledger.close()


def test_a_check_that_cannot_be_read_is_discarded() -> None:
    made = _Stored("check.exit_check", "check.kvm_exit_check", "check.kvm_exit_record")
    assert made.refusal().startswith("the descriptor store cannot be read (")
