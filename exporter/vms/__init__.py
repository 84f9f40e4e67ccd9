"""Which VM a process is, and which vCPU a thread: from /proc, in the background."""

from __future__ import annotations

from exporter.vms.identity import Vm, identify, start_time
from exporter.vms.lookup import Lookup, Vcpu
from exporter.vms.vcpu import vcpu_index

__all__ = ["Lookup", "Vcpu", "Vm", "identify", "start_time", "vcpu_index"]
