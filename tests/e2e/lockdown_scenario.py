"""Runs inside the machine: a kernel that lets no BPF program read its memory.

On amd64, the reason of an exit is then read from the classic tracepoint. The lockdown begins after KVM's tracepoints
exist: a kernel that boots with it has no tracepoints at all. It ends only with the machine, so this is a scenario of
its own.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
sys.path.insert(0, str(Path(__file__).resolve().parent))

import workload
from checks import Checks
from page import Page
from service import Service
from vms import ExactGuest, identity

from tests.support.perf import PerfCounter

SECURITY = Path("/sys/kernel/security")
CLASSIC = 'kvm_exit="classic tracepoint: the kernel refused the BPF program kvm_exit"'


def _lock_down() -> str:
    """Begin the lockdown; return the modes, with the present one in brackets."""
    if not (SECURITY / "lockdown").exists():
        subprocess.run(["mount", "-t", "securityfs", "none", SECURITY], check=True)
    (SECURITY / "lockdown").write_text("confidentiality")
    return (SECURITY / "lockdown").read_text().strip()


def main() -> int:
    """Run the scenario; return the exit status."""
    checks = Checks()
    perf = PerfCounter("kvm/kvm_exit")
    checks.equal("lockdown", _lock_down(), "none integrity [confidentiality]")
    service = Service()
    checks.true("the log names the classic tracepoint", CLASSIC in service.log(), service.log())
    before = perf.count()
    guest = ExactGuest(identity("locked"), workload.SLEEPER, workload.KICKED)
    guest.wait_parked()
    page = Page.settled()
    for vcpu in guest.vcpus:
        served = page.by("reason", "kvm_exits_total", tid=vcpu.tid)
        checks.equal(f"vCPU {vcpu.index}", {reason: served.get(reason) for reason in vcpu.exits}, vcpu.exits)
        print(f"vCPU {vcpu.index}: {served}", flush=True)
        labels = {found["vcpu"] for found, _ in page.select("kvm_exits_total", tid=vcpu.tid)}
        checks.equal(f"vCPU {vcpu.index}: labels", labels, {str(vcpu.index)})
    exits = sum(value for _, value in page.select("kvm_exits_total"))
    checks.equal("events that perf saw", perf.count() - before, exits)
    guest.end()
    checks.equal("exit status", service.stop(), 0)
    checks.equal("errors in the log", service.errors(), [])
    print(checks.summary(), flush=True)
    return int(bool(checks.failures))


if __name__ == "__main__":
    sys.exit(main())
