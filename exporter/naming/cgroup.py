"""Reads the cgroup paths of VMs. libvirt's have the domain's name, or a thread's vCPU. The kubelet's have the pod."""

from __future__ import annotations

import re
from typing import NamedTuple

from exporter.naming.vmm.registry import VMMS

_LABELS = {vmm.libvirt_driver: vmm.label for vmm in VMMS if vmm.libvirt_driver}
_DRIVER = "(?P<driver>" + "|".join(map(re.escape, _LABELS)) + ")"
#: With systemd, src/util/virsystemd.c: machine-<driver>\x2d<id>\x2d<name>.scope. The text after the first dash is
#: escaped. Before libvirt 1.3 the id is missing.
_SCOPE = re.compile(r"machine-(?P<machine>.+)\.scope")
_MACHINE = re.compile(_DRIVER + r"-(?:[0-9]+-)?(?P<name>.+)", re.DOTALL)
#: Without systemd, src/util/vircgroup.c: <partition>/<name>.libvirt-<driver>. Newer versions write <driver>-<id>-<name>
#: in place of <name>.
_PARTITION = re.compile(r"(?P<name>.+)\.libvirt-" + _DRIVER)
#: pkg/kubelet/cm/cgroup_manager_linux.go: pod<uid>, or with systemd kubepods-<class>-pod<uid>.slice, with "_" for "-".
_POD = re.compile(
    r"(?:kubepods-(?:[a-z]+-)?)?pod(?P<uid>[0-9a-f]{8}(?:[-_][0-9a-f]{4}){3}[-_][0-9a-f]{12})(?:\.slice)?"
)
_ESCAPE = re.compile(r"\\x([0-9a-fA-F]{2})")
_VCPU = re.compile(r"vcpu(?P<index>0|[1-9][0-9]{0,8})")


class Domain(NamedTuple):
    """A libvirt domain: its name, which libvirt may have cut to 64 characters, and its VMM's label."""

    name: str
    vmm: str


def libvirt_domain(paths: list[str]) -> Domain | None:
    """Return the domain of the first cgroup path in libvirt's form; None if no path has this form."""
    for path in paths:
        for part in path.split("/"):
            scope, partition = _SCOPE.fullmatch(part), _PARTITION.fullmatch(part)
            if scope:
                machine = _MACHINE.fullmatch(_unescape(scope["machine"]))
                if machine:
                    return Domain(machine["name"], _LABELS[machine["driver"]])
            elif partition:
                machine = re.fullmatch(rf"{partition['driver']}-[0-9]+-(?P<name>.+)", partition["name"])
                return Domain((machine or partition)["name"], _LABELS[partition["driver"]])
    return None


def pod(paths: list[str]) -> str:
    """Return "pod-UID" for the Kubernetes pod of a process; "" for other cgroups.

    KubeVirt switches off libvirt's cgroups, so that the pod is the only trace of the VM there.
    """
    for path in paths:
        for part in path.split("/"):
            found = _POD.fullmatch(part)
            if found:
                return f"pod-{found['uid'].replace('_', '-')}"
    return ""


def vcpu_of_thread(paths: list[str]) -> str:
    """Return the vCPU's index from a thread's cgroup, `.../vcpu3` or `.../libvirt/vcpu3`; "" for other cgroups."""
    for path in paths:
        match = _VCPU.fullmatch(path.rpartition("/")[2])
        if match:
            return match["index"]
    return ""


def _unescape(text: str) -> str:
    r"""Decode the escapes \xNN of systemd, see systemd.unit(5)."""
    pieces = _ESCAPE.split(text)
    raw = b"".join(
        bytes.fromhex(piece) if index % 2 else piece.encode(errors="replace") for index, piece in enumerate(pieces)
    )
    return raw.decode(errors="replace")
