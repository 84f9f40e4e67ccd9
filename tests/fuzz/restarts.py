"""The fuzz targets of a restart: what systemd passes, and what an earlier process may have forged before it ended."""

from __future__ import annotations

import json
import os
import struct

from exporter.metrics.carried import CarriedOver
from exporter.model.buckets import BUCKETS, COUNTS
from exporter.model.vm import Vcpu
from exporter.service import ledger as ledgers
from exporter.service.handover import HandoverError, StoredDescriptors
from exporter.service.ledger import LedgerError
from exporter.service.systemd import Systemd

_NAMES = ("map.slots", "program.kvm_exit", "attachment.kvm_exit", "ledger.0", "ledger.1")
_VERSION = {"limits.vcpus": 4096}


def _memory(data: bytes) -> int:
    memory = os.memfd_create("fuzz")
    os.write(memory, data)
    return memory


def state(data: bytes) -> None:
    """Read the state that describes the stored descriptors.

    The result is a program with descriptors of the store, or an error that leaves all of them to their owner.
    """
    passed = [("state", _memory(data)), *((name, _memory(b"")) for name in _NAMES)]
    stored = StoredDescriptors.of(passed)
    try:
        earlier = stored.take_over(_VERSION)
    except HandoverError:
        assert sorted(stored.descriptors.values()) == sorted(fd for _, fd in passed)
    else:
        assert json.loads(data)["version"]["limits.vcpus"] == 4096
        assert earlier.formats.kvm_exit.fields
        assert earlier.since.ns >= 0
        taken = [*earlier.loaded.maps.values(), *earlier.loaded.programs.values()]
        assert {*taken, *earlier.loaded.attachments.values()} <= {fd for _, fd in passed}
        earlier.loaded.close()
        earlier.ledger.close()
    stored.close()
    for _, fd in passed:
        try:
            os.fstat(fd)
        except OSError:
            continue
        raise AssertionError(f"descriptor {fd} is open")


def ledger(data: bytes) -> None:
    """Read the ledger of an earlier process: a JSON text, and empty buckets for as many cells as it has.

    The result is counts of the right types, or an error.
    """
    cells = data.count(str(COUNTS.size).encode())
    header = struct.pack("=8s5Q", b"KVMEXIT\1", 1, len(data), len(data) + cells * COUNTS.size, 0, 0)
    files = ledgers.Ledger([_memory(header + data + bytes(cells * COUNTS.size)), _memory(b"")])
    try:
        read = files.read()
    except LedgerError:
        return
    finally:
        files.close()
    for each in read.handover.ended:
        assert set(map(type, (*each.record.key, *each.record.totals, each.expires_ns))) == {int}
        assert isinstance(each.record.comm, bytes)
        for cell in each.record.cells:
            assert set(map(type, cell[:4])) == {int}
            assert len(cell.buckets) == COUNTS.size
    for stack, number in read.handover.free_entries:
        assert isinstance(stack, str)
        assert number >= 0
    for _, vcpu in read.names:
        assert isinstance(vcpu, Vcpu)
        assert set(map(type, (vcpu.vm.name, vcpu.vm.uuid, vcpu.vm.vmm, vcpu.index))) == {str}
    for each_series in read.carried.series:
        assert set(map(type, each_series[2])) <= {str}
        assert len(each_series[5]) == BUCKETS
    assert CarriedOver.of(read.carried) == read.carried


def listen_fds(data: bytes) -> None:
    """Read LISTEN_FDS, LISTEN_PID and LISTEN_FDNAMES, which LISTEN_PID says are for process 7.

    Every descriptor is passed once, and none is lost if two have the same name.
    """
    values = [part.decode(errors="surrogateescape") for part in data.split(b"\xff\xff", 2)]
    environ = dict(zip(("LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES"), values))
    systemd = Systemd(environ, 7)
    assert environ == {}
    numbers = [fd for _, fd in systemd.passed]
    assert numbers == sorted(set(numbers))
    assert set(numbers) <= set(range(3, 3 + 1024))
    names = values[2].split(":") if len(values) > 2 else [""]
    fake = [(name, 3 + number) for number, name in enumerate(names)]
    stored = StoredDescriptors.of(fake)
    kept = [*stored.descriptors.values(), *stored.repeated]
    assert len(kept) == len(set(kept))
    assert {fd for name, fd in fake if name in stored.names} == set(kept)
