"""The observer looks up names and makes readings of snapshots, for `top`, `record` and the service."""

from __future__ import annotations

from exporter.model.reason import NameReason
from exporter.model.records import Snapshot
from exporter.naming.lookup import Lookup
from exporter.naming.vcpu import nameable
from exporter.readings.reading import Reading, reading_of


class Observer:
    """Looks up the vCPUs of snapshots, and makes readings of them.

    `vcpu_ids` is True if kvm_exit carries the kernel's vcpu_id.
    """

    def __init__(self, lookup: Lookup, name: NameReason, *, vcpu_ids: bool) -> None:
        self.lookup = lookup
        self.name = name
        self._vcpu_ids = vcpu_ids

    def look_up(self, snapshot: Snapshot) -> None:
        """Start the lookup of each vCPU that is new in this snapshot."""
        for record in snapshot.vcpus:
            if nameable(record, vcpu_ids=self._vcpu_ids):
                self.lookup.submit(record.key, record.comm, record.vcpu_id)

    def reading(self, snapshot: Snapshot, *, since_ns: int, replay: bool) -> Reading:
        """Return the snapshot with the names known so far. `since_ns`: when counting began, on the program's clock."""
        return reading_of(snapshot, self.lookup.get, self.name, since_ns=since_ns, replay=replay)
