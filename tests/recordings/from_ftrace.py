"""An ftrace text of KVM events into a recording: how the demo's was made, and how a made-up one is made.

    python3 -m tests.recordings.from_ftrace FOLDER FILE

The folder holds
  trace.txt.gz               /sys/kernel/tracing/trace with record-tgid set, gzipped
  vms.txt                    per VM its command line, then `TGID TID COMM` of each thread
  kernel.txt                 release and machine
  kvm_exit.format, kvm_userspace_exit.format
"""

from __future__ import annotations

import gzip
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from exporter import __version__
from exporter.kernel.tracepoint import TracepointFormat, parse_format
from exporter.model.reason import Space
from exporter.model.vm import Vm
from exporter.naming.vcpu import index_from_comm
from exporter.naming.vmm import registry
from exporter.recording import blocks
from exporter.recording.events import Event, Kind, pack
from exporter.recording.writer import RecordingHeader, ThreadEntry, Writer, create

DEMO = Path(__file__).parent / "aarch64-three-vms"

_LINE = re.compile(
    r"\s*(?P<comm>.{1,16})-(?P<tid>\d+)\s+(?:\(\s*(?P<tgid>\d+)\)\s+)?\[\d+\]\s+\S+\s+"
    r"(?P<seconds>\d+)\.(?P<micros>\d{6}): (?P<event>kvm_exit|kvm_entry|kvm_userspace_exit): (?P<text>.*)"
)
_ARM64_EXIT = re.compile(r"(\w+): HSR_EC: 0x([0-9a-f]+) ")
_USERSPACE_EXIT = re.compile(r"reason (\S+) \((\d+)\)")


class TracedVm(NamedTuple):
    """A VM of vms.txt: its command line, and the comm of each thread by tid."""

    pid: int
    argv: list[str]
    comms: dict[int, str]

    def identity(self) -> Vm:
        """The identity that the exporter reads from this command line."""
        vmm, _ = registry.recognise([Path(self.argv[0]).name], self.argv)
        assert vmm
        stated = vmm.read_identity(self.argv)
        return Vm(self.pid, stated.name, stated.uuid, vmm.label)


def vms(folder: Path) -> list[TracedVm]:
    """Read vms.txt: a line that begins with a number is a thread of the VM above it."""
    found: list[TracedVm] = []
    for line in (folder / "vms.txt").read_text().splitlines():
        thread = re.fullmatch(r"(\d+) (\d+) (.+)", line)
        if thread:
            found[-1] = found[-1]._replace(pid=int(thread[1]))
            found[-1].comms[int(thread[2])] = thread[3]
        elif line.strip():
            found.append(TracedVm(0, line.split(), {}))
    return found


def events(folder: Path, kvm_exit: TracepointFormat) -> Iterator[tuple[int, Event]]:
    """Read the events of the threads in vms.txt, each thread announced before its first."""
    threads = {tid: (vm.pid, comm) for vm in vms(folder) for tid, comm in vm.comms.items()}
    rets = {name: code for code, name in kvm_exit.symbols["REC->ret"].items()}
    announced = set()
    with gzip.open(folder / "trace.txt.gz", "rt") as lines:
        for line in lines:
            match = _LINE.fullmatch(line.rstrip("\n"))
            if not match or int(match["tid"]) not in threads:
                continue
            ns, tid = int(match["seconds"]) * 10**9 + int(match["micros"]) * 1000, int(match["tid"])
            tgid, comm = threads[tid]
            if tid not in announced:
                announced.add(tid)
                yield ns, Event(Kind.THREAD, tid, tgid, comm=comm.encode())
            yield ns, _event(match["event"], match["text"], tid, tgid, rets)


def _event(event: str, text: str, tid: int, tgid: int, rets: dict[str, int]) -> Event:
    if event == "kvm_entry":
        return Event(Kind.ENTRY, tid, tgid)
    if event == "kvm_userspace_exit":
        found = _USERSPACE_EXIT.match(text)
        assert found, text
        failed = found[1] in ("restart", "error")
        space = Space.USERSPACE_ERRNO if failed else Space.USERSPACE
        return Event(Kind.USERSPACE_EXIT, tid, tgid, space, int(found[2]))
    found = _ARM64_EXIT.match(text)
    assert found, text
    if found[1] == "TRAP":
        return Event(Kind.EXIT, tid, tgid, Space.ARM64_TRAP, int(found[2], 16))
    return Event(Kind.EXIT, tid, tgid, Space.ARM64_RET, rets[found[1]])


def write(path: Path, header: RecordingHeader, identities: list[Vm], happened: list[tuple[int, Event]]) -> None:
    """Write a recording of these events, whose threads belong to the VM with their TGID."""
    with create(path, force=True) as out:
        writer = Writer(out, header)
        threads = []
        for start in range(0, len(happened), blocks.MAX_EVENTS):
            part = happened[start : start + blocks.MAX_EVENTS]
            table: dict[bytes, int] = {}
            numbers = [table.setdefault(pack(event), len(table)) for _, event in part]
            writer.events(list(table), numbers, [ns for ns, _ in part])
        for _, event in happened:
            if event.kind == Kind.THREAD:
                vm = next(number for number, vm in enumerate(identities) if vm.pid == event.tgid)
                comm = event.comm.decode()
                threads.append(ThreadEntry(event.tid, vm, comm, index_from_comm(event.comm, None)))
        writer.close(identities, threads, "the trace's end")


def header(folder: Path) -> RecordingHeader:
    """Where the trace comes from."""
    release, machine = (folder / "kernel.txt").read_text().split()
    formats = ((folder / f"{name}.format").read_text() for name in ("kvm_exit", "kvm_userspace_exit"))
    return RecordingHeader(release, machine, __version__, None, 0, *formats)


def convert(folder: Path, path: Path) -> None:
    """Convert a folder."""
    kvm_exit = parse_format((folder / "kvm_exit.format").read_text())
    identities = [vm.identity() for vm in vms(folder)]
    write(path, header(folder), identities, list(events(folder, kvm_exit)))


if __name__ == "__main__":
    convert(Path(sys.argv[1]), Path(sys.argv[2]))
