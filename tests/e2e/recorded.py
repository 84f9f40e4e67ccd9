"""Run `record` while the exporter runs, then `replay`. The result must equal the guest's own counts."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import workload
from checks import Checks
from compare import Comparison
from page import Page
from vms import ExactGuest, identity

FILE = Path("/tmp/exact.kvmrec")
START_SECONDS, END_SECONDS = 120, 60
LOOK_SECONDS = 2  # `record` looks up the name of a VM while the VM runs
# See skipped.py.
LOST = r" (?:0 lost|(\d+) lost \(userspace_exit \1\): the kernel skipped \1), 1 VM, "
COMMAND = [sys.executable, "-m", "exporter"]


def compare(comparison: Comparison) -> None:
    """Record one guest with known counts from its start to its end. The recording must leave out the other guest."""
    checks = comparison.checks
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
    lost = re.search(LOST, said)
    checks.true("record: nothing lost but what the kernel skipped, one VM", bool(lost), said)
    replayed = subprocess.run([*COMMAND, "replay", FILE, "--json"], capture_output=True, text=True, check=False)
    checks.equal("replay: exit status", (replayed.returncode, replayed.stderr), (0, ""))
    lacking = _equal(checks, guest, json.loads(replayed.stdout))
    # The kernel may have skipped returns of the other guest, too.
    skipped = int(lost[1] or 0) if lost else 0
    others = sum(sum(vcpu.userspace.values()) for vcpu in other.vcpus)
    checks.between("replay: returns to the VMM that are lacking", max(0, skipped - others), lacking, skipped)
    comparison.counted([guest, other], Page.settled())


def _equal(checks: Checks, guest: ExactGuest, document: dict[str, Any]) -> int:
    """Compare the replay with the guest; return how many returns to the VMM it lacks."""
    lacking = 0
    vcpus = {vcpu["tid"]: vcpu for vcpu in document["vcpus"]}
    checks.equal("replay: the vCPUs", sorted(vcpus), sorted(vcpu.tid for vcpu in guest.vcpus))
    for vcpu in guest.vcpus:
        found = vcpus[vcpu.tid]
        who = {name: found[name] for name in ("pid", "comm", "vm", "uuid", "vcpu", "alive")}
        name = f"CPU {vcpu.index}/KVM"
        expected = {"pid": guest.pid, "comm": name, "vm": "recorded", "uuid": guest.identity.uuid, "alive": False}
        checks.equal(f"replay: identity of {name}", who, {**expected, "vcpu": str(vcpu.index)})
        by_kind: dict[str, dict[str, int]] = {"exit": {}, "userspace": {}}
        for each in found["reasons"]:
            by_kind[each["kind"]][each["reason"]] = each["exits"]
        for reason, count in vcpu.exits.items():
            checks.equal(f"replay: {name}, {reason}", by_kind["exit"].get(reason), count)
        for reason, count in vcpu.userspace.items():
            replayed = by_kind["userspace"].get(reason, 0)
            checks.between(f"replay: {name}, {reason}", 0, replayed, count)
            lacking += count - replayed
    return lacking
