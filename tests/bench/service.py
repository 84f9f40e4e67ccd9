"""Measure the running service: time from start to the first scrape, and memory, idle and with 10,000 histograms.

The histograms come from a generated recording of 1,000 vCPUs in five VMs, which the demo replays. All of them change
every two seconds.
"""

from __future__ import annotations

import re
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

from exporter.model.reason import Space
from exporter.model.vm import Vm
from exporter.recording.events import Event, Kind
from tests.recordings import from_ftrace

VMS, VCPUS, REASONS, SCRAPES = 5, 200, 10, 1000
PORT = 19939

_ACCEPT = (
    "text/plain",
    "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited",
)


def _made_up(file: Path) -> None:
    """Write a recording in which every vCPU exits once for each reason within two seconds."""
    identities = [Vm(vm + 1, f"vm-{vm}", "", "qemu") for vm in range(VMS)]
    events = []
    for vm in identities:
        for vcpu in range(VCPUS):
            tid = 10_000 + vm.pid * VCPUS + vcpu
            events.append((10**9, Event(Kind.THREAD, tid, vm.pid, comm=f"CPU {vcpu}/KVM".encode())))
            for reason in range(REASONS):
                ns = 10**9 + reason * 190_000_000 + (tid * 37) % 150_000 * 1000
                events.append((ns, Event(Kind.EXIT, tid, vm.pid, Space.ARM64_TRAP, reason)))
                events.append((ns + (40 + tid % 1000) * 1000, Event(Kind.ENTRY, tid, vm.pid)))
    from_ftrace.write(file, from_ftrace.header(from_ftrace.DEMO), identities, events)


def _start(*arguments: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "exporter", *arguments, f"--web.listen-address=127.0.0.1:{PORT}"],
        stderr=subprocess.DEVNULL,
    )


def _scrape(accept: str = _ACCEPT[0]) -> bytes:
    request = urllib.request.Request(f"http://127.0.0.1:{PORT}/metrics", headers={"Accept": accept})
    with urllib.request.urlopen(request, timeout=30) as answer:
        return bytes(answer.read())


def _wait_for(what: bytes) -> float:
    start = time.monotonic()
    while True:
        try:
            if what in _scrape():
                return time.monotonic() - start
        except (urllib.error.URLError, ConnectionError):
            pass
        time.sleep(0.005)


def _memory(pid: int) -> tuple[float, float]:
    """Return the resident memory in MB, and the part of it that is mapped BPF maps."""
    status = Path(f"/proc/{pid}/status").read_text()
    maps = re.findall(r"bpf-map\n(?:.*\n)*?Rss: +(\d+)", Path(f"/proc/{pid}/smaps").read_text())
    resident = re.search(r"VmRSS:\s+(\d+)", status)
    assert resident
    return int(resident[1]) / 1024, sum(map(int, maps)) / 1024


def _cpu(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / 100


def main() -> None:
    """Measure and print the tables."""
    starts = []
    for _ in range(5):
        service = _start("serve")
        starts.append(_wait_for(b"kvm_exit_exporter_up 1.0"))
        idle = _memory(service.pid)
        service.terminate()
        service.wait()
    print(f"Start to the first page with kvm_exit_exporter_up 1: {statistics.median(starts):.2f} s (median of 5).\n")
    with tempfile.TemporaryDirectory() as name:
        file = Path(name) / "made-up.kvmrec"
        _made_up(file)
        service = _start("demo", f"--recording={file}")
        wanted = VMS * VCPUS * REASONS
        while _scrape_count() < wanted:
            time.sleep(0.2)
        first = _memory(service.pid)
        before = _cpu(service.pid)
        for number in range(SCRAPES):
            _scrape(_ACCEPT[number % 2])
        cpu = (_cpu(service.pid) - before) / SCRAPES
        last = _memory(service.pid)
        service.terminate()
        service.wait()
    print("| resident memory | MB | of it mapped BPF maps |")
    print("|---|---:|---:|")
    for label, (resident, maps) in (
        ("idle, attached", idle),
        (f"{wanted:,} histograms, first scrapes", first),
        (f"{wanted:,} histograms, after {SCRAPES:,} scrapes, text and protobuf in turn", last),
    ):
        print(f"| {label} | {resident:.0f} | {maps:.0f} |")
    print(f"\nCPU time of one of these scrapes, with collection, rendering and HTTP: {cpu * 1e3:.0f} ms.")


def _scrape_count() -> int:
    try:
        return _scrape().count(b"kvm_exit_duration_seconds_count{")
    except (urllib.error.URLError, ConnectionError):
        return 0


if __name__ == "__main__":
    main()
