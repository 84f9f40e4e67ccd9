"""Run `record` while the exporter runs, then `replay`. The result must equal the guest's own counts."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import workload
from checks import Checks
from vms import ExactGuest, identity

FILE = Path("/tmp/exact.kvmrec")
START_SECONDS, END_SECONDS = 120, 60
LOOK_SECONDS = 2  # `record` looks up the name of a VM while the VM runs
COMMAND = [sys.executable, "-m", "exporter"]


def compare(checks: Checks) -> None:
    """Record one guest with known counts from its start to its end. The recording must leave out the other guest."""
    recording = subprocess.Popen([*COMMAND, "record", FILE, "--vm=recorded"], stderr=subprocess.PIPE, text=True)
    try:
        deadline = time.monotonic() + START_SECONDS
        while not FILE.exists():  # record creates the file when its programs are attached
            if recording.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError("record did not begin")
            time.sleep(0.1)
        time.sleep(0.5)
        guest = ExactGuest(identity("recorded"), *workload.TOP)
        other = ExactGuest(identity("not recorded"), {workload.SIMPLEST: 23})
        for each in (guest, other):
            each.wait_parked()
        time.sleep(LOOK_SECONDS)
        for each in (guest, other):
            each.end()
        recording.send_signal(signal.SIGINT)
        _, said = recording.communicate(timeout=END_SECONDS)
    finally:
        recording.kill()
    print(said, end="", flush=True)
    checks.equal("record: exit status", recording.returncode, 0)
    checks.true("record: nothing lost, one VM", " 0 lost, 1 VM, " in said, said)
    replayed = subprocess.run([*COMMAND, "replay", FILE, "--json"], capture_output=True, text=True, check=False)
    checks.equal("replay: exit status", (replayed.returncode, replayed.stderr), (0, ""))
    _equal(checks, guest, json.loads(replayed.stdout))


def _equal(checks: Checks, guest: ExactGuest, document: dict[str, Any]) -> None:
    vcpus = {vcpu["tid"]: vcpu for vcpu in document["vcpus"]}
    checks.equal("replay: the vCPUs", sorted(vcpus), sorted(vcpu.tid for vcpu in guest.vcpus))
    for vcpu in guest.vcpus:
        found = vcpus[vcpu.tid]
        who = {name: found[name] for name in ("pid", "comm", "vm", "uuid", "vcpu", "alive")}
        name = f"CPU {vcpu.index}/KVM"
        expected = {"pid": guest.pid, "comm": name, "vm": "recorded", "uuid": guest.identity.uuid, "alive": False}
        checks.equal(f"replay: identity of {name}", who, {**expected, "vcpu": str(vcpu.index)})
        for kind, counts in (("exit", vcpu.exits), ("userspace", vcpu.userspace)):
            exits = {each["reason"]: each["exits"] for each in found["reasons"] if each["kind"] == kind}
            for reason, count in counts.items():
                checks.equal(f"replay: {name}, {reason}", exits.get(reason), count)
