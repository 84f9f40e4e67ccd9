"""The daemon ends the check of kvm_exit that the loader could not finish, and stops if the reasons were wrong."""

from __future__ import annotations

import logging
import os

import pytest

from exporter.kernel import host
from exporter.kernel.exit_check import DESCRIPTORS, Compared, ExitCheck
from exporter.kernel.program import Loaded
from exporter.model.records import CountingSince
from exporter.service.attach import TakeoverSource
from exporter.service.handover import EarlierProgram, StoredDescriptors
from exporter.service.ledger import Ledger
from exporter.service.systemd import Systemd
from tests.support.paths import FORMATS

FORMAT_TEXTS = {
    name: (FORMATS / f"aarch64-6.12/{name}.format").read_text() for name in ("kvm_exit", "kvm_userspace_exit")
}


class _FakeCheck(ExitCheck):
    """Its descriptors are the ends of pipes for writing. The other end shows whether they are open: numbers do not,
    because another thread of the tests may get the number of a closed descriptor."""

    compared = Compared(0, 0, 0, 0)

    def __init__(self) -> None:
        pipes = [os.pipe() for _ in DESCRIPTORS]
        super().__init__({name: writer for name, (_, writer) in zip(DESCRIPTORS, pipes)})
        self._readers = [reader for reader, _ in pipes]
        for reader in self._readers:
            os.set_blocking(reader, False)

    def is_detached(self) -> bool:
        """Return whether all descriptors are closed."""
        try:
            return {os.read(reader, 1) for reader in self._readers} == {b""}
        except BlockingIOError:
            return False

    def read(self) -> Compared:
        return self.compared


class _Store(Systemd):
    """Remembers what was removed from systemd's store."""

    def __init__(self) -> None:
        super().__init__({}, os.getpid())
        self.forgotten: list[str] = []

    def forget(self, name: str) -> None:
        self.forgotten.append(name)


@pytest.fixture
def check() -> _FakeCheck:
    return _FakeCheck()


@pytest.fixture
def store() -> _Store:
    return _Store()


@pytest.fixture
def source(check: _FakeCheck, store: _Store) -> TakeoverSource:
    loaded = Loaded({}, {}, {}, {}, formats=FORMAT_TEXTS, check=check)
    earlier = EarlierProgram(loaded, host.parsed(FORMAT_TEXTS), CountingSince(1.0, 1), Ledger.create())
    stored = StoredDescriptors(frozenset({"state", "map.slots"}), {})
    made = TakeoverSource(earlier, stored, store, lambda: 0)
    made.receive(0)
    return made


CHECKED = [f"check.{name}" for name in DESCRIPTORS]


def test_an_open_check_goes_on(source: TakeoverSource, check: _FakeCheck, store: _Store) -> None:
    check.compared = Compared(7, 0, 0, 0)
    assert source.broken() == ""
    assert not check.is_detached()
    assert store.forgotten == []
    check.close()


def test_an_agreeing_check_is_detached(
    source: TakeoverSource, check: _FakeCheck, store: _Store, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    check.compared = Compared(11, 0, 0, 0)
    assert source.broken() == ""
    assert [record.message for record in caplog.records] == ["kvm_exit checked"]
    assert check.is_detached()
    assert store.forgotten == CHECKED
    check.compared = Compared(11, 99, 0, 0)
    assert source.broken() == ""  # the check is over


def test_wrong_reasons_end_the_service_and_its_counts(source: TakeoverSource, check: _FakeCheck, store: _Store) -> None:
    check.compared = Compared(1, 8, 0x30, 0xC)
    assert source.broken() == (
        "kvm_exit was read from the wrong place (an exit was read as 0x30, and its record has 0xc): start again, and "
        "the classic tracepoint is read"
    )
    assert not check
    assert store.forgotten == [*CHECKED, "map.slots", "state"]
