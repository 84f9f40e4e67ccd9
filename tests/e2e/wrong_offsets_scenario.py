"""Runs inside the machine, on amd64: a BTF whose offset of vcpu_svm.vmcb is wrong, so reasons are read elsewhere.

On a host without VMs, the exporter finds out at the first exits, and ends. Beside a running VM, it finds out while it
starts, and reads the classic tracepoint.
"""

from __future__ import annotations

import struct
import subprocess
import sys
import threading
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
sys.path.insert(0, str(Path(__file__).resolve().parent))

import workload
from checks import Checks
from page import Page
from service import Service
from vms import ExactGuest, Vcpu, identity

from exporter.kernel.btf import Btf, _Kind

BTF = Path("/sys/kernel/btf")
AHEAD = 16
"""This many bytes behind the pointer, vcpu_svm has the physical address of the VMCB."""
WRONG = "kvm_exit was read from the wrong place (an exit was read as 0x"
CLASSIC = 'kvm_exit="classic tracepoint: an exit was read as 0x'


def _falsify() -> None:
    """Cover the BTF of kvm_amd by a copy with the wrong offset."""
    data = bytearray((BTF / "kvm_amd").read_bytes())
    btf = Btf(bytes(data), Btf((BTF / "vmlinux").read_bytes()))
    (number,) = btf._find("vcpu_svm", _Kind.STRUCT)
    found = btf._type(number)
    member = struct.Struct("=III")
    for place in range(found.place, found.place + found.items * member.size, member.size):
        name, kind, bits = member.unpack_from(data, place)
        if btf._text(name) == "vmcb":
            member.pack_into(data, place, name, kind, bits + 8 * AHEAD)
    copy = Path("/tmp/kvm_amd.btf")
    copy.write_bytes(data)
    subprocess.run(["mount", "--bind", copy, BTF / "kvm_amd"], check=True)


def _round(guest: ExactGuest) -> list[Vcpu]:
    """Let the guest do its work once more; return its counts of this round."""
    before = guest.vcpus
    guest.again()
    guest.wait_parked()
    return [now.since(then) for now, then in zip(guest.vcpus, before)]


def _served(guest: ExactGuest, page: Page) -> list[dict[str, float]]:
    return [page.by("reason", "kvm_exits_total", tid=vcpu.tid) for vcpu in guest.vcpus]


def _without_vm(checks: Checks) -> ExactGuest:
    service = Service("collect_interval: 1s\n")
    checks.true("the raw tracepoint is attached", 'kvm_exit="raw tracepoint"' in service.log(), service.log())
    guest = ExactGuest(identity("wrong"), workload.KICKED)
    guest.wait_parked()
    checks.equal("exit status", service.process.wait(60), 1)
    errors = service.errors()
    checks.true("one error", len(errors) == 1 and WRONG in errors[0], errors)
    return guest


def _beside_vm(checks: Checks, guest: ExactGuest) -> None:
    up = threading.Event()

    def work() -> None:
        while not up.is_set():
            _round(guest)

    working = threading.Thread(target=work)
    working.start()
    try:
        service = Service()
    finally:
        up.set()
        working.join()
    checks.true("the log names the classic tracepoint", CLASSIC in service.log(), service.log())
    before = _served(guest, Page.settled())
    did = _round(guest)
    for vcpu, then, now in zip(did, before, _served(guest, Page.settled())):
        grown = {reason: now[reason] - then.get(reason, 0) for reason in vcpu.exits}
        checks.equal(f"vCPU {vcpu.index}", grown, vcpu.exits)
        print(f"vCPU {vcpu.index}: {grown}", flush=True)
    guest.end()
    checks.equal("exit status beside a VM", service.stop(), 0)
    checks.equal("errors in the log", service.errors(), [])


def main() -> int:
    """Run the scenario; return the exit status."""
    checks = Checks()
    _falsify()
    _beside_vm(checks, _without_vm(checks))
    print(checks.summary(), flush=True)
    return int(bool(checks.failures))


if __name__ == "__main__":
    sys.exit(main())
