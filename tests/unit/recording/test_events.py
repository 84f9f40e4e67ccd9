"""Events are stored as bytes. They become contexts, with which a replay runs the programs again."""

from __future__ import annotations

import errno
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.kernel.program import LoadError
from exporter.kernel.tracepoint import TracepointFormat
from exporter.model.reason import Space
from exporter.recording.events import COUNTED, Event, Kind, encoder, pack, unpack
from tests.support.formats import read_format

EXIT = Event(Kind.EXIT, 43, 41, Space.ARM64_TRAP, 0x16, 7)
MMIO = Event(Kind.USERSPACE_EXIT, 43, 41, Space.USERSPACE, 6)
TIDS = st.integers(1, 1 << 22)
U32 = st.integers(0, (1 << 32) - 1)


@given(st.builds(Event, st.sampled_from(COUNTED), TIDS, TIDS, U32, st.integers(0, (1 << 64) - 1), U32, st.just(b"")))
def test_packed_events_are_unpacked(event: Event) -> None:
    assert len(pack(event)) == 32
    assert unpack(pack(event)) == event


def test_a_comm_is_kept_up_to_15_bytes() -> None:
    thread = Event(Kind.THREAD, 43, 41, comm=b"CPU 7/KVM")
    assert unpack(pack(thread)) == thread
    assert unpack(pack(thread._replace(comm=b"x" * 20))).comm == b"x" * 15


def test_events_become_contexts_of_arm64() -> None:
    context = encoder(read_format("aarch64-6.12", "kvm_exit"))
    assert context(EXIT) == struct.pack("=QQ72x", 2, 0x16)
    assert context(MMIO) == struct.pack("=qq72x", 6, 0)
    failed = MMIO._replace(space=Space.USERSPACE_ERRNO, code=errno.EINTR)
    assert context(failed) == struct.pack("=qq72x", 0, -errno.EINTR)
    for kind in (Kind.ENTRY, Kind.THREAD_END):
        assert context(Event(kind, 43, 41)) == bytes(88)
    with pytest.raises(ValueError, match=r"^an arm64 exit of space 2, code 22$"):
        context(EXIT._replace(space=Space.SVM))


def test_events_become_contexts_of_x86() -> None:
    context = encoder(read_format("x86_64-6.18", "kvm_exit"))
    assert context(EXIT._replace(space=Space.SVM, code=0x400)) == struct.pack("=QQQQ56x", 0x400, 0, Space.SVM, 7)
    assert context(MMIO) == struct.pack("=qq72x", 6, 0)


def test_an_unknown_format_of_kvm_exit_is_refused() -> None:
    with pytest.raises(LoadError, match="neither arm64's nor arm64_openeuler's nor x86's"):
        encoder(TracepointFormat("kvm_exit", {}, {}))
