"""A process takes over after a kill. Counters continue, and exits that were never scraped are counted as unserved."""

from __future__ import annotations

import errno
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from exporter.config.options import Config, Level
from exporter.kernel import syscall, time_split
from exporter.kernel.btf import KernelBtf
from exporter.kernel.host import Formats
from exporter.kernel.isa import registry
from exporter.kernel.tracepoint import parse_format
from exporter.metrics import own
from exporter.model.records import CountingSince
from exporter.naming import lookup
from exporter.naming.lookup import Lookup
from exporter.naming.reasons import ReasonNames
from exporter.naming.vcpu import vcpu_index
from exporter.readings.observer import Observer
from exporter.service.attach import Attached
from exporter.service.collection import Collected, Collection, NothingCollected, Served
from exporter.service.ledger import Ledger, LedgerState
from exporter.service.scrape import Scraper
from tests.kernel.test_split import nap, pin, rival, spin
from tests.support.machine import TRAP, Machine, Vcpu
from tests.support.paths import FORMATS

LINGER = 1000
FORMATS_OF_6_12 = Formats(
    *(parse_format((FORMATS / f"aarch64-6.12/{name}.format").read_text()) for name in Formats._fields)
)


_LOOKUPS: list[Lookup] = []


@pytest.fixture(autouse=True)
def _no_worker_stays() -> Iterator[None]:
    yield
    while _LOOKUPS:
        _LOOKUPS.pop().close()


class Process:
    """One process of the exporter on the maps of a test's machine. The next process gets its ledger."""

    def __init__(self, machine: Machine, level: str, before: Process | None = None) -> None:
        self._machine = machine
        self._lookup = Lookup(Path("/proc"))
        self._config = Config(level=Level(level, level))
        self._collection: Collected = NothingCollected()
        self.scraper = Scraper(self._config, self._lookup, own.registry(self._status, "/proc"))
        self.ledger: Ledger = Ledger(before.ledger.files) if before else Ledger.create()
        self._before = self.ledger.read() if before else LedgerState()
        self.scraper.set_reasons(ReasonNames(), self._config, self._before, takeover=before is not None)
        _LOOKUPS.append(self._lookup)

    def _status(self) -> own.OwnStatus:
        return own.OwnStatus(self._collection.status, self.scraper.status)

    def begin(self) -> None:
        attached = Attached(
            self._machine.loaded,
            FORMATS_OF_6_12,
            CountingSince(1.0, 1),
            lambda: self._machine.now,
            ledger=self.ledger,
            before=self._before,
        )
        observer = Observer(self._lookup, ReasonNames().lookup, vcpu_ids=False)
        served = Served(self.scraper.served, self.scraper.carried_over)
        self._collection = Collection(attached, observer, LINGER, served, proc=Path("/proc"))
        self.scraper.use(self._collection)

    def collection(self) -> Collected:
        return self._collection

    def page(self) -> tuple[float, float]:
        """Wait for a page on which every vCPU has its names. Return the exits and the unserved exits on it."""
        text = self.text()
        return _sum("kvm_exits_total", text), _sum("kvm_exit_exporter_unserved_exits_total", text)

    def text(self) -> str:
        """Wait for a page on which every vCPU has its names."""
        deadline = time.monotonic() + 30
        while True:
            text = b"".join(self.scraper.page("", "").pieces).decode()
            if _sum("kvm_exit_exporter_lookups_pending", text) == 0:
                return text
            assert time.monotonic() < deadline

    def turn(self) -> None:
        """Do the work of the daemon's timer once."""
        self._collection.collect()
        self.scraper.tidy()


def _sum(name: str, text: str) -> float:
    return sum(map(float, re.findall(rf"^{name}(?:{{.*}})? (.*)$", text, re.MULTILINE)))


def _exits(machine: Machine, vcpu: Vcpu, number: int) -> None:
    def rounds() -> None:
        for _ in range(number):
            vcpu.arm_exit(machine.now, TRAP, 1)
            vcpu.entry(machine.now + 1)

    vcpu.call(rounds)


def _ends(machine: Machine, vcpu: Vcpu) -> None:
    vcpu.call(lambda: vcpu.dies(machine.now))


@pytest.fixture
def two(machine: Callable[..., Machine]) -> tuple[Machine, Vcpu, Vcpu]:
    """A machine with two vCPUs. One has 101 exits, the other 7."""
    made = machine(slots=7, cells=11)
    made.now = 10
    first, second = made.vcpu(), made.vcpu("CPU 1/KVM")
    _exits(made, first, 101)
    _exits(made, second, 7)
    return made, first, second


@pytest.mark.parametrize("ended", ["before the kill", "after it"])
def test_the_sum_of_a_vm_continues_without_a_scrape_before_linger_ends(
    two: tuple[Machine, Vcpu, Vcpu], ended: str
) -> None:
    """The linger of a served vCPU ends in the next process, before that process serves its first page."""
    machine, first, _ = two
    process = Process(machine, "vm")
    process.begin()
    assert process.page() == (108, 0)
    if ended == "before the kill":
        _ends(machine, first)
        assert process.page() == (108, 0)
    following = Process(machine, "vm", process)
    following.begin()
    if ended == "after it":
        following.turn()
        _ends(machine, first)
    following.turn()
    machine.now += 10 * LINGER
    following.turn()
    assert following.page() == (108, 0)


_SPLIT = (
    *("kvm_exit_wait_seconds_total", "kvm_exit_sleep_seconds_total", "kvm_userspace_exit_vmm_seconds_total"),
    *("kvm_userspace_exit_vmm_wait_seconds_total", "kvm_userspace_exit_vmm_sleep_seconds_total"),
)


def _parts(text: str) -> dict[str, float]:
    return {name: _sum(name, text) for name in _SPLIT}


def _waits(vcpu: Vcpu, text: str) -> str:
    (value,) = re.findall(rf'^kvm_vcpu_wait_seconds_total{{.*tid="{vcpu.tid}".*}} (.*)$', text, re.MULTILINE)
    return str(value)


def _waits_and_sleeps(vcpu: Vcpu) -> None:
    """Do both before and after a return to the VMM."""

    def run() -> None:
        vcpu.arm_exit(time.monotonic_ns(), TRAP, 0x24)
        for _ in range(2):
            spin(0.05)()
            nap()
            vcpu.userspace_exit(time.monotonic_ns(), 6)
        spin(0.05)()
        vcpu.entry(time.monotonic_ns())

    pin(vcpu)
    with rival():
        vcpu.call(run)


def test_the_parts_of_the_time_go_on(machine: Callable[..., Machine]) -> None:
    """Over kills, and after the end of a vCPU whose VM lives on."""
    defines = {**registry.BY_NAME["arm64"].replay_defines, **time_split.offsets(KernelBtf(Path("/sys")))}
    made = machine(slots=7, cells=11, time_split=True, defines=defines)
    assert not made.loaded.unsplit_reason
    made.now = 10
    first, second = made.vcpu(), made.vcpu("CPU 1/KVM")
    for vcpu in (first, second):
        _waits_and_sleeps(vcpu)
    process = Process(made, "vm")
    process.begin()
    text = process.text()
    parts, waits = _parts(text), _waits(second, text)
    assert 0 not in parts.values()
    process = Process(made, "vm", process)
    process.begin()
    text = process.text()
    assert (_parts(text), _waits(second, text)) == (parts, waits)
    process.turn()
    _ends(made, first)
    process.turn()
    made.now += 10 * LINGER
    process.turn()
    assert (_parts(process.text()), _waits(second, process.text())) == (parts, waits)
    for number in range(1, 4):
        process = Process(made, "vm", process)
        process.begin()
        text = process.text()
        assert (_parts(text), _waits(second, text)) == (parts, waits)

        def returns(start: int = number * 10**6) -> None:
            second.arm_exit(start, TRAP, 0x24)
            second.userspace_exit(start + 503, 6)
            second.entry(start + 503 + 1009)

        second.call(returns)
        process.turn()
        grown = _parts(process.text())
        vmm = "kvm_userspace_exit_vmm_seconds_total"
        assert round((grown[vmm] - parts[vmm]) * 1e9) == 1009
        assert all(grown[name] >= parts[name] for name in _SPLIT)
        parts, waits = grown, _waits(second, process.text())
        process.turn()


def test_a_page_before_the_first_collection_loses_no_count(two: tuple[Machine, Vcpu, Vcpu]) -> None:
    """The service answers a scrape before its first collection.

    The carried-over counts must survive several takeovers.
    """
    machine, first, second = two
    process = Process(machine, "vm")
    process.begin()
    _ends(machine, first)
    assert process.page() == (108, 0)
    machine.now += 10 * LINGER
    assert process.page() == (108, 0)
    process.turn()
    for number in range(1, 4):
        process = Process(machine, "vm", process)
        process.scraper.page("", "")
        process.begin()
        _exits(machine, second, 3)
        assert process.page() == (108 + 3 * number, 0)
        process.turn()


def test_the_first_page_has_every_vcpu(two: tuple[Machine, Vcpu, Vcpu], monkeypatch: pytest.MonkeyPatch) -> None:
    """The look-up of one vCPU is slow. Without this vCPU, the sum at level vm would fall and then rise again."""
    machine, _, second = two
    process = Process(machine, "vm")
    process.begin()
    assert process.page() == (108, 0)
    real = vcpu_index

    def late(comm: bytes, vcpu_id: int | None, pid: int, tid: int, proc: Path) -> str:
        if tid == second.tid:
            time.sleep(1)
        return real(comm, vcpu_id, pid, tid, proc)

    monkeypatch.setattr(lookup, "vcpu_index", late)
    following = Process(machine, "vm", process)
    following.begin()
    text = b"".join(following.scraper.page("", "").pieces).decode()
    assert _sum("kvm_exits_total", text) == 108


def test_exits_that_no_page_of_any_process_had_are_counted_as_unserved(two: tuple[Machine, Vcpu, Vcpu]) -> None:
    machine, first, second = two
    process = Process(machine, "vcpu")
    process.begin()
    assert process.page() == (108, 0)
    _exits(machine, first, 13)
    for vcpu in (first, second):
        _ends(machine, vcpu)
    process.turn()
    for _ in range(2):
        process = Process(machine, "vcpu", process)
        process.begin()
        process.turn()
    machine.now += 10 * LINGER
    process.turn()
    process.turn()
    assert process.page() == (0, 13)


def test_the_next_process_returns_the_slots_and_cells_that_the_kernel_refused(machine: Callable[..., Machine]) -> None:
    """The kernel refuses them in several collections. The ledger lists them for the next process."""
    under_test = machine(slots=3, cells=3)
    under_test.now = 10
    process = Process(under_test, "vcpu")
    process.begin()

    def refuse(stack: int, number: int) -> None:
        raise OSError(errno.EBUSY, "busy")

    for prime in (3, 5, 7):
        vcpu = under_test.vcpu()
        _exits(under_test, vcpu, prime)
        _ends(under_test, vcpu)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(syscall, "stack_push", refuse)
        for _ in range(4):
            process.turn()
    following = Process(under_test, "vcpu", process)
    following.begin()
    assert following.page() == (15, 0)
    for prime in (11, 13, 17):
        vcpu = under_test.vcpu()
        _exits(under_test, vcpu, prime)
        _ends(under_test, vcpu)
    assert following.page() == (15 + 41, 0)


def test_no_vcpu_is_lost_in_a_failed_collection(
    two: tuple[Machine, Vcpu, Vcpu], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The collection fails at its last step. A vCPU whose linger is over is then removed in the next collection."""
    machine, first, _ = two
    process = Process(machine, "vm")
    process.begin()
    _ends(machine, first)
    assert process.page() == (108, 0)
    machine.now += 10 * LINGER
    with monkeypatch.context() as patched:
        patched.setattr(syscall, "program_stats", lambda _: 1 / 0)
        process.turn()
    assert process.page() == (108, 0)
    process.turn()
    following = Process(machine, "vm", process)
    following.begin()
    assert following.page() == (108, 0)
    assert len(following.collection().observed().vcpus) == 1
