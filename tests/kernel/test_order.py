"""A reader sees the stores of a handler in any order, and still gets no wrong number.

Each scenario runs handlers of the real program. The test compares the maps before and after each handler. So it knows
each 64-bit word that the handler stored to, and the values of the word. A weakly ordered CPU can show a reader any
mixture of these values. The test builds every mixture and collects from it. It knows the true values at each step.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pytest

from exporter.kernel import syscall, time_split
from exporter.kernel.btf import KernelBtf
from exporter.kernel.isa import registry
from exporter.kernel.program import LeafLayout
from exporter.model.records import Snapshot, ThreadKey, VcpuRecord
from tests.support.machine import TRAP, Machine, Vcpu
from tests.support.memory import FrozenReader, Image, Word, take_image, words

Load = Callable[..., Machine]
Event = Callable[[Vcpu], None]

WFX, HVC64, DABT = 0x01, 0x16, 0x24
SAME_HASH_AS_WFX = WFX + 0x10000
MMIO = 6
NOW = 10**12
"""The time of each collection, later than any event."""


def _exit(now: int, esr_ec: int) -> Event:
    return lambda vcpu: vcpu.arm_exit(now, TRAP, esr_ec)


def _entry(now: int) -> Event:
    return lambda vcpu: vcpu.entry(now)


def _userspace_exit(now: int) -> Event:
    return lambda vcpu: vcpu.userspace_exit(now, MMIO)


def _euler_exit(now: int) -> Event:
    return lambda vcpu: vcpu.euler_exit(now, TRAP)


def _trap_enter(now: int, esr_ec: int) -> Event:
    return lambda vcpu: vcpu.trap_enter(now, esr_ec)


def _x86_exit(now: int) -> Event:
    return lambda vcpu: vcpu.x86_exit(now, 1, 48, vcpu_id=0)


def _nap(_: Vcpu) -> None:
    time.sleep(0.003)


def _slept(*events: Event) -> Event:
    """Sleep, and then run the events, as one step."""

    def run(vcpu: Vcpu) -> None:
        _nap(vcpu)
        for event in events:
            event(vcpu)

    return run


class Scenario(NamedTuple):
    """Events of one vCPU. The stores of `mixed` are shown in every order."""

    before: Sequence[Event]
    mixed: Sequence[Event]
    front: str = "arm64"
    comm: str = "CPU 0/KVM"
    split: bool = False


_ROUND = (_entry(1_009), _exit(2_003, WFX), _userspace_exit(3_001), _entry(4_001))
_EULER = (_entry(1_009), _euler_exit(2_003), _trap_enter(2_503, WFX), _entry(4_001))
_LONG = (_entry(1_009), _exit(2_003, WFX), _slept(_entry(10**7 + 4_001)))
_OUT = (*_ROUND, _exit(8_009, WFX))

SCENARIOS = {
    "the first event of a thread is an entry": Scenario((), (_entry(1_009),)),
    "the first event of a thread is an exit": Scenario((), (_exit(1_009, WFX),), comm="vcpu"),
    "an exit and an entry": Scenario(_ROUND, (_exit(8_009, WFX), _entry(16_001))),
    "an entry and an exit": Scenario(_OUT, (_entry(16_001), _exit(32_003, WFX))),
    "a round and an exit": Scenario(_ROUND, (_exit(8_009, WFX), _entry(16_001), _exit(32_003, WFX))),
    "an exit with a vcpu_id": Scenario((_entry(1_009),), (_x86_exit(8_009),), front="x86"),
    "an exit while an exit is in progress": Scenario(_OUT, (_exit(9_001, WFX), _entry(16_001))),
    "the first exit of a reason": Scenario(_ROUND, (_exit(8_009, HVC64),)),
    "the first exit of a reason with the hash of another": Scenario(_ROUND, (_exit(8_009, SAME_HASH_AS_WFX),)),
    "the first entry after a reason": Scenario((*_ROUND, _exit(8_009, HVC64)), (_entry(16_001),)),
    "a return to the VMM": Scenario(_OUT, (_userspace_exit(9_001),)),
    "an entry after a return to the VMM": Scenario((*_OUT, _userspace_exit(9_001)), (_entry(16_001),)),
    "an entry that fails": Scenario(_OUT, (_entry(16_001), _userspace_exit(17_011))),
    "an exit that was missed": Scenario(_ROUND, (_entry(16_001), _exit(32_003, WFX))),
    "the end of a thread": Scenario(_OUT, (lambda vcpu: vcpu.dies(16_001),)),
    "a reason that follows": Scenario(_EULER, (_euler_exit(8_009), _trap_enter(8_111, WFX)), front="arm64_openeuler"),
    "an entry after a sleep": Scenario(
        (*_LONG, _exit(10**8 + 8_009, WFX)), (_slept(_entry(2 * 10**8 + 16_001)),), split=True
    ),
    "a return to the VMM that is split": Scenario(_OUT, (_userspace_exit(9_001),), split=True),
    "an entry after a return to the VMM that is split": Scenario(
        (*_OUT, _userspace_exit(9_001)), (_entry(16_001),), split=True
    ),
    "a reason that does not follow": Scenario(_EULER, (_euler_exit(8_009), _entry(16_001)), front="arm64_openeuler"),
}


@pytest.fixture(autouse=True)
def _no_stack(monkeypatch: pytest.MonkeyPatch) -> None:
    """A frozen reader has no stacks: slots and cells of ended threads are returned to nobody."""
    monkeypatch.setattr(syscall, "stack_push", lambda *_: None)


@pytest.mark.parametrize("name", SCENARIOS)
def test_no_order_of_stores_shows_a_wrong_number(machine: Load, name: str) -> None:
    scenario = SCENARIOS[name]
    split = {**registry.BY_NAME["arm64"].replay_defines, **time_split.offsets(KernelBtf(Path("/sys")))}
    options = {"time_split": True, "defines": split} if scenario.split else {}
    under_test = machine(scenario.front, slots=2, cells=4, **options)
    assert bool(under_test.loaded.unsplit_reason) != scenario.split
    unread = _unread(under_test.loaded.layouts["slots"])
    vcpu = under_test.vcpu(scenario.comm)
    for event in scenario.before:
        vcpu.call(lambda: event(vcpu))
    images = [take_image(under_test.loaded)]
    for event in scenario.mixed:
        vcpu.call(lambda: event(vcpu))
        images.append(take_image(under_test.loaded))

    def fresh(image: Image) -> Snapshot:
        reader = FrozenReader(under_test.loaded.layouts, NOW)
        try:
            return reader.collect(image)
        finally:
            reader.close()

    true = [_by_key(fresh(image)) for image in images]
    for mixture in _mixtures(images, unread, under_test.loaded.layouts["slots"].size // 8):
        for earlier in ([images[0]], []):  # a process that has read the maps before, and one that takes over
            reader = FrozenReader(under_test.loaded.layouts, NOW)
            seen = [_by_key(reader.collect(image)) for image in (*earlier, mixture)]
            _assert_true(seen[-1], true)
            if earlier:
                _assert_no_part_falls(true[0], seen[-1], true[-1])
            assert _by_key(reader.collect(images[-1])) == _with_highest_guest_time(true[-1], seen)
            reader.close()


def _unread(slots: LeafLayout) -> set[int]:
    """Return the words of a slot that only the program itself reads."""
    names = ("pcount", "run_delay", "exec_base", "arrival_base", "nvcsw", "out_ns", "out_wait_ns", "out_sleep_ns")
    assert slots.size % 8 == 0
    return {slots.fields[name].offset // 8 for name in names}


def _mixtures(images: Sequence[Image], unread: set[int], slot_words: int) -> Iterator[Image]:
    """Yield each mixture of the images. Each word that a reader reads has its value in one of them."""
    contents = [words(image) for image in images]
    changed: dict[Word, list[bytes]] = {}
    for word in contents[0]:
        values = list(dict.fromkeys(content[word] for content in contents))
        if len(values) > 1 and not (word.array == "slots" and word.number % slot_words in unread):
            changed[word] = values
    for mixed in itertools.product(*changed.values()):
        made = {name: bytearray(content) for name, content in images[-1].items()}
        for word, value in zip(changed, mixed):
            made[word.array][8 * word.number : 8 * word.number + 8] = value
        yield {name: bytes(content) for name, content in made.items()}


def _by_key(snapshot: Snapshot) -> dict[ThreadKey, VcpuRecord]:
    return {record.key: record for record in snapshot.vcpus}


def _with_highest_guest_time(
    true: Mapping[ThreadKey, VcpuRecord], seen: Sequence[Mapping[ThreadKey, VcpuRecord]]
) -> dict[ThreadKey, VcpuRecord]:
    """Return the true records. A guest time that was on a page does not fall, until the true one has caught up."""
    made = {}
    for key, record in true.items():
        guest_ns = max(each[key].totals.guest_ns for each in (true, *seen) if key in each)
        made[key] = replace(record, totals=record.totals._replace(guest_ns=guest_ns))
    return made


def _assert_true(seen: Mapping[ThreadKey, VcpuRecord], true: Sequence[Mapping[ThreadKey, VcpuRecord]]) -> None:
    """Assert that each number of a mixture is its number at one of the steps."""
    for key, record in seen.items():
        steps = [step[key] for step in true if key in step]
        assert steps, f"no thread was ever {key}"
        assert record.comm == steps[0].comm
        assert record.vcpu_id in {None, *(step.vcpu_id for step in steps)}
        assert record.totals.guest_ns in {step[key].totals.guest_ns if key in step else 0 for step in true}
        assert record.in_progress in {None, *(step.in_progress for step in steps)}
        for cell in record.cells:
            reason = (cell.space, cell.code)
            assert reason in {(one.space, one.code) for step in steps for one in step.cells}, "a wrong reason"
            counted = [one for step in steps for one in step.cells if (one.space, one.code) == reason]
            assert cell.exits in {0, *(one.exits for one in counted)}
            assert cell.sum_ns in {0, *(one.sum_ns for one in counted)}
            assert 0 <= cell.parts.wait <= cell.parts.off <= cell.sum_ns
            assert 0 <= cell.parts.vmm <= cell.sum_ns
            for bucket, count in enumerate(cell.counts()):
                assert count in {0, *(one.counts()[bucket] for one in counted)}


def _assert_no_part_falls(
    before: Mapping[ThreadKey, VcpuRecord],
    seen: Mapping[ThreadKey, VcpuRecord],
    after: Mapping[ThreadKey, VcpuRecord],
) -> None:
    for key in before:
        cells = [{(cell.space, cell.code): cell for cell in each[key].cells} for each in (before, seen, after)]
        for reason in cells[0]:
            least, shown, most = (each[reason].parts for each in cells)
            assert least.wait <= shown.wait <= most.wait
            assert least.sleep <= shown.sleep <= most.sleep
            assert least.vmm <= shown.vmm <= most.vmm
